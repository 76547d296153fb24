"""Warm-up, settling and samples of one built cell: steps between two device synchronisations."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from vanbench.record.measurement import Sample
from vanbench.spec.sampling import Sampling
from vanbench.worker.build import Built
from vanbench.worker.clock import clock_for

__all__ = ["Sampler"]


def _nothing() -> None:
    """No mark is wanted."""


class Sampler:
    """Runs a cell's steps. `steps` per sample follows from the warm-up. slowdown: see `Measure`."""

    def __init__(self, built: Built, sampling: Sampling, slowdown: float = 0.0) -> None:
        self._built = built
        self._sampling = sampling
        self._slowdown = slowdown
        self._clock = clock_for(built.device)
        self._marks_a_step = 3 if built.cell.task == "train" else 1
        self.steps = 1
        self._enqueue: list[float] = []

    def one_step(self) -> tuple[float, Tensor]:
        """(seconds, output) of one synchronised step."""
        with self._built.mode():
            self._clock.synchronize()
            start = perf_counter()
            output = self._built.step(_nothing)
            given = perf_counter() - start
            self._clock.synchronize()
            took = perf_counter() - start
            self._enqueue.append(given / took)
            return took, output

    @property
    def enqueue_share(self) -> float | None:
        """The share of a warm-up step in which the host was still giving work to the device; None on a CPU.

        Near 1, the device waits for the host. Single steps tell this better than samples: in a long sample the host
        is held back by a full queue, however far ahead it could be.
        """
        if self._built.device.type == "cpu" or not self._enqueue:
            return None
        return sorted(self._enqueue)[len(self._enqueue) // 2]

    def warm_up(self, unchanged: Callable[[], int]) -> tuple[list[float], Tensor]:
        """Steps until the sampling's floor is passed and `unchanged()` (a count of recompiles) stood still for 3.

        Returns each step's seconds and the last output, and sets `steps` from the median of the later half.
        """
        seconds: list[float] = []
        still, count = 0, unchanged()
        while True:
            took, output = self.one_step()
            seconds.append(took)
            now = unchanged()
            still = still + 1 if now == count else 0
            count = now
            enough = len(seconds) >= self._sampling.warmup_steps and sum(seconds) >= self._sampling.warmup_s
            if enough and still >= min(3, self._sampling.warmup_steps):
                break
        late = sorted(seconds[len(seconds) // 2 :])
        self.steps = max(1, round(self._sampling.sample_s / late[len(late) // 2]))
        return seconds, output

    def settle(self) -> None:
        """Untimed steps, at least one: the last cell's thread pool stops spinning, caches and clocks are ours."""
        with self._built.mode():
            end = perf_counter() + self._sampling.settle_s
            while True:
                self._built.step(_nothing)
                self._clock.synchronize()
                if perf_counter() >= end:
                    return

    def take(self) -> Sample:
        """One sample of `steps` steps."""
        step, clock = self._built.step, self._clock
        mark = clock.mark
        inner = mark if self._marks_a_step == 3 else _nothing
        collecting = gc.isenabled()
        gc.disable()
        try:
            with self._built.mode():
                clock.synchronize()
                start = perf_counter()
                clock.start()
                for _ in range(self.steps):
                    step(inner)
                    mark()
                clock.synchronize()
                end = perf_counter()
                if self._slowdown:
                    # Waited busily, as a slower model would: asleep, the core would clock down and caches would cool.
                    until = end + self._slowdown * (end - start)
                    while (end := perf_counter()) < until:
                        pass
        finally:
            if collecting:
                gc.enable()
        spans = clock.spans()
        images = self.steps * self._built.cell.batch_size
        if self._marks_a_step == 1:
            return Sample(start_s=start, seconds=end - start, images=images, step_s=spans)
        parts = [spans[i::3] for i in range(3)]
        whole = [sum(three) for three in zip(*parts, strict=True)]
        return Sample(
            start_s=start,
            seconds=end - start,
            images=images,
            step_s=whole,
            forward_s=parts[0],
            backward_s=parts[1],
            optimizer_s=parts[2],
        )

    def run_for(self, seconds: float) -> int:
        """Uninterrupted steps for at least so long; returns the images. For the energy counter."""
        images, batch = 0, self._built.cell.batch_size
        with self._built.mode():
            end = perf_counter() + seconds
            while perf_counter() < end:
                for _ in range(max(1, math.ceil(self.steps))):
                    self._built.step(_nothing)
                    images += batch
                self._clock.synchronize()
        return images


def finite(output: Tensor) -> bool:
    """Whether an output has no NaN and no infinity."""
    return bool(torch.isfinite(output).all())
