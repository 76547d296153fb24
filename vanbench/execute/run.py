"""The main job: a sweep in, a run directory out. Yields what happens; whoever calls it decides what to show."""

from __future__ import annotations

import contextlib
import datetime
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vanbench.analysis.ratio import Estimate, rate, ratio, relative_half_width
from vanbench.errors import UserError, WorkerError
from vanbench.execute.child import WORKER, ChildFailure, Starter, starter
from vanbench.execute.plan import Contest, expected_seconds, share_turns, usable_s
from vanbench.execute.round import GROUP_SIZE, Done, Full, Lost, Phase, Turn, play, start_order
from vanbench.record.environment import Environment
from vanbench.record.record import Failed, Measured, Record, Skipped
from vanbench.record.store import Store, read_run
from vanbench.record.task import Measure, Named, Names, Probe, Probed, Said, Vet, Vetted
from vanbench.report.write import write_report, write_table
from vanbench.spec.cell import Cell
from vanbench.spec.sampling import Sampling, stop_reason
from vanbench.spec.sweep import AXES, Sweep, parse_sweep

__all__ = ["Event", "Finished", "Opened", "Saved", "default_place", "measure", "preview", "probe", "run_quietly"]


class Opened(NamedTuple):
    """The run directory is there. cells: how many there are; seconds: about how long it may take."""

    path: Path
    environment: Environment
    cells: int
    seconds: float


class Saved(NamedTuple):
    """A round of a contest is on disk. done: the share of the run that is over, by time."""

    path: Path
    round: int
    done: float
    seconds_left: float


class Finished(NamedTuple):
    """Nothing is left to measure."""

    path: Path
    records: tuple[Record, ...]


Event = Opened | Phase | Turn | Saved | Finished


class Preview(NamedTuple):
    """What a sweep would do: each cell with the reason why it would not be measured, and the expected seconds."""

    sweep: Sweep
    environment: Environment
    cells: list[tuple[Cell, str | None]]
    seconds: float


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vanbench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _ask_once(nursery: Starter, task: Probe | Names) -> Probed | Named:
    child = nursery.fork(task, type(task).__name__.lower())
    try:
        answer = child.receive(120.0)
    except ChildFailure as failure:
        if failure.kind == "user":
            raise UserError(str(failure)) from None
        raise WorkerError(f"the worker could not answer: {failure}") from None
    child.leave()
    assert isinstance(answer, (Probed, Named))
    return answer


def probe(device: str = "auto", worker: Sequence[str] = WORKER) -> Environment:
    """What this machine is, asked of a fresh worker. Raises UserError for a device that is not here."""
    with _scratch() as scratch, starter(scratch, worker) as nursery:
        return _environment(nursery, device)


def ask_names(task: Names, worker: Sequence[str] = WORKER) -> Named:
    """Which models can be built, asked of a fresh worker."""
    with _scratch() as scratch, starter(scratch, worker) as nursery:
        answer = _ask_once(nursery, task)
        assert isinstance(answer, Named)
        return answer


def _environment(nursery: Starter, device: str) -> Environment:
    answer = _ask_once(nursery, Probe(device=device))
    assert isinstance(answer, Probed)
    return answer.environment


def _check_names(nursery: Starter, sweep: Sweep) -> None:
    answer = _ask_once(nursery, Names(models=tuple(str(model) for model in sweep.axes["models"])))
    assert isinstance(answer, Named)
    for problem in answer.problems.values():
        raise UserError(problem)


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _impossible(sweep: Sweep, cell: Cell, environment: Environment) -> str | None:
    """Why a cell is not measured, as far as it can be known before a worker is asked."""
    return sweep.excluded(cell) or environment.unsupported.get(cell.precision)


