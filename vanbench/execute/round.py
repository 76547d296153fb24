"""Whose turn: one fresh child a cell, all alive, taking short turns in balanced random order."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from vanbench.execute.child import Child, ChildFailure
from vanbench.execute.starter import Starter
from vanbench.record.measurement import Facts, Round, Sample
from vanbench.record.task import Closed, Measure, Ready, Said, Taken
from vanbench.spec.cell import Cell

__all__ = ["GROUP_SIZE", "Done", "Full", "Lost", "Phase", "Turn", "hear", "lap_order", "play", "start_order"]

_T = TypeVar("_T")

GROUP_SIZE = 8
_LAPS_AT_LEAST = 2


class Phase(NamedTuple):
    """A child is starting; what it does."""

    cell: Cell
    text: str


class Turn(NamedTuple):
    """A sample was taken. seconds_left: of this round's turns."""

    cell: Cell
    images_per_s: float
    seconds_left: float


class Full(NamedTuple):
    """The group closed early for want of memory: only these cells were started."""

    started: tuple[Cell, ...]


class Done(NamedTuple):
    """A cell's round ended well. seat: its task's place among the round's."""

    seat: int
    cell: Cell
    round: Round
    facts: Facts


class Lost(NamedTuple):
    """A cell's round ended badly. seat: its task's place; company: how many other cells were alive then."""

    seat: int
    cell: Cell
    kind: str
    message: str
    company: int


class _Member:
    """A live child in a round, and what it has given so far."""

    def __init__(self, seat: int, task: Measure, child: Child, ready: Ready, start_up_s: float) -> None:
        self.seat = seat
        self.task = task
        self.child = child
        self.ready = ready
        self.start_up_s = start_up_s
        self.samples: list[Sample] = []


def hear(child: Child, kind: type[_T], cell: Cell, timeout_s: float) -> Generator[Phase, None, _T]:
    """A child's answer of this kind, its phases yielded meanwhile; raises ChildFailure for anything else."""
    while isinstance(answer := child.receive(timeout_s), Said):
        yield Phase(cell, answer.phase)
    if not isinstance(answer, kind):
        raise ChildFailure("protocol", f"expected {kind.__name__.lower()}, got {type(answer).__name__}")
    return answer


def lap_order(count: int, generator: random.Random) -> Iterator[tuple[int, ...]]:
    """Orders of `count` cells, lap after lap: a random one, then the same backwards, then a new one.

    Over each two laps every cell's mean position is the same, so a steady drift of the machine favours none; which
    cell goes before which is random, so a rhythm of the machine favours none either.
    """
    while True:
        order = list(range(count))
        generator.shuffle(order)
        yield tuple(order)
        yield tuple(reversed(order))


