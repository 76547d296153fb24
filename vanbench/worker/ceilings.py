"""Finds a device's roofs: visits each of them in random order again and again, and keeps the best of every one.

A visit is a few repetitions of a kernel whose answer has been checked. The machine wanders, so that one long look at
one roof says less than many short ones spread over the time. What a visit does is in `ceilings_cpu` and
`ceilings_cuda`.
"""

from __future__ import annotations

import datetime
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import torch

import vanbench.worker.ceilings_cpu as cpu
import vanbench.worker.ceilings_cuda as cuda
from vanbench.record.ceilings import Ceiling, Ceilings, Stream
from vanbench.record.task import FindCeilings, Found, Said
from vanbench.worker.channel import Channel
from vanbench.worker.decline import declining
from vanbench.worker.gpu import nvml_for
from vanbench.worker.visit import Place, Visit

__all__ = ["find", "serve"]

_SAY_S = 1.0


def serve(task: FindCeilings, channel: Channel) -> None:
    """Carry a `FindCeilings` task out."""
    declining(lambda: _serve(task, channel), channel)


def _serve(task: FindCeilings, channel: Channel) -> None:
    device = torch.device(task.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif isinstance(task.threads, int):
        torch.set_num_threads(task.threads)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    channel.send(Said(phase="preparing"))
    visits, notes = cpu.visits(threads) if device.type == "cpu" else cuda.visits(device)
    said = time.monotonic()

    def progress(share: float) -> None:
        nonlocal said
        if time.monotonic() - said >= _SAY_S:
            said = time.monotonic()
            channel.send(Said(phase=f"{share:.0%}"))

    started = time.monotonic()
    seen = find(visits, task.seconds, task.seed, progress)
    nvml = nvml_for(device)
    clock = nvml.clock_hz() if nvml else None
    channel.send(
        Found(
            ceilings=as_ceilings(
                seen,
                Ceilings(
                    machine_key=task.machine_key,
                    device=str(device),
                    device_name=task.device_name,
                    threads=threads,
                    date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    seconds=time.monotonic() - started,
                    torch_version=str(torch.__version__),
                    streams=(),
                    matrix={},
                    vector={},
                    clock_hz=clock,
                    notes=tuple(notes),
                ),
            )
        )
    )


def find(
    visits: Sequence[Visit],
    seconds: float,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[Place, dict[str, list[float]]]:
    """Visit all in random order until the time is up, once at least; the figure of each visit by place and method."""
    generator = random.Random(seed)
    seen: dict[Place, dict[str, list[float]]] = {}
    end, passes = clock() + seconds, 0
    while not passes or clock() < end:
        order = list(visits)
        generator.shuffle(order)
        for visit in order:
            if passes and clock() >= end:
                break
            seen.setdefault(visit.place, {}).setdefault(visit.how, []).append(visit.run())
            progress(max(0.0, min(1.0, 1 - (end - clock()) / seconds)) if seconds else 1.0)
        passes += 1
    return seen


class _Best(NamedTuple):
    value: float
    how: str


def as_ceilings(seen: dict[Place, dict[str, list[float]]], empty: Ceilings) -> Ceilings:
    """What was seen as roofs: at each place the best method's best visit (of a launch: the least)."""
    streams: list[Stream] = []
    matrix: dict[str, Ceiling] = {}
    vector: dict[str, Ceiling] = {}
    launch: Ceiling | None = None
    for place in sorted(seen):
        least = place.roof == "launch"
        pick = min if least else max
        best = pick((_Best(pick(values), how) for how, values in seen[place].items()), key=lambda each: each.value)
        values = seen[place][best.how]
        ceiling = Ceiling(
            best=best.value,
            median=statistics.median(values),
            low=max(values) if least else min(values),
            visits=len(values),
            how=best.how,
        )
        if place.roof == "stream":
            streams.append(Stream(kind=place.word, bytes=place.bytes, ceiling=ceiling))
        elif least:
            launch = ceiling
        else:
            (matrix if place.roof == "matrix" else vector)[place.word] = ceiling
    return msgspec.structs.replace(empty, streams=tuple(streams), matrix=matrix, vector=vector, launch=launch)
