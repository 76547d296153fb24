"""The gate's job: two arms in, a record with a verdict out. Yields what happens; whoever calls it decides what to show.

A block is a round of three: base, head, and a twin of the base. Everything else is what surrounds it: where each arm's
code comes from, what can be told without timing, and a second pass for what regressed in the first.
"""

from __future__ import annotations

import contextlib
import datetime
import random
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vanbench.analysis.gate import Judgement
from vanbench.analysis.gate_outcome import Outcome, outcome, playing, suspects, timed
from vanbench.errors import UserError, WorkerError
from vanbench.execute.arms import Source, nurseries, sources
from vanbench.execute.contest import hash_seed
from vanbench.execute.probe import environment_of, scratch
from vanbench.execute.rehearsal import check_support, paired, rehearse, with_trees
from vanbench.execute.round import Done, Lost, Phase, Turn, play, start_order
from vanbench.execute.run import default_place
from vanbench.execute.starter import WORKER, Starter
from vanbench.record.folder import claim_folder
from vanbench.record.gate import ROLES, ArmSeen, Block, GateRecord, Loss, PairRecord, save_gate
from vanbench.record.task import Measure
from vanbench.spec.arm import Arm, pairs
from vanbench.spec.rules import Rules
from vanbench.spec.sampling import Sampling
from vanbench.spec.sweep import DEFAULT_SAMPLING

__all__ = ["Ended", "Event", "Opened", "Played", "gate"]


class Opened(NamedTuple):
    """The record is begun. cells: that will be timed, others are settled already."""

    path: Path
    record: GateRecord
    cells: int


class Played(NamedTuple):
    """A block of a pair is on disk. judgement: if it brought one. second: whether it is of the confirming pass."""

    slug: str
    number: int
    second: bool
    judgement: Judgement | None


class Ended(NamedTuple):
    """The verdict."""

    path: Path
    record: GateRecord
    outcome: Outcome


Event = Opened | Phase | Turn | Played | Ended


class _Draft:
    """The record as it grows, written after each change."""

    def __init__(self, path: Path, record: GateRecord) -> None:
        self.path = path
        self.record = record

    def change(self, **fields: Any) -> None:
        self.record = msgspec.structs.replace(self.record, **fields)
        save_gate(self.path / "gate.json", self.record)

    @contextlib.contextmanager
    def marked_if_interrupted(self) -> Iterator[None]:
        try:
            yield
        except (KeyboardInterrupt, GeneratorExit):
            self.change(stopped="interrupted")
            raise

    def put(self, index: int, pair: PairRecord) -> None:
        changed = list(self.record.pairs)
        changed[index] = pair
        self.change(pairs=tuple(changed))

    def begin_pass(self, index: int) -> None:
        pair = self.record.pairs[index]
        self.put(index, msgspec.structs.replace(pair, passes=(*pair.passes, ())))

    def add(self, index: int, number: int, block: Block) -> None:
        pair = self.record.pairs[index]
        passes = list(pair.passes)
        passes[number] = (*passes[number], block)
        self.put(index, msgspec.structs.replace(pair, passes=tuple(passes)))


def gate(
    base: Arm,
    head: Arm,
    flags: Mapping[str, Any],
    *,
    rules: Rules | None = None,
    turns_s: float | None = None,
    budget_s: float = 1800.0,
    seed: int = 0,
    timeout_s: float = 300.0,
    out: Path | None = None,
    worker: Sequence[str] = WORKER,
) -> Iterator[Event]:
    """Compare two arms on the cells of `flags` (axes as typed, and device), block by block, until each has a verdict.

    turns_s: seconds of turns in a block; by default 4, or eight laps of slower cells.

    Every block is on disk before the next begins; closing the generator kills the workers and keeps what is saved.
    Raises UserError for what was asked wrong. What goes wrong in an arm is a verdict, not an exception.
    """
    deadline = time.monotonic() + budget_s
    cells = pairs(base, head, flags)
    rules = rules or Rules()
    if out is not None:
        claim_folder(out)
    with scratch() as folder, sources(base, head, folder, worker) as both:
        seen = [ArmSeen(asked=arm, commit=source.commit) for arm, source in zip((base, head), both, strict=True)]
        with contextlib.ExitStack() as stack:
            problem, starters = "", list[Starter]()
            try:
                starters = stack.enter_context(nurseries(both, seed))
                seen = [
                    msgspec.structs.replace(arm, environment=environment_of(start, str(flags.get("device") or "auto")))
                    for arm, start in zip(seen, starters, strict=False)
                ]
                check_support(seen, cells)
                members = [paired(pair, starters) for pair in cells]
            except WorkerError as error:
                problem = str(error)
                members = [PairRecord(base=pair.base, head=pair.head) for pair in cells]
            draft = _begin(out, seen, rules, _sampling(seen, seed, timeout_s), members, problem)
            with draft.marked_if_interrupted():
                if not problem:
                    yield from _rehearse_all(draft, both, starters, turns_s)
                yield Opened(draft.path, draft.record, len(timed(draft.record)) if not problem else 0)
        with draft.marked_if_interrupted():
            if not problem:
                yield from _play_passes(draft, both, seed, deadline)
        final = outcome(draft.record)
        draft.change(verdicts={each.slug: str(each.verdict) for each in final.pairs})
        yield Ended(draft.path, draft.record, final)


