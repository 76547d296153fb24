"""The machine's measured roofs, and the file in the user's cache that keeps them. It measures nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from vanbench.errors import UserError
from vanbench.record.files import pretty, read_value, replace_file

__all__ = [
    "NO_BOOK",
    "Book",
    "Ceiling",
    "Ceilings",
    "Stream",
    "cache_place",
    "cache_root",
    "merged",
    "read_book",
    "remember",
]

CONVENTION = (
    "Bytes are algorithmic: each element that is read or written counts once; what a store fetches first "
    "(write-allocate) counts neither here nor in an operation's bytes."
)


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """One roof. best: the largest seen (bytes/s or FLOP/s; the least seconds for a launch): that is the roof.

    median, low: of all visits, to show how the machine wandered. how: the method that was best.
    """

    best: float
    median: float
    low: float
    visits: int
    how: str


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """Bandwidth of a kind of stream whose arrays have `bytes` in all. kind: read, copy, add, triad or update.

    An update reads and writes the same array: what is in a cache needs not be fetched for the store.
    """

    kind: str
    bytes: int
    ceiling: Ceiling


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """What one device reaches with so many threads (1 for a GPU).

    streams: by kind and working set. matrix, vector: FLOP/s by precision, a multiply-add is two; matrix is a library's
    matrix product, vector is multiply-adds that use no matrix unit. launch_s: the least time of one more operation.
    repeated: when they were last looked at again, at the end of a run that used them.
    """

    machine_key: str
    device: str
    device_name: str
    threads: int
    date: str
    seconds: float
    torch_version: str
    streams: tuple[Stream, ...]
    matrix: dict[str, Ceiling]
    vector: dict[str, Ceiling]
    launch: Ceiling | None = None
    clock_hz: float | None = None
    notes: tuple[str, ...] = ()
    repeated: str | None = None
    convention: str = CONVENTION


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """ceilings.json: one machine's ceilings, an entry for each device and thread count."""

    schema_version: int = 1
    entries: tuple[Ceilings, ...] = ()

    def of(self, machine_key: str, device: str, threads: int) -> Ceilings | None:
        """The entry for a device ("cpu", "cuda:0") and thread count; a GPU's holds for any."""
        for entry in self.entries:
            same = entry.machine_key == machine_key and entry.device == device
            if same and (device != "cpu" or entry.threads == threads):
                return entry
        return None

    def with_entry(self, entry: Ceilings) -> Book:
        """This book with `entry` in place of the one for the same machine, device and threads."""
        same = [
            (each.machine_key, each.device, each.threads) == (entry.machine_key, entry.device, entry.threads)
            for each in self.entries
        ]
        kept = tuple(each for each, drop in zip(self.entries, same, strict=True) if not drop)
        return msgspec.structs.replace(self, entries=(*kept, entry))


NO_BOOK = Book()


def merged(first: Ceilings, again: Ceilings) -> Ceilings:
    """`first` with every roof that a later look found higher raised to it; `repeated` is that look's date."""
    seen = {(each.kind, each.bytes): each for each in first.streams}
    for each in again.streams:
        before = seen.get((each.kind, each.bytes))
        seen[each.kind, each.bytes] = (
            each if before is None else msgspec.structs.replace(each, ceiling=_both(before.ceiling, each.ceiling))
        )
    launch = first.launch
    if again.launch is not None:
        launch = again.launch if launch is None else _both(launch, again.launch, least=True)
    return msgspec.structs.replace(
        first,
        streams=tuple(seen[place] for place in sorted(seen)),
        matrix=_merged_rates(first.matrix, again.matrix),
        vector=_merged_rates(first.vector, again.vector),
        launch=launch,
        repeated=again.date,
    )


def _merged_rates(first: dict[str, Ceiling], again: dict[str, Ceiling]) -> dict[str, Ceiling]:
    words = dict.fromkeys((*first, *again))
    return {
        word: _both(first[word], again[word]) if word in first and word in again else {**again, **first}[word]
        for word in words
    }


def _both(first: Ceiling, again: Ceiling, least: bool = False) -> Ceiling:
    better = again.best < first.best if least else again.best > first.best
    top = again if better else first
    visits = first.visits + again.visits
    return Ceiling(
        best=top.best,
        median=(first.median * first.visits + again.median * again.visits) / visits,
        low=max(first.low, again.low) if least else min(first.low, again.low),
        visits=visits,
        how=top.how,
    )


def cache_root() -> Path:
    """The folder of what vanbench keeps between runs: below $XDG_CACHE_HOME, or the system's place for caches."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        root = Path(given)
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA", str(Path.home())))
    else:
        root = Path.home() / ".cache"
    return root / "vanbench"


def cache_place(machine_key: str) -> Path:
    """Where `vanbench ceilings` keeps a machine's book."""
    return cache_root() / "ceilings" / f"{machine_key}.json"


def read_book(path: Path) -> Book:
    """A ceilings.json. Raises UserError where it is missing or is none."""
    book = read_value(path, Book, f"no such file of ceilings: {path}")
    if book.schema_version > 1:
        raise UserError(f"{path} has schema version {book.schema_version}, this vanbench reads up to 1")
    return book


def remember(entry: Ceilings) -> Path:
    """Put an entry into its machine's book in the user's cache; returns the file."""
    path = cache_place(entry.machine_key)
    book = read_book(path) if path.exists() else Book()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {path.parent}: {os.strerror(error.errno or 0)}") from None
    replace_file(path, pretty(book.with_entry(entry)))
    return path
