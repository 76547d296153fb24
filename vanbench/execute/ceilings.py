"""The machine's roofs, from a worker of their own; and which of them a run is held against."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vanbench.errors import UserError, WorkerError
from vanbench.execute.child import ChildFailure
from vanbench.execute.probe import environment_of, scratch
from vanbench.execute.starter import WORKER, Starter, starter
from vanbench.record.ceilings import Book, Ceilings, cache_place, merged, read_book
from vanbench.record.environment import Environment
from vanbench.record.task import FindCeilings, Found, Said

__all__ = ["LOOK_AGAIN_S", "Looking", "Seen", "book_for", "find_ceilings", "look_again"]

# At the end of a run: long enough to see most roofs once.
LOOK_AGAIN_S = 5.0
# A visit is short; preparing (compiling, filling arrays, checking answers) takes a few seconds.
_SILENCE_S = 120.0


class Looking(NamedTuple):
    """The worker is at it. text: preparing, or how much of the time has gone."""

    text: str


class Seen(NamedTuple):
    """The roofs of one thread count."""

    environment: Environment
    entry: Ceilings


def find_ceilings(
    device: str, threads: Sequence[int | str], seconds: float, seed: int = 0, worker: Sequence[str] = WORKER
) -> Iterator[Looking | Seen]:
    """Measure a device's roofs for each thread count, `seconds` each. Raises UserError for a device that is not here.

    Raises WorkerError if the worker fails, or finds that a kernel's answer is wrong.
    """
    with scratch() as folder:
        for count in threads:
            with starter(folder, worker) as nursery:
                environment = environment_of(nursery, device)
                for event in _look(nursery, environment, count, seconds, seed):
                    yield event if isinstance(event, Looking) else Seen(environment, event)


def _look(
    nursery: Starter, environment: Environment, threads: int | str, seconds: float, seed: int
) -> Iterator[Looking | Ceilings]:
    task = FindCeilings(
        device=environment.device,
        device_name=environment.device_name,
        machine_key=environment.machine_key,
        threads=threads,
        seconds=seconds,
        seed=seed,
    )
    child = nursery.fork(task, "ceilings")
    try:
        while isinstance(answer := child.receive(_SILENCE_S), Said):
            yield Looking(answer.phase)
        if not isinstance(answer, Found):
            raise ChildFailure("protocol", f"expected ceilings, got {type(answer).__name__}")
    except ChildFailure as failure:
        child.kill()
        raise WorkerError(f"the ceilings could not be measured: {failure}") from None
    child.leave()
    yield answer.ceilings


def look_again(
    nursery: Starter, environment: Environment, book: Book, threads: Sequence[int], seed: int
) -> Iterator[Looking | Book]:
    """A short second look at the roofs a run was held against; at last the book with what was found higher raised.

    A look that fails changes nothing: what the run measured stands.
    """
    for count in threads:
        entry = book.of(environment.machine_key, environment.device, count)
        if entry is None:
            continue
        with contextlib.suppress(WorkerError):
            for event in _look(nursery, environment, count, LOOK_AGAIN_S, seed):
                if isinstance(event, Looking):
                    yield event
                else:
                    book = book.with_entry(merged(entry, event))
    yield book


def book_for(environment: Environment, file: Path | None) -> Book:
    """The ceilings a run on this machine is held against: of `file`, else the newest in the user's cache, else none.

    Raises UserError for a file that holds none of this machine and device.
    """
    place = file if file is not None else cache_place(environment.machine_key)
    if file is None and not place.exists():
        return Book()
    entries = [
        entry
        for entry in read_book(place).entries
        if entry.machine_key == environment.machine_key and entry.device == environment.device
    ]
    if file is not None and not entries:
        raise UserError(
            f"{file} holds no ceilings of this machine's {environment.device} (machine key {environment.machine_key}): "
            "measure them with vanbench ceilings"
        )
    return Book(entries=tuple(entries))
