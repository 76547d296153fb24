"""The main job: a sweep in, a run directory out. Yields what happens; whoever calls it decides what to show."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vanbench.errors import UserError
from vanbench.execute.ceilings import LOOK_AGAIN_S, Looking, book_for, look_again
from vanbench.execute.contest import fewest_rounds, play_contest, round_number, why_stop
from vanbench.execute.plan import Contest, expected_seconds, share_turns, usable_s
from vanbench.execute.probe import check_names, environment_of, scratch
from vanbench.execute.round import Phase, Turn
from vanbench.execute.starter import WORKER, Starter, starter
from vanbench.record.environment import Environment
from vanbench.record.record import Failed, Measured, Record, Skipped
from vanbench.record.store import Store, read_run
from vanbench.report.write import write_report, write_table
from vanbench.spec.cell import Cell
from vanbench.spec.sampling import Sampling
from vanbench.spec.sweep import AXES, SAMPLING_KEYS, Sweep, parse_sweep

__all__ = ["Event", "Finished", "Opened", "Saved", "default_place", "measure", "preview", "run_quietly"]


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


Event = Opened | Phase | Turn | Saved | Looking | Finished


class Preview(NamedTuple):
    """What a sweep would do: each cell with the reason why it would not be measured, and the expected seconds."""

    sweep: Sweep
    environment: Environment
    cells: list[tuple[Cell, str | None]]
    seconds: float


def _models(sweep: Sweep) -> list[str]:
    return [str(model) for model in sweep.axes["models"]]


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _impossible(sweep: Sweep, cell: Cell, environment: Environment) -> str | None:
    """Why a cell is not measured, as far as it can be known before a worker is asked."""
    return sweep.excluded(cell) or environment.why_not(cell)


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
    with scratch() as folder, starter(folder, worker) as nursery:
        environment = environment_of(nursery, sweep.device)
        resolved = sweep.resolved(_kind(environment.device))
        check_names(nursery, _models(resolved))
    cells = [(cell, _impossible(resolved, cell, environment)) for cell in resolved.cells()]
    impossible = {cell for cell, reason in cells if reason is not None}
    contests = _contests(resolved, [cell for cell, reason in cells if reason is None], impossible)
    seconds = expected_seconds([contest.cells for contest in contests], resolved.plan)
    return Preview(resolved, environment, cells, seconds)


def default_place(machine: str, word: str) -> Path:
    """results/<machine>/<UTC time>-<word>, below the current directory. word: the sweep's name, or the verb's."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in word) or "run"
    return Path("results") / machine / f"{now}-{name}"


def measure(
    sweep: Sweep | None,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    overrides: Mapping[str, float | int] | None = None,
    retry_failed: bool = False,
    ceilings: Path | None = None,
    worker: Sequence[str] = WORKER,
) -> Iterator[Event]:
    """Measure a sweep into a new directory, or continue the run in `resume`.

    overrides: sampling fields that a resumed run replaces (only those that do not change what a sample is).
    ceilings: a file of this machine's ceilings; else the newest in the user's cache, if there are any.
    Every round is on disk before the next begins. Closing the generator kills the workers and keeps what is saved.
    """
    started = time.monotonic()
    if resume is not None:
        read_run(resume)  # a wrong directory is said at once, not after a worker's start
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        nursery: Starter | None = stack.enter_context(starter(folder, worker))
        assert nursery is not None
        nursery_s = time.monotonic() - started
        if resume is not None:
            store = stack.enter_context(_reopened(resume, nursery, overrides or {}))
        else:
            assert sweep is not None
            environment = environment_of(nursery, sweep.device)
            resolved = sweep.resolved(_kind(environment.device))
            check_names(nursery, _models(resolved))
            book = book_for(environment, ceilings)
            place = out or default_place(environment.machine, resolved.name)
            store = stack.enter_context(Store.create(place, resolved, environment))
            if book.entries:
                store.save_book(book)
        sampling = msgspec.structs.replace(store.sweep.plan, **dict(overrides or {}))
        contests = _prepare(store, sampling, retry_failed)
        _write_table(store)
        yield Opened(
            store.path,
            store.environment,
            sum(len(contest.cells) for contest in contests),
            expected_seconds([contest.cells for contest in contests], sampling),
        )
        looks = LOOK_AGAIN_S + nursery_s if store.book.entries and contests else 0.0
        deadline = started + usable_s(sampling.budget_s) - looks
        while active := [contest for contest in contests if contest.stopped is None]:
            wanted = min(contest.least_s for contest in active) + (0.0 if nursery else nursery_s)
            if deadline - time.monotonic() <= wanted:
                for contest in active:
                    contest.stopped = "budget"
                break
            if nursery is None:
                # Fresh each round: the children of one nursery share an address layout.
                start = time.monotonic()
                nursery = stack.enter_context(starter(folder, worker))
                nursery_s = time.monotonic() - start
            for contest in active:
                left = deadline - time.monotonic()
                if left <= contest.least_s:
                    contest.stopped = "budget"
                    continue
                turns_s = share_turns(contest, active, sampling, left, nursery_s)
                yield from play_contest(store, nursery, contest, sampling, turns_s)
                contest.stopped = why_stop(store, contest, sampling)
                _write_table(store)
                used = time.monotonic() - started
                yield Saved(
                    store.path, contest.rounds, min(1.0, used / sampling.budget_s), max(0.0, sampling.budget_s - used)
                )
            nursery.close()
            nursery = None
        if looks:
            yield from _look_again(store, stack.enter_context(starter(folder, worker)), sampling)
        _conclude(store, contests)
        _write_table(store)
        write_report(store.path)
        yield Finished(store.path, store.in_order())


