"""What can be told of two arms without timing: which models they have, what they load, their sizes and answers."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from typing import NamedTuple

import msgspec

from vanbench.analysis.observation import apart
from vanbench.errors import UserError
from vanbench.execute.arms import Source
from vanbench.execute.child import ChildFailure
from vanbench.execute.probe import ask_once
from vanbench.execute.round import Phase, hear
from vanbench.execute.starter import Starter
from vanbench.record.gate import ROLES, ArmSeen, PairRecord, Size
from vanbench.record.task import Measure, Named, Names, Ready, Vet, Vetted
from vanbench.spec.arm import Pair
from vanbench.spec.cell import Cell
from vanbench.spec.sampling import Sampling
from vanbench.stats import median

__all__ = ["Rehearsed", "check_support", "paired", "rehearse", "with_trees"]

# Turns of a block: about as long as it takes to start the three processes of a small model, after which longer turns
# gain less than more blocks do (docs/measurement.md); but at least so many laps, for a mean of their middle half.
TURNS_S = 4.0
LAPS_AT_LEAST = 8


class Rehearsed(NamedTuple):
    """A pair with what was found of it. loaded: by each arm, the packages that came from its own tree."""

    pair: PairRecord
    loaded: tuple[Collection[str], Collection[str]]


def check_support(seen: Sequence[ArmSeen], cells: Sequence[Pair]) -> None:
    """A precision or an allocator that is not here is a mistake, and no verdict."""
    for place, (role, arm) in enumerate(zip(ROLES, seen, strict=False)):
        assert arm.environment is not None
        for pair in cells:
            why = arm.environment.why_not(pair[place])
            if why is not None:
                raise UserError(f"{role}: {pair[place].slug}: {why}")


def paired(pair: Pair, starters: Sequence[Starter]) -> PairRecord:
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


def rehearse(
    pair: PairRecord,
    arms: Sequence[ArmSeen],
    both: Sequence[Source],
    starters: Sequence[Starter],
    sampling: Sampling,
    turns_s: float | None,
) -> Generator[Phase, None, Rehearsed]:
    """Sizes and answers of both arms' cells; an arm that fails is the pair's problem. turns_s: as asked, if it was."""
    seen: list[tuple[Vetted, Ready]] = []
    try:
        for arm, source, start, cell in zip(arms, both, starters, pair.pair, strict=False):
            seen.append((yield from _rehearse(start, arm, cell, source.tree, sampling)))
    except ChildFailure as failure:
        problem = f"{ROLES[len(seen)]}: {failure.kind}: {failure}"
        return Rehearsed(msgspec.structs.replace(pair, problem=problem), ((), ()))
    (vetted, mine), (other, theirs) = seen
    assert mine.answer is not None
    assert theirs.answer is not None
    # Other models, tasks and sizes answer differently by nature.
    like = all(getattr(pair.base, name) == getattr(pair.head, name) for name in ("model", "task", "image_size"))
    found = msgspec.structs.replace(
        pair,
        base_size=_size(mine),
        head_size=_size(theirs),
        apart=apart(mine.answer, theirs.answer) if like else None,
        turns_s=turns_s if turns_s is not None else _turns_for((mine, theirs, mine), sampling),
    )
    return Rehearsed(found, (vetted.loaded, other.loaded))


def with_trees(
    arms: Sequence[ArmSeen], both: Sequence[Source], loaded: Sequence[Collection[str]], members: Sequence[PairRecord]
) -> list[ArmSeen]:
    """The arms with the packages of their own trees.

    Raises UserError for an arm whose tree is never imported: it would be compared with itself, and pass for ever.
    """
    found = []
    for arm, source, packages in zip(arms, both, loaded, strict=True):
        if source.tree is not None and not packages and any(not pair.problem for pair in members):
            where = f"path={arm.asked.path}" if arm.asked.path is not None else f"ref={arm.asked.ref}"
            raise UserError(f"nothing was imported from {where}: this arm would measure other code than it names")
        found.append(msgspec.structs.replace(arm, loaded=tuple(sorted(packages))))
    return found


def _rehearse(
    start: Starter, arm: ArmSeen, cell: Cell, tree: str | None, sampling: Sampling
) -> Generator[Phase, None, tuple[Vetted, Ready]]:
    """Vet a cell and start it once without a turn: it is compiled, checked and counted, and its answer is told."""
    assert arm.environment is not None
    device, seed = arm.environment.device, sampling.seed
    vetting = start.fork(Vet(cell=cell, device=device, seed=seed, under=tree), cell.slug)
    vetted = yield from hear(vetting, Vetted, cell, sampling.timeout_s)
    vetting.leave()
    child = start.fork(Measure(cell=cell, device=device, sampling=sampling, seed=seed, answer=True), cell.slug)
    ready = yield from hear(child, Ready, cell, sampling.timeout_s)
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
