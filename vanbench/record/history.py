"""The history: what runs came to, kept for years. A JSON line an entry, a shard a machine and month; only appended.

It stores and reads; what the points mean is `analysis/history.py`'s. No host name is ever in it.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from vanbench.errors import UserError
from vanbench.record.environment import Environment, Hardware
from vanbench.record.files import pretty, replace_file, storage_error
from vanbench.record.measurement import Round

__all__ = [
    "SCHEMA_VERSION",
    "Accepted",
    "Entry",
    "History",
    "Point",
    "Unreadable",
    "accept",
    "append",
    "point_id",
    "read_history",
    "stack_key",
    "stack_of",
    "state_of",
    "whole_time",
]

SCHEMA_VERSION = 1

# Both sides of a merge keep their lines: appended files never conflict, and a line that both have is dropped by its id.
_ATTRIBUTES = "*.jsonl merge=union\n"
_MACHINE = "machine.json"
_KEY = "^[0-9a-f]{6,64}$"
_TIME = "^[0-9]{4}-(0[1-9]|1[0-2])-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"
_Key = Annotated[str, msgspec.Meta(pattern=_KEY)]
_Time = Annotated[str, msgspec.Meta(pattern=_TIME)]

# Of the versions those that decide speed. Not vanbench's: what it does to speed is what the history is to show. Not the
# kernel's and NumPy's: they change with every image of a hosted runner, so that no segment would ever be long enough.
_DECIDING = ("python", "torch", "timm", "cuda", "cudnn", "driver", "os", "libc", "cpu_capability")
# Which device of several equal ones a job is given says nothing about speed, and changes from job to job.
_NOT_DECIDING = frozenset({"CUDA_VISIBLE_DEVICES"})


class Point(msgspec.Struct, frozen=True, kw_only=True, tag="point"):
    """What one run measured of one cell. time: when the run began, UTC.

    machine: its name for people. stack: what decides speed besides the hardware; stack_key its hash. state: load,
    clocks, pressure and such as the run began, never part of a key. cell: the fields that were asked. images_per_s
    with its 95 % interval (absent with one round); rates: images/s of each round. ratio: over the cell `reference` of
    the same run, where there is one.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    time: _Time
    commit: str | None = None
    branch: str | None = None
    machine_key: _Key
    machine: str
    device_name: str
    stack: dict[str, str]
    stack_key: str
    state: dict[str, Any] = {}
    vanbench_version: str = ""
    cell_key: _Key
    cell: dict[str, Any]
    slug: str
    images_per_s: float | None
    low: float | None = None
    high: float | None = None
    rounds: int
    rates: tuple[float, ...] = ()
    ratio: float | None = None
    reference: str | None = None
    flags: tuple[str, ...] = ()


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag="accepted"):
    """A wanted change of one series: what comes later is held against what comes later. commit: what brought it."""

    schema_version: int = SCHEMA_VERSION
    id: str
    time: _Time
    machine_key: _Key
    cell_key: _Key
    slug: str
    reason: str
    commit: str | None = None


Entry = Point | Accepted


class Unreadable(NamedTuple):
    """A line that was left out, and why. line: counted from 1."""

    path: Path
    line: int
    why: str


class History(NamedTuple):
    """A store as read: each entry once, by time and then id. machines: hardware by machine key, where it is kept."""

    points: tuple[Point, ...]
    accepted: tuple[Accepted, ...]
    unreadable: tuple[Unreadable, ...]
    machines: dict[str, Hardware]


class _Head(msgspec.Struct):
    schema_version: int = SCHEMA_VERSION


_decoder = msgspec.json.Decoder(Point | Accepted)
_head_decoder = msgspec.json.Decoder(_Head)


# --- what entries are made of ---------------------------------------------------------------------------------------