def _write_table(store: Store) -> None:
    write_table(store.path, store.sweep, store.environment, store.in_order(), store.book)


def _look_again(store: Store, nursery: Starter, sampling: Sampling) -> Iterator[Looking]:
    """See once more whether the roofs stand where they stood: the machine wanders, and a roof is the best it did."""
    threads = {record.facts.threads for record in store.records.values() if record.facts is not None}
    for event in look_again(nursery, store.environment, store.book, sorted(threads), sampling.seed):
        if isinstance(event, Looking):
            yield event
        else:
            store.save_book(event)
    nursery.close()


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
    with Store.resume(path, environment_of(nursery, before.environment.device)) as store:
        check_names(nursery, _models(store.sweep))
        if not store.book.entries:
            book = book_for(store.environment, None)
            if book.entries:
                store.save_book(book)
        yield store


def _prepare(store: Store, sampling: Sampling, retry_failed: bool) -> list[Contest]:
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
        contest.number = max((round_number(r.round) for c in contest.cells for r in store.blank(c).rounds), default=0)
        fresh = [cell for cell in contest.cells if not store.blank(cell).rounds]
        if fresh and len(fresh) < len(contest.cells):
            # Cells that were not reached or are tried again: what is measured already need not be, but the reference.
            contest.cells = [cell for cell in contest.cells if cell == contest.reference or cell in fresh]
        contest.rounds = fewest_rounds(store, contest)
        contest.alone = {c for c in contest.cells if any(r.alone for r in store.blank(c).rounds)}
        if contest.rounds:
            contest.stopped = why_stop(store, contest, sampling)
    return contests


def _open(record: Record, retry_failed: bool) -> bool:
    """Whether a run that is continued measures this cell (further)."""
    if isinstance(record.outcome, Failed):
        return retry_failed
    if isinstance(record.outcome, Skipped):
        return record.outcome.resumable
    return True


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


def run_quietly(
    models: Sequence[str], *, out: str | Path | None = None, ceilings: str | Path | None = None, **axes: Any
) -> Path:
    """The main job without a word: for `vanbench.run`. Returns the run directory."""
    words = {name.replace("_", "-"): value for name, value in axes.items()}
    allowed = {*AXES, *SAMPLING_KEYS, "device", "reference", "rounds", "ceilings", "out"}
    for word in words:
        if word not in allowed:
            from vanbench.errors import unknown

            raise unknown("argument", word.replace("-", "_"), [name.replace("-", "_") for name in sorted(allowed)])
    sweep = parse_sweep({}, {"models": list(models), **words})
    path = Path()
    held = Path(ceilings) if ceilings is not None else None
    for event in measure(sweep, out=Path(out) if out is not None else None, ceilings=held):
        if isinstance(event, Finished):
            path = event.path
    return path