def start_order(count: int, seed: int, number: int) -> tuple[int, ...]:
    """In which order the children of round `number` (from 1) start: a random one, and backwards in every second round.

    Of two equal cells the one that is started later tends to be faster, by about 1 % (docs/measurement.md); over two
    rounds each of them was later once.
    """
    order = list(range(count))
    random.Random(seed + number // 2).shuffle(order)
    return tuple(reversed(order)) if number % 2 else tuple(order)


def play(
    starters: Sequence[Starter],
    tasks: Sequence[Measure],
    *,
    name: str,
    turns_s: float,
    seed: int,
    order: Sequence[int] | None = None,
    alone: bool = False,
) -> Iterator[Phase | Turn | Done | Lost | Full]:
    """Play one round of one group: yields what happens, at last a `Done` or a `Lost` for each cell that was started.

    tasks: the reference first. starters: what starts each of them. turns_s: the time for turns (two laps at least are
    taken). order: in which the tasks start, as given by default; when memory gets short the reference comes next, and
    then the group is full.
    """
    members: list[_Member] = []
    timeout_s = tasks[0].sampling.timeout_s
    largest = 0
    waiting = list(order if order is not None else range(len(tasks[:GROUP_SIZE])))
    started: list[Cell] = []
    while waiting:
        seat = waiting.pop(0)
        task = tasks[seat]
        started.append(task.cell)
        start = time.monotonic()
        child = starters[seat].fork(task, task.cell.slug)
        try:
            answer = yield from hear(child, Ready, task.cell, timeout_s)
        except ChildFailure as failure:
            child.kill()
            yield Lost(seat, task.cell, failure.kind, str(failure), len(members))
            continue
        members.append(_Member(seat, task, child, answer, time.monotonic() - start))
        largest = max(largest, answer.held_bytes)
        if 0 in waiting and answer.free_bytes < 3 * largest:
            waiting = [0]
        elif answer.free_bytes < 2 * largest:
            waiting = []
    if len(started) < min(len(tasks), GROUP_SIZE):
        yield Full(tuple(started))
    yield from _take_turns(members, turns_s, seed)
    # Closed one after the other, the others idle: energy and the like are measured undisturbed.
    total = len(members)
    for member in members:
        try:
            closed = member.child.ask("close", timeout_s)
            if not isinstance(closed, Closed):
                raise ChildFailure("protocol", f"expected closed, got {type(closed).__name__}")
        except ChildFailure as failure:
            member.child.kill()
            yield Lost(member.seat, member.task.cell, failure.kind, str(failure), total - 1)
            continue
        member.child.leave()
        yield Done(member.seat, member.task.cell, _as_round(member, closed, name, total, alone), member.ready.facts)


def _take_turns(members: list[_Member], turns_s: float, seed: int) -> Iterator[Turn | Lost]:
    """Laps until the time is up. A member that fails leaves; the others go on."""
    generator = random.Random(seed)
    end = time.monotonic() + turns_s
    laps = 0
    orders = lap_order(len(members), generator)
    seats = list(members)
    while members and (laps < _LAPS_AT_LEAST or laps % 2 or time.monotonic() < end):
        for place in next(orders):
            member = seats[place]
            if member not in members:
                continue
            try:
                taken = member.child.ask("sample", member.task.sampling.timeout_s)
                if not isinstance(taken, Taken):
                    raise ChildFailure("protocol", f"expected a sample, got {type(taken).__name__}")
            except ChildFailure as failure:
                member.child.kill()
                members.remove(member)
                yield Lost(member.seat, member.task.cell, failure.kind, str(failure), len(members))
                continue
            sample = taken.sample
            member.samples.append(sample)
            yield Turn(member.task.cell, sample.images / sample.seconds, end - time.monotonic())
        laps += 1


def _as_round(member: _Member, closed: Closed, name: str, live: int, alone: bool) -> Round:
    ready, samples = member.ready, member.samples
    disturbance = closed.disturbance
    if disturbance.gpu_foreign_processes is not None:
        # NVML counted everybody on the device, this round's own cells too.
        disturbance = msgspec.structs.replace(
            disturbance, gpu_foreign_processes=max(0, disturbance.gpu_foreign_processes - live)
        )
    return Round(
        round=name,
        warmup_sample_s=ready.warmup_sample_s,
        sample_start_s=[sample.start_s for sample in samples],
        sample_s=[sample.seconds for sample in samples],
        sample_images=[sample.images for sample in samples],
        step_s=[s for sample in samples for s in sample.step_s],
        forward_s=[s for sample in samples for s in sample.forward_s],
        backward_s=[s for sample in samples for s in sample.backward_s],
        optimizer_s=[s for sample in samples for s in sample.optimizer_s],
        compile_s=ready.compile_s,
        compile_cold=ready.compile_cold,
        graph_breaks=closed.graph_breaks,
        recompiles=closed.recompiles,
        peak_bytes=closed.peak_bytes,
        peak_reserved_bytes=closed.peak_reserved_bytes,
        energy_j=closed.energy_j,
        energy_images=closed.energy_images,
        start_up_s=member.start_up_s,
        alone=alone,
        enqueue_share=ready.enqueue_share,
        disturbance=disturbance,
    )