def _hash(value: object, digits: int) -> str:
    """So many hex digits of SHA-256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def whole_time(text: str, whence: str) -> str:
    """The time, if it is UTC to the second as entries hold it; UserError, with `whence` it came, if not.

    It names a file, so nothing else may pass.
    """
    try:
        if re.match(_TIME, text):
            datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
            return text
    except ValueError:
        pass
    raise UserError(f"{whence} has no time such as 2026-01-02T03:04:05Z: {text!r}")


def point_id(machine_key: str, cell_key: str, date: str, first: Round) -> str:
    """16 hex digits: the same whenever and wherever the run is added, and however long it is continued afterwards.

    first: the cell's first round, which never changes again once it is written. Its clock readings tell two runs
    apart that began in the same second on two machines of a kind.
    """
    return _hash([machine_key, cell_key, date, first.round, first.sample_start_s, first.sample_s], 16)


def stack_of(environment: Environment, threads: int) -> dict[str, str]:
    """What decides speed besides the hardware: versions, settings of the process, threads that the cell came to."""
    versions = {name: getattr(environment.software, name) for name in _DECIDING}
    settings = {name: value for name, value in environment.settings.items() if name not in _NOT_DECIDING}
    if "LD_PRELOAD" in settings:
        # The folder of a library decides nothing, and may tell more than its owner wants in public.
        settings["LD_PRELOAD"] = " ".join(each.rpartition("/")[2] for each in re.split("[: ]+", settings["LD_PRELOAD"]))
    stack = {**versions, "threads": str(threads), **settings}
    return {name: str(value) for name, value in stack.items() if value not in (None, "")}


def stack_key(stack: Mapping[str, str]) -> str:
    """12 hex digits of a stack."""
    return _hash(dict(stack), 12)


def state_of(environment: Environment) -> dict[str, Any]:
    """How the machine stood as the run began, and the versions that are no part of the stack; absent is absent."""
    seen = {
        **msgspec.to_builtins(environment.rest),
        "kernel": environment.software.kernel,
        "numpy": environment.software.numpy,
    }
    return {name: value for name, value in seen.items() if value not in (None, [], "")}


def accept(point: Point, time: str, reason: str, commit: str | None) -> Accepted:
    """The acceptance of a wanted change in the series of `point`."""
    return Accepted(
        id=_hash([point.machine_key, point.cell_key, time, reason, commit], 16),
        time=time,
        machine_key=point.machine_key,
        cell_key=point.cell_key,
        slug=point.slug,
        reason=reason,
        commit=commit,
    )


# --- writing --------------------------------------------------------------------------------------------------------


def append(store: Path, entries: Sequence[Entry], hardware: Hardware | None = None) -> int:
    """Append those entries that are not there yet, and make the store if need be; how many were new.

    hardware: of the machine that all entries are of, kept beside its shards for people and for comparisons. Writers may
    come at once. Raises UserError (no directory, not writable) or StorageError (disk full); a shard then is as it was.
    """
    shards: dict[Path, list[Entry]] = {}
    for entry in entries:
        if not re.match(_KEY, entry.machine_key):
            raise UserError(f"{entry.machine_key!r} is no machine key")
        time = whole_time(entry.time, entry.slug)
        shards.setdefault(store / entry.machine_key / f"{time[:7]}.jsonl", []).append(entry)
    if not entries:
        return 0
    _make(store)
    if not (store / ".gitattributes").exists():
        replace_file(store / ".gitattributes", _ATTRIBUTES.encode())
    added = 0
    for shard, mine in shards.items():
        _make(shard.parent)
        machine = shard.parent / _MACHINE
        if hardware is not None and not machine.exists():
            replace_file(machine, pretty(hardware))
        added += _append(shard, mine)
    return added


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder} is not a directory") from None
    except OSError as error:
        raise storage_error(error, folder) from None


def _append(shard: Path, entries: Sequence[Entry]) -> int:
    try:
        descriptor = os.open(shard, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            with _locked(descriptor, alone=True):
                return _append_locked(descriptor, entries)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(error, shard) from error


def _append_locked(descriptor: int, entries: Sequence[Entry]) -> int:
    present = _content(descriptor)
    known = {entry.id for _, entry in _parsed(present) if not isinstance(entry, str)}
    fresh = list({entry.id: entry for entry in entries if entry.id not in known}.values())
    if not fresh:
        return 0
    # A writer that died within a line has left no newline; without one of ours the first new line would be lost too.
    torn = b"\n" if present and not present.endswith(b"\n") else b""
    left = memoryview(torn + b"".join(msgspec.json.encode(entry) + b"\n" for entry in fresh))
    try:
        # One call writes it all, unless the disk is full: then the next one says so.
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, len(present))
        raise
    return len(fresh)


def _content(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def _locked(descriptor: int, *, alone: bool) -> Iterator[None]:
    """Wait until no other vanbench writes (alone: nor reads) the file; the system drops the lock of whoever dies."""
    if sys.platform == "win32":
        import msvcrt

        # There a locked byte cannot be read by others: a byte far behind the end stands for the file. LK_LOCK tries for
        # ten seconds and then says EDEADLK.
        place = 0x7FFF_FFFE
        os.lseek(descriptor, place, os.SEEK_SET)
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
                break
            except OSError as error:
                if error.errno != errno.EDEADLK:
                    raise
        try:
            yield
        finally:
            os.lseek(descriptor, place, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        # Closing the file drops it.
        yield


# --- reading --------------------------------------------------------------------------------------------------------


def read_history(store: Path) -> History:
    """Everything in a store. A line that cannot be read is named, never fatal. Raises UserError: no such store."""
    if not store.is_dir():
        wrong = "is not a directory" if store.exists() else "does not exist"
        raise UserError(f"no history: {store} {wrong}; vanbench track add makes one, --store names another")
    entries: dict[str, Entry] = {}
    unreadable: list[Unreadable] = []
    machines: dict[str, Hardware] = {}
    for folder in _folders(store):
        for shard in sorted(folder.glob("*.jsonl")):
            for line, entry in _parsed(_read(shard)):
                if isinstance(entry, str):
                    unreadable.append(Unreadable(shard, line, entry))
                else:
                    entries.setdefault(entry.id, entry)
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            machines[folder.name] = msgspec.json.decode((folder / _MACHINE).read_bytes(), type=Hardware)
    ordered = sorted(entries.values(), key=lambda entry: (entry.time, entry.id))
    return History(
        tuple(entry for entry in ordered if isinstance(entry, Point)),
        tuple(entry for entry in ordered if isinstance(entry, Accepted)),
        tuple(unreadable),
        machines,
    )


def _folders(store: Path) -> list[Path]:
    """One a machine; whatever else lies in a store (plots, a checkout's own files) is not looked at."""
    try:
        return sorted(each for each in store.iterdir() if re.match(_KEY, each.name) and each.is_dir())
    except OSError as error:
        raise UserError(f"cannot read {store}: {error.strerror}") from None


def _read(shard: Path) -> bytes:
    try:
        descriptor = os.open(shard, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            # A line that is just being written must not pass for a torn one. Where there are no locks we do without.
            with contextlib.ExitStack() as stack:
                if sys.platform != "win32":
                    with contextlib.suppress(OSError):
                        stack.enter_context(_locked(descriptor, alone=False))
                return _content(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"cannot read {shard}: {error.strerror}") from None


def _parsed(content: bytes) -> Iterable[tuple[int, Entry | str]]:
    """(line number, entry or why there is none) of each line that is not blank."""
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield number, _entry(line)


def _entry(line: bytes) -> Entry | str:
    entry: Entry | None = None
    why = ""
    try:
        entry = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = str(error)
    version = SCHEMA_VERSION
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        version = _head_decoder.decode(line).schema_version
    # Said first: what a newer version wrote need not make sense here.
    if version > SCHEMA_VERSION:
        return f"schema version {version}, this vanbench reads up to {SCHEMA_VERSION}"
    return entry or why
