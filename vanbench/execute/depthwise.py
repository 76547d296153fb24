"""Depthwise convs alone, round after round of fresh processes. Yields what happens."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vanbench.errors import UserError, WorkerError
from vanbench.execute.ceilings import Looking, book_for
from vanbench.execute.child import ChildFailure
from vanbench.execute.contest import hash_seed
from vanbench.execute.probe import ask_once, check_names, environment_of, scratch
from vanbench.execute.profile import Begun
from vanbench.execute.run import default_place
from vanbench.execute.starter import WORKER, Starter, starter
from vanbench.record.folder import Lone, make_folder, save_lone
from vanbench.record.profile import Case, CaseVisit, Shape
from vanbench.record.task import FindShapes, Over, Said, Shaped, TimeCases, Visited
from vanbench.spec.names import CUDA_DEPTHWISE, DEPTHWISE

__all__ = ["Axes", "RoundOver", "cases_of", "time_depthwise"]

# A round is not begun with less time than this share of the last one's length.
_WORTH_BEGINNING = 0.3


class Axes(NamedTuple):
    """What is varied over each shape. kernel_sizes, dilations: empty for those that occur in the models alone.

    batch_size, implementations: None and empty for those of the device, as `on` has them.
    """

    batch_size: int | None
    kernel_sizes: tuple[int, ...]
    dilations: tuple[int, ...]
    precisions: tuple[str, ...]
    memory_formats: tuple[str, ...]
    directions: tuple[str, ...]
    implementations: tuple[str, ...]

    def on(self, device: str) -> Axes:
        """With what goes without saying on a device: 64 images on CUDA, else 8; every implementation made for it."""
        cuda = device.startswith("cuda")
        # A pair is no conv alone: with one, cuda-pair is cuda.
        others = ("cpu", "cuda-pair") if cuda else CUDA_DEPTHWISE
        made = [word for word in DEPTHWISE if word not in others]
        return self._replace(
            batch_size=self.batch_size or (64 if cuda else 8), implementations=self.implementations or tuple(made)
        )


class RoundOver(NamedTuple):
    """A round is on disk. reached: cases that were visited in it."""

    number: int
    reached: int
    cases: int


def cases_of(shapes: Sequence[Shape], axes: Axes) -> tuple[Case, ...]:
    """Every case: each map of the models with each kernel and dilation, those that occur marked with their models.

    Kernels and dilations that were not asked for still come where they occur. Convs of other strides come as they are.
    """
    occurring: dict[tuple[int, ...], list[str]] = {}
    for shape in shapes:
        place = (shape.channels, shape.height, shape.width, shape.kernel_size, shape.dilation, shape.stride)
        models = occurring.setdefault(place, [])
        if shape.model not in models:
            models.append(shape.model)
    batch_size = axes.batch_size
    assert batch_size is not None
    places = dict.fromkeys(occurring)
    maps = dict.fromkeys(place[:3] for place in occurring if place[5] == 1)
    for place, kernel_size, dilation in itertools.product(maps, axes.kernel_sizes, axes.dilations):
        wanted = (*place, kernel_size, dilation, 1)
        places[wanted] = None
    return tuple(
        Case(
            batch_size=batch_size,
            channels=channels,
            height=height,
            width=width,
            kernel_size=kernel_size,
            dilation=dilation,
            stride=stride,
            precision=precision,
            memory_format=memory_format,
            direction=direction,
            models=tuple(occurring.get((channels, height, width, kernel_size, dilation, stride), ())),
        )
        for channels, height, width, kernel_size, dilation, stride in sorted(places, key=lambda p: (-p[1], p))
        for precision in axes.precisions
        for memory_format in axes.memory_formats
        for direction in axes.directions
    )


def time_depthwise(
    models: Sequence[str],
    axes: Axes,
    *,
    image_size: int = 224,
    device: str = "auto",
    threads: int | str = "auto",
    rounds: int = 5,
    budget_s: float = 240.0,
    seed: int = 0,
    out: Path | None = None,
    ceilings: Path | None = None,
    worker: Sequence[str] = WORKER,
) -> Iterator[Begun | Looking | RoundOver]:
    """Time every case in rounds of fresh processes, until the budget or the rounds are used up, into a new folder.

    Each round is on disk before the next begins; in each the cases that occur in the models come first.
    """
    end = time.monotonic() + budget_s
    with scratch() as folder:
        with starter(folder, worker) as nursery:
            environment = environment_of(nursery, device)
            check_names(nursery, models)
            shaped = ask_once(nursery, FindShapes(models=tuple(models), image_size=image_size))
            assert isinstance(shaped, Shaped)
        axes = axes.on(environment.device)
        cases = cases_of(shaped.shapes, axes)
        if not cases:
            raise UserError(f"no depthwise conv with a square kernel in {', '.join(models)}")
        book = book_for(environment, ceilings)
        path = out or default_place(environment.machine, "depthwise")
        make_folder(path, environment, book)
        yield Begun(path, environment, len(cases), bool(book.entries))
        lone = Lone(cases=cases, implementations=axes.implementations, device=environment.device, threads=0)
        last_s = 0.0
        for number in range(rounds):
            left = end - time.monotonic()
            if number and left < last_s * _WORTH_BEGINNING:
                break
            start = time.monotonic()
            with starter(folder, worker) as nursery:
                task = TimeCases(
                    cases=cases,
                    implementations=axes.implementations,
                    device=environment.device,
                    threads=threads,
                    seed=hash_seed(seed, f"depthwise {number}"),
                    check=number == 0,
                    seconds=max(1.0, end - time.monotonic()),
                )
                visits: list[CaseVisit] = []
                try:
                    over = yield from _round(nursery, task, visits)
                except ChildFailure as failure:
                    raise WorkerError(f"round {number + 1} of depthwise ended badly: {failure}") from None
            last_s = time.monotonic() - start
            lone = Lone(
                cases=cases,
                implementations=axes.implementations,
                device=environment.device,
                threads=over.threads,
                rounds=(*lone.rounds, tuple(visits)),
            )
            save_lone(path, lone)
            yield RoundOver(number + 1, over.reached, len(cases))


def _round(nursery: Starter, task: TimeCases, visits: list[CaseVisit]) -> Generator[Looking, None, Over]:
    """One process's visits, into `visits`; the generator returns its last word."""
    child = nursery.fork(task, "depthwise")
    try:
        while not isinstance(answer := child.receive(300.0), Over):
            if isinstance(answer, Visited):
                visits.append(answer.visit)
            elif isinstance(answer, Said):
                yield Looking(answer.phase)
            else:
                raise ChildFailure("protocol", f"expected a visit, got {type(answer).__name__}")
    except BaseException:
        child.kill()
        raise
    child.leave()
    return answer