def _contests(sweep: Sweep, cells: Iterable[Cell], impossible: Collection[Cell] = ()) -> list[Contest]:
    """The cells to measure, grouped by what is compared, the reference first; a failed one is replaced for turns."""
    groups: dict[tuple[str, int, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.contest, []).append(cell)
    contests = []
    for contest, members in groups.items():
        reference = sweep.reference_of(contest, impossible)
        if reference is None or reference not in members:
            reference = members[0]
        contests.append(Contest(reference, [reference, *(cell for cell in members if cell != reference)]))
    return contests


def preview(sweep: Sweep, worker: Sequence[str] = WORKER) -> Preview:
    """What `--list` shows: nothing is measured."""
    with _scratch() as scratch, starter(scratch, worker) as nursery:
        environment = _environment(nursery, sweep.device)
        resolved = sweep.resolved(_kind(environment.device))
        _check_names(nursery, resolved)
    cells = [(cell, _impossible(resolved, cell, environment)) for cell in resolved.cells()]
    impossible = {cell for cell, reason in cells if reason is not None}
    contests = _contests(resolved, [cell for cell, reason in cells if reason is None], impossible)
    seconds = expected_seconds([contest.cells for contest in contests], resolved.plan)
    return Preview(resolved, environment, cells, seconds)


def default_place(environment: Environment, sweep: Sweep) -> Path:
    """results/<machine>/<UTC time>-<sweep name>, below the current directory."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in sweep.name) or "run"
    return Path("results") / environment.machine / f"{now}-{name}"


def measure(
    sweep: Sweep | None,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    overrides: Mapping[str, float | int] | None = None,
    retry_failed: bool = False,
    worker: Sequence[str] = WORKER,
) -> Iterator[Event]:
    """Measure a sweep into a new directory, or continue the run in `resume`.

    overrides: sampling fields that a resumed run replaces (only those that do not change what a sample is).
    Every round is on disk before the next begins. Closing the generator kills the workers and keeps what is saved.
    """
    started = time.monotonic()
    if resume is not None:
        read_run(resume)  # a wrong directory is said at once, not after a worker's start
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(_scratch())
        nursery: Starter | None = stack.enter_context(starter(scratch, worker))
        assert nursery is not None
        nursery_s = time.monotonic() - started
        if resume is not None:
            store = stack.enter_context(_reopened(resume, nursery, overrides or {}))
        else:
            assert sweep is not None
            environment = _environment(nursery, sweep.device)
            resolved = sweep.resolved(_kind(environment.device))
            _check_names(nursery, resolved)
            place = out or default_place(environment, resolved)
            store = stack.enter_context(Store.create(place, resolved, environment))
        sampling = msgspec.structs.replace(store.sweep.plan, **dict(overrides or {}))
        contests = _prepare(store, retry_failed)
        write_table(store.path, store.sweep, store.environment, store.in_order())
        yield Opened(
            store.path,
            store.environment,
            sum(len(contest.cells) for contest in contests),
            expected_seconds([contest.cells for contest in contests], sampling),
        )
        deadline = started + usable_s(sampling.budget_s)
        while active := [contest for contest in contests if contest.stopped is None]:
            wanted = min(contest.least_s for contest in active) + (0.0 if nursery else nursery_s)
            if deadline - time.monotonic() <= wanted:
                for contest in active:
                    contest.stopped = "budget"
                break
            if nursery is None:
                # Fresh each round: the children of one nursery share an address layout.
                start = time.monotonic()
                nursery = stack.enter_context(starter(scratch, worker))
                nursery_s = time.monotonic() - start
            for contest in active:
                left = deadline - time.monotonic()
                if left <= contest.least_s:
                    contest.stopped = "budget"
                    continue
                turns_s = share_turns(contest, active, sampling, left, nursery_s)
                yield from _play_contest(store, nursery, contest, sampling, turns_s)
                contest.stopped = _why_stop(store, contest, sampling)
                write_table(store.path, store.sweep, store.environment, store.in_order())
                used = time.monotonic() - started
                yield Saved(
                    store.path, contest.rounds, min(1.0, used / sampling.budget_s), max(0.0, sampling.budget_s - used)
                )
            nursery.close()
            nursery = None
        _conclude(store, contests)
        write_table(store.path, store.sweep, store.environment, store.in_order())
        write_report(store.path)
        yield Finished(store.path, store.in_order())


@contextlib.contextmanager
def _reopened(path: Path, nursery: Starter, overrides: Mapping[str, float | int]) -> Iterator[Store]:
    for field in overrides:
        if field not in Sampling.FREE:
            raise UserError(f"--resume cannot change {field}: a sample would mean something else; start a new run")
    before = read_run(path)
    for record in before.records:
        for field in record.sampling.__struct_fields__:
            then, now = getattr(record.sampling, field), getattr(before.sweep.plan, field)
            if field not in Sampling.FREE and then != now:
                raise UserError(f"{path}: {record.cell.slug} was sampled with {field} = {then}, sweep.toml says {now}")
    with Store.resume(path, _environment(nursery, before.environment.device)) as store:
        _check_names(nursery, store.sweep)
        yield store


def _prepare(store: Store, retry_failed: bool) -> list[Contest]:
    """Write the rows that will not be measured, and group the rest into contests, with what an earlier part gave."""
    todo = []
    for cell in store.sweep.cells():
        record = store.blank(cell)
        if record.key in store.records and not _open(record, retry_failed):
            continue
        reason = _impossible(store.sweep, cell, store.environment)
        if reason is not None:
            store.save(msgspec.structs.replace(record, outcome=Skipped(reason=reason)))
            continue
        if isinstance(record.outcome, Failed):
            store.save(msgspec.structs.replace(record, outcome=Measured()))
        todo.append(cell)
    skipped = {
        record.cell
        for record in store.records.values()
        if isinstance(record.outcome, Skipped) and not record.outcome.resumable
    }
    contests = _contests(store.sweep, todo, skipped)
    for contest in contests:
        contest.number = max((_number(r.round) for c in contest.cells for r in store.blank(c).rounds), default=0)
        fresh = [cell for cell in contest.cells if not store.blank(cell).rounds]
        if fresh and len(fresh) < len(contest.cells):
            # Cells that were not reached or are tried again: what is measured already need not be, but the reference.
            contest.cells = [cell for cell in contest.cells if cell == contest.reference or cell in fresh]
        contest.rounds = _fewest_rounds(store, contest)
        contest.alone = {c for c in contest.cells if any(r.alone for r in store.blank(c).rounds)}
        if contest.rounds:
            contest.stopped = _why_stop(store, contest, store.sweep.plan)
    return contests


def _open(record: Record, retry_failed: bool) -> bool:
    """Whether a run that is continued measures this cell (further)."""
    if isinstance(record.outcome, Failed):
        return retry_failed
    if isinstance(record.outcome, Skipped):
        return record.outcome.resumable
    return True


def _fewest_rounds(store: Store, contest: Contest) -> int:
    """Rounds of the cell that has the fewest; a reference that sat in several groups of a round had one round."""
    return min((len({_number(r.round) for r in store.blank(cell).rounds}) for cell in contest.cells), default=0)


def _number(name: str) -> int:
    """The round's number in its name, `r<number>.<contest>`."""
    return int(name.partition(".")[0][1:])


def _play_contest(
    store: Store, nursery: Starter, contest: Contest, sampling: Sampling, turns_s: float
) -> Iterator[Phase | Turn]:
    """One round of a contest: its groups one after the other, the reference in each, then the cells that go alone."""
    start = time.monotonic()
    yield from _vet(store, nursery, contest, sampling)
    contest.vetting_s, start = time.monotonic() - start, time.monotonic()
    if not contest.cells:
        contest.stopped = "failed"
        return
    contest.number += 1
    in_turns = 0.0
    together = [cell for cell in contest.cells if cell not in contest.alone]
    others = [cell for cell in together if cell != contest.reference]
    groups = max(1, -(-len(others) // (GROUP_SIZE - 1)))
    alone = [cell for cell in contest.cells if cell in contest.alone]
    part, lost = 0, set[Cell]()
    laps_s: list[float] = []
    while together or alone:
        if together:
            head = [] if contest.reference not in together else [contest.reference]
            group = head + others[: GROUP_SIZE - len(head)]
        else:
            group = [alone.pop(0)]
        solo = not together
        name = f"r{contest.number}.{'-'.join(map(str, contest.reference.contest))}.{part}"
        part += 1
        tasks = [_task(store, sampling, cell) for cell in group]
        started: Sequence[Cell] = group
        seed = hash_seed(sampling.seed, name)
        begun: float | None = None
        turns = 0
        order = start_order(len(group), sampling.seed, contest.number)
        for event in play(nursery, tasks, name=name, turns_s=turns_s / groups, seed=seed, order=order, alone=solo):
            if isinstance(event, Full):
                started = event.started
            elif isinstance(event, Done):
                _keep(store, event, sampling)
            elif isinstance(event, Lost):
                if event.kind == "out_of_memory" and not solo and event.company > 0:
                    contest.alone.add(event.cell)
                    alone.append(event.cell)
                else:
                    _lose(store, event, sampling)
                    lost.add(event.cell)
            else:
                if isinstance(event, Turn):
                    begun = begun if begun is not None else time.monotonic()
                    turns += 1
                    last_turn = time.monotonic()
                yield event
        if begun is not None and turns > 1:
            in_turns += last_turn - begun
            laps_s.append((last_turn - begun) / (turns - 1) * len(group))
        if not solo:
            others = [cell for cell in others if cell not in started]
            if len(group) > 1 and len(started) == 1:
                # No room for company: what is left goes one by one.
                contest.alone.update(others)
                alone += others
                others = []
            together = others if not others else [contest.reference, *others]
            if contest.reference in lost or contest.reference in contest.alone:
                together = others
    contest.cells = [cell for cell in contest.cells if cell not in lost]
    contest.start_s = max(0.0, time.monotonic() - start - in_turns)
    contest.lap_s = max(laps_s) if laps_s else contest.lap_s
    contest.rounds = _fewest_rounds(store, contest)
    if not contest.cells:
        contest.stopped = "failed"


def _vet(store: Store, nursery: Starter, contest: Contest, sampling: Sampling) -> Iterator[Phase]:
    """Vet the contest's cells once a run, one after the other; what fails here is failed and plays no round."""
    if contest.vetted:
        return
    contest.vetted = True
    for cell in list(contest.cells):
        child = nursery.fork(Vet(cell=cell, device=store.environment.device, seed=sampling.seed), cell.slug)
        try:
            while isinstance(answer := child.receive(sampling.timeout_s), Said):
                yield Phase(cell, answer.phase)
            if not isinstance(answer, Vetted):
                raise ChildFailure("protocol", f"expected vetted, got {type(answer).__name__}")
        except ChildFailure as failure:
            child.kill()
            _lose(store, Lost(cell, failure.kind, str(failure), 0), sampling)
            contest.cells.remove(cell)
            continue
        child.leave()


def hash_seed(seed: int, name: str) -> int:
    """A seed for one round, the same on every machine."""
    import zlib

    return zlib.crc32(f"{seed}/{name}".encode())


def _task(store: Store, sampling: Sampling, cell: Cell) -> Measure:
    record = store.blank(cell)
    return Measure(
        cell=cell,
        device=store.environment.device,
        sampling=sampling,
        seed=sampling.seed,
        first=not record.rounds,
        energy=not record.rounds,
    )


def _keep(store: Store, done: Done, sampling: Sampling) -> None:
    record = store.blank(done.cell)
    store.save(
        msgspec.structs.replace(
            record,
            sampling=sampling,
            outcome=Measured(),
            facts=record.facts or done.facts,
            rounds=(*record.rounds, done.round),
        )
    )


def _lose(store: Store, lost: Lost, sampling: Sampling) -> None:
    record = store.blank(lost.cell)
    outcome: Skipped | Failed = Skipped(reason=lost.message)
    if lost.kind != "skipped":
        outcome = Failed(kind=lost.kind, message=lost.message, rerun=rerun_command(lost.cell, store.environment))
    store.save(msgspec.structs.replace(record, sampling=sampling, outcome=outcome))


def rerun_command(cell: Cell, environment: Environment) -> str:
    """The command that measures one cell alone."""
    import shlex

    words = ["vanbench", "run", "--models", cell.model]
    for axis, field in AXES.items():
        # Batch size and memory format have several values by default: alone means saying them always.
        if field != "model" and (field in cell.asked or field in ("batch_size", "memory_format", "precision")):
            words += [f"--{axis}", str(getattr(cell, field))]
    words += ["--device", environment.device]
    return shlex.join(words)


def _why_stop(store: Store, contest: Contest, sampling: Sampling) -> str | None:
    """The stop rule, over the widest interval among the contest's cells."""
    cells = [cell for cell in contest.cells if store.blank(cell).rounds]
    if not cells:
        return contest.stopped or "failed"
    rounds = {cell: store.blank(cell).rounds for cell in cells}
    base = rounds.get(contest.reference)
    widths = []
    for cell in cells:
        estimate: Estimate | None
        if cell == contest.reference or base is None or cell in contest.alone:
            if len(cells) > 1 and cell == contest.reference:
                continue
            estimate = rate(rounds[cell])
        else:
            estimate = ratio(rounds[cell], base)
        widths.append(relative_half_width(estimate) if estimate is not None else None)
    known = [width for width in widths if width is not None]
    widest = max(known) if known and len(known) == len(widths) else None
    return stop_reason(sampling, contest.rounds, widest)


def _conclude(store: Store, contests: Iterable[Contest]) -> None:
    """Write down why each cell's rounds ended, and which cells the budget did not reach."""
    for contest in contests:
        for cell in contest.cells:
            record = store.blank(cell)
            if isinstance(record.outcome, Measured):
                outcome: Measured | Skipped = Measured(stopped=contest.stopped or "")
            elif not record.rounds:
                outcome = Skipped(reason="budget")
            else:
                continue
            if outcome != record.outcome:
                store.save(msgspec.structs.replace(record, outcome=outcome))


def run_quietly(models: Sequence[str], *, out: str | Path | None = None, **axes: Any) -> Path:
    """The main job without a word: for `vanbench.run`. Returns the run directory."""
    words = {name.replace("_", "-"): value for name, value in axes.items()}
    allowed = {*AXES, "device", "reference", "target", "rounds", "budget", "timeout", "seed"}
    for word in words:
        if word not in allowed:
            from vanbench.errors import unknown

            raise unknown("argument", word.replace("-", "_"), [name.replace("-", "_") for name in sorted(allowed)])
    sweep = parse_sweep({}, {"models": list(models), **words})
    path = Path()
    for event in measure(sweep, out=Path(out) if out is not None else None):
        if isinstance(event, Finished):
            path = event.path
    return path
