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

from vanbench.analysis.gate import Judgement, apart
from vanbench.analysis.gate_outcome import Outcome, outcome, playing, suspects, timed
from vanbench.errors import UserError, WorkerError
from vanbench.execute.arms import Source, sources
from vanbench.execute.child import ChildFailure
from vanbench.execute.contest import hash_seed
from vanbench.execute.probe import ask_once, environment_of, scratch
from vanbench.execute.round import Done, Lost, Phase, Turn, hear, play, start_order
from vanbench.execute.run import default_place
from vanbench.execute.starter import WORKER, Starter, UnlikeProtocol, starter
from vanbench.record.folder import claim_folder
from vanbench.record.gate import ROLES, ArmSeen, Block, GateRecord, Loss, PairRecord, Size, save_gate
from vanbench.record.task import Measure, Named, Names, Ready, Vet, Vetted
from vanbench.spec.arm import Arm, Pair, pairs
from vanbench.spec.cell import Cell
from vanbench.spec.rules import Rules
from vanbench.spec.sampling import Sampling
from vanbench.spec.sweep import DEFAULT_SAMPLING
from vanbench.stats import median

__all__ = ["TURNS_S", "Ended", "Event", "Opened", "Played", "gate"]

# Turns of a block: about as long as it takes to start the three processes of a small model, after which longer turns
# gain less than more blocks do (docs/measurement.md); but at least so many laps, for a mean of their middle half.
TURNS_S = 4.0
LAPS_AT_LEAST = 8


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

    def change_pair(self, index: int, **fields: Any) -> None:
        changed = list(self.record.pairs)
        changed[index] = msgspec.structs.replace(changed[index], **fields)
        self.change(pairs=tuple(changed))

    def add(self, index: int, number: int, block: Block) -> None:
        passes = list(self.record.pairs[index].passes)
        passes[number] = (*passes[number], block)
        self.change_pair(index, passes=tuple(passes))


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
                starters = stack.enter_context(_nurseries(both, seed))
                seen = [
                    msgspec.structs.replace(arm, environment=environment_of(start, str(flags.get("device") or "auto")))
                    for arm, start in zip(seen, starters, strict=False)
                ]
                _check_support(seen, cells)
                members = [_paired(pair, starters) for pair in cells]
            except WorkerError as error:
                problem = str(error)
                members = [PairRecord(base=pair.base, head=pair.head) for pair in cells]
            draft = _begin(out, seen, rules, _sampling(seen, seed, timeout_s), members, problem)
            if not problem:
                yield from _look_over(draft, both, starters, seed, turns_s)
            yield Opened(draft.path, draft.record, len(timed(draft.record)) if not draft.record.problem else 0)
        if not draft.record.problem:
            try:
                yield from _pass(draft, both, 0, list(range(len(cells))), seed, deadline)
                again = suspects(draft.record)
                if again and not draft.record.stopped:
                    for index in again:
                        draft.change_pair(index, passes=(*draft.record.pairs[index].passes, ()))
                    yield from _pass(draft, both, 1, again, seed, deadline)
            except BaseException:
                draft.change(stopped="interrupted")
                raise
        final = outcome(draft.record)
        draft.change(verdicts={each.slug: str(each.verdict) for each in final.pairs})
        yield Ended(draft.path, draft.record, final)


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


@contextlib.contextmanager
def _nurseries(both: tuple[Source, Source], seed: int) -> Iterator[list[Starter]]:
    """What starts base, head and twin: one nursery where the sources are the same, else a nursery each.

    The twin then has its own, as the head has: children of one nursery share an address layout, which a twin must not
    have in common with its base if the head has not.
    """
    base, head = both
    if base is head:
        with contextlib.ExitStack() as stack:
            with _named("both arms"):
                one = stack.enter_context(starter(base.scratch, base.command))
            yield [one, one, one]
        return
    made = [starter(source.scratch, source.command) for source in (base, head, base)]
    with contextlib.ExitStack() as stack:
        for each in made:
            stack.callback(each.close)
        for seat in random.Random(seed).sample(range(3), 3):
            made[seat].begin()
        for role, each in zip(ROLES, made, strict=True):
            with _named(role):
                stack.enter_context(each)
        yield made


@contextlib.contextmanager
def _named(role: str) -> Iterator[None]:
    """Says whose worker it was that could not be started."""
    try:
        yield
    except UnlikeProtocol:
        raise
    except WorkerError as error:
        hint = " (install vanbench in that interpreter)" if "No module named 'vanbench'" in str(error) else ""
        raise WorkerError(f"{role}: {error}{hint}") from None


# --- what can be told without timing --------------------------------------------------------------------------------