def _play_passes(draft: _Draft, both: tuple[Source, Source], seed: int, deadline: float) -> Iterator[Event]:
    """The first pass of all pairs, and a second of those that it calls for."""
    yield from _pass(draft, both, 0, timed(draft.record), seed, deadline)
    again = suspects(draft.record)
    if again and not draft.record.stopped:
        for index in again:
            draft.begin_pass(index)
        yield from _pass(draft, both, 1, again, seed, deadline)


def _begin(
    out: Path | None,
    seen: Sequence[ArmSeen],
    rules: Rules,
    sampling: Sampling,
    members: Sequence[PairRecord],
    problem: str,
) -> _Draft:
    if out is None:
        # Where no arm could be started, nobody has said what this machine is.
        machines = [arm.environment.machine for arm in seen if arm.environment is not None]
        out = default_place(machines[0] if machines else "unknown-machine", "gate")
        claim_folder(out)
    record = GateRecord(
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        base=seen[0],
        head=seen[1],
        rules=rules,
        sampling=sampling,
        pairs=tuple(members),
        problem=problem,
    )
    draft = _Draft(out, record)
    draft.change()
    return draft


def _sampling(seen: Sequence[ArmSeen], seed: int, timeout_s: float) -> Sampling:
    kinds = {arm.environment.device.partition(":")[0] for arm in seen if arm.environment is not None}
    if len(kinds) > 1:
        raise UserError("the arms are on different kinds of device: give --device")
    fields = {**DEFAULT_SAMPLING[kinds.pop() if kinds else "cpu"], "seed": seed, "timeout_s": timeout_s}
    return msgspec.convert(fields, Sampling)


def _rehearse_all(
    draft: _Draft, both: tuple[Source, Source], starters: Sequence[Starter], turns_s: float | None
) -> Iterator[Phase]:
    """Everything that can be told without timing; a pair in which something is amiss is not timed."""
    loaded: list[set[str]] = [set(), set()]
    arms = (draft.record.base, draft.record.head)
    for index, pair in enumerate(draft.record.pairs):
        if not pair.missing:
            found = yield from rehearse(pair, arms, both, starters, draft.record.sampling, turns_s)
            draft.put(index, found.pair)
            for packages, more in zip(loaded, found.loaded, strict=True):
                packages.update(more)
    base, head = with_trees(arms, both, loaded, draft.record.pairs)
    draft.change(base=base, head=head)


# --- blocks ---------------------------------------------------------------------------------------------------------


def _pass(
    draft: _Draft, both: tuple[Source, Source], number: int, members: Sequence[int], seed: int, deadline: float
) -> Iterator[Event]:
    """Play blocks of these pairs until each has its judgement, or the time is up."""
    active = list(members)
    longest = 0.0
    count = 0
    while active:
        if time.monotonic() + longest > deadline:
            draft.change(stopped="budget")
            return
        begun = time.monotonic()
        count += 1
        draw = hash_seed(seed, f"pass {number} block {count}")
        try:
            with nurseries(both, draw) as starters:
                for index in random.Random(draw).sample(active, len(active)):
                    block = yield from _block(draft, starters, index, number, count, seed)
                    draft.add(index, number, block)
                    judgement = playing(draft.record, index, number)
                    if judgement is not None:
                        active.remove(index)
                    yield Played(draft.record.pairs[index].pair.slug, count, number > 0, judgement)
        except WorkerError as error:
            draft.change(problem=str(error))
            return
        longest = max(longest, time.monotonic() - begun)


def _block(
    draft: _Draft, starters: Sequence[Starter], index: int, number: int, count: int, seed: int
) -> Generator[Phase | Turn, None, Block]:
    """One block: fresh processes, started in a mirrored random order, taking turns."""
    record = draft.record
    pair = record.pairs[index].pair
    name = f"b{count}.{number}.{pair.key}"
    arms = (record.base, record.head, record.base)
    tasks = [
        Measure(
            cell=cell,
            device=arm.environment.device,
            sampling=record.sampling,
            seed=seed,
            first=False,
            slowdown=arm.asked.slowdown,
        )
        for cell, arm in zip((pair.base, pair.head, pair.base), arms, strict=True)
        if arm.environment is not None
    ]
    draw = hash_seed(seed, name)
    # Mirrored over blocks 1 and 2, 3 and 4, ...: of equal processes the one started later tends to be faster.
    order = start_order(3, hash_seed(seed, f"order {number} {pair.key}"), count + 1)
    done: dict[int, Done] = {}
    lost: list[Loss] = []
    started = set(order)
    for event in play(starters, tasks, name=name, turns_s=record.pairs[index].turns_s, seed=draw, order=order):
        if isinstance(event, Done):
            done[event.seat] = event
        elif isinstance(event, Lost):
            lost.append(Loss(role=ROLES[event.seat], kind=event.kind, message=event.message))
            started.discard(event.seat)
        elif isinstance(event, (Phase, Turn)):
            yield event
    for seat in sorted(started - set(done)):
        message = "not enough memory for three processes side by side: take a smaller batch"
        lost.append(Loss(role=ROLES[seat], kind="out_of_memory", message=message))
    base, head, twin = (done[seat].round if seat in done else None for seat in range(3))
    return Block(number=count, seed=draw, order=order, base=base, head=head, twin=twin, lost=tuple(lost))
