"""One contest: vet its cells, play a round of it, keep or lose each cell, and say when to stop."""

from __future__ import annotations

import shlex
import time
import zlib
from collections.abc import Iterator, Sequence

import msgspec

from vanbench.analysis.ratio import Estimate, rate, ratio, relative_half_width
from vanbench.execute.child import ChildFailure
from vanbench.execute.plan import Contest
from vanbench.execute.round import GROUP_SIZE, Done, Full, Lost, Phase, Turn, hear, play, start_order
from vanbench.execute.starter import Starter
from vanbench.record.environment import Environment
from vanbench.record.record import Failed, Measured, Skipped
from vanbench.record.store import Store
from vanbench.record.task import Measure, Vet, Vetted
from vanbench.spec.cell import Cell
from vanbench.spec.sampling import Sampling, stop_reason
from vanbench.spec.sweep import AXES

__all__ = ["fewest_rounds", "hash_seed", "play_contest", "rerun_command", "round_number", "why_stop"]


def fewest_rounds(store: Store, contest: Contest) -> int:
    """Rounds of the cell that has the fewest; a reference that sat in several groups of a round had one round."""
    return min((len({round_number(r.round) for r in store.blank(cell).rounds}) for cell in contest.cells), default=0)


def round_number(name: str) -> int:
    """The round's number in its name, `r<number>.<contest>`."""
    return int(name.partition(".")[0][1:])


def play_contest(
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
        tasks = [_task(store, sampling, cell, first=cell not in contest.played) for cell in group]
        started: Sequence[Cell] = group
        seed = hash_seed(sampling.seed, name)
        begun: float | None = None
        turns = 0
        order = start_order(len(group), sampling.seed, contest.number)
        starters = [nursery] * len(tasks)
        for event in play(starters, tasks, name=name, turns_s=turns_s / groups, seed=seed, order=order, alone=solo):
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
        contest.played.update(started)
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
    contest.rounds = fewest_rounds(store, contest)
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
            yield from hear(child, Vetted, cell, sampling.timeout_s)
        except ChildFailure as failure:
            child.kill()
            _lose(store, Lost(0, cell, failure.kind, str(failure), 0), sampling)
            contest.cells.remove(cell)
            continue
        child.leave()


def hash_seed(seed: int, name: str) -> int:
    """A seed for one round, the same on every machine."""
    return zlib.crc32(f"{seed}/{name}".encode())


def _task(store: Store, sampling: Sampling, cell: Cell, *, first: bool) -> Measure:
    record = store.blank(cell)
    return Measure(
        cell=cell,
        device=store.environment.device,
        sampling=sampling,
        seed=sampling.seed,
        first=first,
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
    words = ["vanbench", "run", "--models", cell.model]
    for axis, field in AXES.items():
        # Batch size and memory format have several values by default: alone means saying them always.
        if field != "model" and (field in cell.asked or field in ("batch_size", "memory_format", "precision")):
            words += [f"--{axis}", str(getattr(cell, field))]
    words += ["--device", environment.device]
    return shlex.join(words)


def why_stop(store: Store, contest: Contest, sampling: Sampling) -> str | None:
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