def _look_over(
    draft: _Draft, both: tuple[Source, Source], starters: Sequence[Starter], seed: int, turns_s: float | None
) -> Iterator[Phase]:
    """Sizes and answers of both arms; each pair in which one is amiss gets its problem and is not timed."""
    loaded: list[set[str]] = [set(), set()]
    for index, pair in enumerate(draft.record.pairs):
        if pair.missing:
            continue
        found = []
        for side, (role, cell) in enumerate(zip(ROLES, (pair.base, pair.head), strict=False)):
            arm = (draft.record.base, draft.record.head)[side]
            try:
                found.append((yield from _rehearse(draft, starters[side], arm, cell, both[side].tree, seed)))
            except ChildFailure as failure:
                draft.change_pair(index, problem=f"{role}: {failure.kind}: {failure}")
                break
            loaded[side].update(found[-1][0].loaded)
        if len(found) == 2:
            (_, mine), (_, theirs) = found
            # Other models, tasks and sizes answer differently by nature.
            comparable = (pair.base.model, pair.base.task, pair.base.image_size) == (
                pair.head.model, pair.head.task, pair.head.image_size
            )  # fmt: skip
            assert mine.answer is not None
            assert theirs.answer is not None
            draft.change_pair(
                index,
                base_size=_size(mine),
                head_size=_size(theirs),
                apart=apart(mine.answer, theirs.answer) if comparable else None,
                turns_s=turns_s if turns_s is not None else _turns_for((mine, theirs, mine), draft.record.sampling),
            )
    _check_trees(draft, both, loaded)


def _check_support(seen: Sequence[ArmSeen], cells: Sequence[Pair]) -> None:
    """A precision that the device has not is a mistake, and no verdict."""
    for place, (role, arm) in enumerate(zip(ROLES, seen, strict=False)):
        assert arm.environment is not None
        for pair in cells:
            why = arm.environment.unsupported.get(pair[place].precision)
            if why is not None:
                raise UserError(f"{role}: {pair[place].slug}: {why}")


def _paired(pair: Pair, starters: Sequence[Starter]) -> PairRecord:
    """The pair's record, with the arm that has no such model; a model that neither has is a mistake."""
    lacks = {}
    for role, start, cell in zip(ROLES, starters, pair, strict=False):
        answer = ask_once(start, Names(models=(cell.model,)))
        assert isinstance(answer, Named)
        if answer.problems:
            lacks[role] = next(iter(answer.problems.values()))
    if len(lacks) == 2:
        raise UserError(lacks["base"])
    missing = "".join(lacks)
    problem = f"{missing}: {lacks[missing]}" if missing else ""
    return PairRecord(base=pair.base, head=pair.head, missing=missing, problem=problem)


def _rehearse(
    draft: _Draft, start: Starter, arm: ArmSeen, cell: Cell, tree: str | None, seed: int
) -> Generator[Phase, None, tuple[Vetted, Ready]]:
    """Vet a cell and start it once without a turn: it is compiled, checked and counted, and its answer is told."""
    assert arm.environment is not None
    device, timeout_s = arm.environment.device, draft.record.sampling.timeout_s
    vetting = start.fork(Vet(cell=cell, device=device, seed=seed, under=tree), cell.slug)
    vetted = yield from hear(vetting, Vetted, cell, timeout_s)
    vetting.leave()
    task = Measure(cell=cell, device=device, sampling=draft.record.sampling, seed=seed, answer=True)
    child = start.fork(task, cell.slug)
    ready = yield from hear(child, Ready, cell, timeout_s)
    child.kill()
    return vetted, ready


def _turns_for(seats: Sequence[Ready], sampling: Sampling) -> float:
    """Seconds of turns in a block of these."""
    lap_s = 0.0
    for ready in seats:
        step_s = median(ready.warmup_sample_s[len(ready.warmup_sample_s) // 2 :])
        lap_s += max(step_s, sampling.settle_s) + max(step_s, sampling.sample_s)
    return max(TURNS_S, LAPS_AT_LEAST * lap_s)


def _size(ready: Ready) -> Size:
    facts = ready.facts
    moved = sum(work.bytes * work.count for work in facts.works) or None
    return Size(
        params=facts.params,
        macs=facts.macs,
        bytes_modelled=moved,
        graph_breaks=ready.graph_breaks,
        threads=facts.threads,
    )


def _check_trees(draft: _Draft, both: tuple[Source, Source], loaded: Sequence[set[str]]) -> None:
    """An arm whose own tree is never imported would be compared with itself, and pass for ever."""
    arms = []
    for arm, source, packages in zip((draft.record.base, draft.record.head), both, loaded, strict=True):
        if source.tree is not None and not packages and any(not pair.problem for pair in draft.record.pairs):
            where = f"path={arm.asked.path}" if arm.asked.path is not None else f"ref={arm.asked.ref}"
            raise UserError(f"nothing was imported from {where}: this arm would measure other code than it names")
        arms.append(msgspec.structs.replace(arm, loaded=tuple(sorted(packages))))
    draft.change(base=arms[0], head=arms[1])


# --- blocks ---------------------------------------------------------------------------------------------------------


def _pass(
    draft: _Draft, both: tuple[Source, Source], number: int, members: Sequence[int], seed: int, deadline: float
) -> Iterator[Event]:
    """Play blocks of these pairs until each has its judgement, or the time is up."""
    active = [index for index in timed(draft.record) if index in members]
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
            with _nurseries(both, draw) as starters:
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
