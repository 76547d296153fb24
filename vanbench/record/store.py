"""The run directory: the one class that knows its file names. Writes to a temporary name and renames, always."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from vanbench.errors import UserError
from vanbench.record.ceilings import Book, read_book
from vanbench.record.environment import Environment
from vanbench.record.files import pretty, read_value, replace_file, storage_error
from vanbench.record.record import SCHEMA_VERSION, Record, Skipped, Stack
from vanbench.spec.cell import Cell
from vanbench.spec.sampling import Sampling
from vanbench.spec.sweep import Sweep, parse_sweep, read_toml, sweep_to_toml

__all__ = ["Run", "Store", "read_run"]

_T = TypeVar("_T")


class Run(NamedTuple):
    """A run directory as read: one record for each cell of the sweep, in its order. book: its ceilings, if any."""

    path: Path
    sweep: Sweep
    environment: Environment
    records: tuple[Record, ...]
    book: Book


def _decode(path: Path, kind: type[_T]) -> _T:
    return read_value(path, kind, f"{path.parent} is not a run directory: it has no {path.name}")


def _not_reached(cell: Cell, sampling: Sampling, environment: Environment) -> Record:
    stack = Stack(
        machine_key=environment.machine_key,
        device_name=environment.device_name,
        torch_version=environment.software.torch,
        vanbench_version=environment.software.vanbench,
    )
    return Record(key=cell.key, cell=cell, sampling=sampling, stack=stack, outcome=Skipped(reason="not reached"))


def read_run(path: str | Path) -> Run:
    """Everything in a run directory; a cell that has no record yet stands as skipped, "not reached"."""
    run = Path(path)
    if not run.is_dir():
        raise UserError(f"no such run directory: {run}")
    environment = _decode(run / "environment.json", Environment)
    if not (run / "sweep.toml").exists():
        raise UserError(f"{run} is not a run directory: it has no sweep.toml")
    sweep = parse_sweep(read_toml(run / "sweep.toml"), {})
    records = []
    for cell in sweep.cells():
        file = run / "cells" / f"{cell.key}.json"
        record = _decode(file, Record) if file.exists() else _not_reached(cell, sweep.plan, environment)
        if record.schema_version > SCHEMA_VERSION:
            raise UserError(
                f"{file} has schema version {record.schema_version}, this vanbench reads up to {SCHEMA_VERSION}"
            )
        if record.cell != cell:
            raise UserError(f"{file} belongs to another cell: {record.cell.slug}, not {cell.slug}")
        records.append(record)
    return Run(run, sweep, environment, tuple(records), _book_in(run))


def _book_in(run: Path) -> Book:
    file = run / "ceilings.json"
    return read_book(file) if file.exists() else Book()


class Store:
    """A run directory being written, held by one process at a time."""

    def __init__(self, path: Path, sweep: Sweep, environment: Environment, lock: int) -> None:
        self.path = path
        self.sweep = sweep
        self.environment = environment
        self._lock = lock
        self.records: dict[str, Record] = {}
        self.book = Book()

    @classmethod
    @contextlib.contextmanager
    def create(cls, path: Path, sweep: Sweep, environment: Environment) -> Iterator[Store]:
        """A new run directory; refused where one stands already."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTDIR):
                raise UserError(f"{path} is not a directory") from None
            raise storage_error(error, path) from None
        if (path / "sweep.toml").exists():
            raise UserError(f"{path} holds a run already: continue it with --resume {path}, or give another --out")
        if any(not name.startswith(".") for name in os.listdir(path)):
            raise UserError(f"{path} is not empty and holds no run: give another --out")
        with cls._locked(path) as lock:
            store = cls(path, sweep, environment, lock)
            cells = path / "cells"
            try:
                cells.mkdir(exist_ok=True)
            except OSError as error:
                raise storage_error(error, cells) from None
            replace_file(path / "environment.json", pretty(environment))
            # Last, since its presence says that a run stands here.
            replace_file(path / "sweep.toml", sweep_to_toml(sweep).encode())
            yield store

    @classmethod
    @contextlib.contextmanager
    def resume(cls, path: Path, environment: Environment) -> Iterator[Store]:
        """A run directory to continue on this machine; refused where the machine or the software differs."""
        before = read_run(path)
        difference = before.environment.difference(environment)
        if difference is not None:
            raise UserError(f"{path} was measured elsewhere and cannot be continued here: {difference}")
        with cls._locked(path) as lock:
            # Read again: another process may have written between the first look and the lock.
            run = read_run(path)
            store = cls(path, run.sweep, run.environment, lock)
            store.records = {record.key: record for record in run.records if _has_file(path, record.key)}
            store.book = run.book
            yield store

    @classmethod
    @contextlib.contextmanager
    def _locked(cls, path: Path) -> Iterator[int]:
        try:
            lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise storage_error(error, path) from None
        try:
            try:
                _take_lock(lock)
            except OSError:
                raise UserError(f"{path} is in use by another vanbench run") from None
            yield lock
        finally:
            os.close(lock)

    def save(self, record: Record) -> None:
        """Keep a record, replacing the one of the same cell; its finished rounds must still be in it."""
        before = self.records.get(record.key)
        if before is not None and record.rounds[: len(before.rounds)] != before.rounds:
            raise AssertionError(f"a finished round of {record.cell.slug} would change")
        replace_file(self.path / "cells" / f"{record.key}.json", msgspec.json.encode(record) + b"\n")
        self.records[record.key] = record

    def save_book(self, book: Book) -> None:
        """Keep the ceilings that the run's rows are held against."""
        replace_file(self.path / "ceilings.json", pretty(book))
        self.book = book

    def in_order(self) -> tuple[Record, ...]:
        """A record for each cell of the sweep, as `read_run` would give it."""
        return tuple(
            self.records.get(cell.key) or _not_reached(cell, self.sweep.plan, self.environment)
            for cell in self.sweep.cells()
        )

    def blank(self, cell: Cell) -> Record:
        """The record of a cell before anything was seen of it."""
        return self.records.get(cell.key) or _not_reached(cell, self.sweep.plan, self.environment)


def _has_file(path: Path, key: str) -> bool:
    return (path / "cells" / f"{key}.json").exists()


def _take_lock(descriptor: int) -> None:
    """An advisory lock that the system drops however its holder dies. Raises OSError if it is held."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
