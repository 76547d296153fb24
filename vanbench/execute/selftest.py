"""The selftest's job: one cell with known slowdowns side by side, block by block, and a model of known rate."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from vanbench.errors import WorkerError
from vanbench.execute.child import ChildFailure
from vanbench.execute.contest import hash_seed
from vanbench.execute.probe import check_names, environment_of, scratch
from vanbench.execute.round import Done, Lost, Phase, Turn, hear, play, start_order
from vanbench.execute.run import default_place
from vanbench.execute.starter import WORKER, Starter, starter
from vanbench.record.folder import claim_folder
from vanbench.record.gate import Loss
from vanbench.record.measurement import Round
from vanbench.record.selftest import SEATS, SelftestRecord, TruthBlock, save_selftest
from vanbench.record.task import Measure, Vet, Vetted
from vanbench.spec.cell import Cell
from vanbench.spec.rules import Rules
from vanbench.spec.sampling import Sampling
from vanbench.spec.sweep import DEFAULT_SAMPLING

__all__ = ["Event", "Kept", "Opened", "Over", "selftest"]

_KNOWN = Cell(model="vanbench.models.known:KnownRate", batch_size=8, image_size=32)
_KNOWN_IMAGES_PER_S = 8 / 0.010
_KNOWN_ROUNDS = 3
# Each seat's share of a block's turns is that of a gate's arm.
_TURNS_S_A_SEAT = 4.0 / 3


class Opened(NamedTuple):
    """The folder is there."""

    path: Path
    record: SelftestRecord


class Kept(NamedTuple):
    """A block is on disk."""

    number: int
    seconds_left: float


class Over(NamedTuple):
    """No more blocks."""

    path: Path
    record: SelftestRecord


Event = Opened | Phase | Turn | Kept | Over


def selftest(
    cell: Cell,
    *,
    seconds: float = 540.0,
    seed: int = 0,
    out: Path | None = None,
    worker: Sequence[str] = WORKER,
    known: Cell = _KNOWN,
    known_images_per_s: float = _KNOWN_IMAGES_PER_S,
    seat_s: float = _TURNS_S_A_SEAT,
) -> Iterator[Event]:
    """Play blocks of `cell` until `seconds` are over, the next one included. Every block is on disk before the next.

    known, known_images_per_s: the model of known rate. seat_s: seconds of turns a seat and block.
    Raises UserError for a model that cannot be built, WorkerError for one that cannot be measured here.
    """
    begun = time.monotonic()
    with scratch() as folder:
        with starter(folder, worker) as nursery:
            environment = environment_of(nursery, cell.device)
            check_names(nursery, [cell.model, known.model])
            kind = environment.device.partition(":")[0]
            sampling = msgspec.convert({**DEFAULT_SAMPLING[kind], "seed": seed}, Sampling)
            for each in (known, cell):
                yield from _vet(nursery, each, environment.device, sampling)
        path = out if out is not None else default_place(environment.machine, "selftest")
        claim_folder(path)
        record = SelftestRecord(
            environment=environment,
            cell=cell,
            known_cell=known,
            known_images_per_s=known_images_per_s,
            sampling=sampling,
            rules=Rules(),
        )
        save_selftest(path, record)
        yield Opened(path, record)
        longest, number = 0.0, 0
        while time.monotonic() - begun + longest < seconds:
            number += 1
            start = time.monotonic()
            with starter(folder, worker) as nursery:
                if number <= _KNOWN_ROUNDS:
                    rounds, lost = yield from _play(nursery, known, (0.0,), number, record, seat_s)
                    if lost:
                        raise WorkerError(f"{known.slug}: {lost[0].kind}: {lost[0].message}")
                    record = msgspec.structs.replace(record, known=(*record.known, *(r for r in rounds if r)))
                    start = time.monotonic()
                rounds, lost = yield from _play(nursery, cell, SEATS, number, record, seat_s * len(SEATS))
            took = time.monotonic() - start
            longest = max(longest, took + 2.0)
            block = TruthBlock(number=number, rounds=tuple(rounds), lost=tuple(lost), seconds=took)
            record = msgspec.structs.replace(record, blocks=(*record.blocks, block))
            save_selftest(path, record)
            yield Kept(number, max(0.0, seconds - (time.monotonic() - begun)))
            if lost:
                break
        yield Over(path, record)


def _vet(nursery: Starter, cell: Cell, device: str, sampling: Sampling) -> Iterator[Phase]:
    child = nursery.fork(Vet(cell=cell, device=device, seed=sampling.seed), cell.slug)
    try:
        yield from hear(child, Vetted, cell, sampling.timeout_s)
    except ChildFailure as failure:
        raise WorkerError(f"{cell.slug}: {failure.kind}: {failure}") from None
    child.leave()


def _play(
    nursery: Starter, cell: Cell, seats: Sequence[float], number: int, record: SelftestRecord, turns_s: float
) -> Generator[Phase | Turn, None, tuple[list[Round | None], list[Loss]]]:
    """One round of a cell with each seat's slowdown: (rounds in the seats' order, those that were lost)."""
    sampling = record.sampling
    tasks = [
        Measure(
            cell=cell,
            device=record.environment.device,
            sampling=sampling,
            seed=sampling.seed,
            first=number == 1,
            slowdown=slowdown,
        )
        for slowdown in seats
    ]
    name = f"b{number}.{cell.key}"
    rounds: list[Round | None] = [None] * len(seats)
    lost: list[Loss] = []
    order = start_order(len(seats), sampling.seed, number + 1)
    seed = hash_seed(sampling.seed, name)
    for event in play([nursery] * len(seats), tasks, name=name, turns_s=turns_s, seed=seed, order=order):
        if isinstance(event, Done):
            rounds[event.seat] = event.round
        elif isinstance(event, Lost):
            lost.append(Loss(role=f"slowed by {seats[event.seat]:.0%}", kind=event.kind, message=event.message))
        elif isinstance(event, (Phase, Turn)):
            yield event
    if None in rounds and not lost:
        lost.append(Loss(role="a seat", kind="out_of_memory", message=f"no room for {len(seats)} processes"))
    return rounds, lost
