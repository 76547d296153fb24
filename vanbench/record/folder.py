"""The directory that `ceilings`, `profile` and `depthwise` write: the one place that knows its file names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from vanbench.errors import UserError
from vanbench.record.ceilings import Book, read_book
from vanbench.record.environment import Environment
from vanbench.record.files import pretty, read_value, replace_file, storage_error
from vanbench.record.profile import Case, CaseVisit, Profile

__all__ = [
    "Folder",
    "Lone",
    "Profiles",
    "claim_folder",
    "make_folder",
    "read_environment",
    "read_folder",
    "save_book",
    "save_lone",
    "save_profiles",
]

_T = TypeVar("_T")


class Profiles(msgspec.Struct, frozen=True, kw_only=True):
    """profiles.json: what was profiled, and (cell, why) of what could not be."""

    schema_version: int = 1
    profiles: tuple[Profile, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()


class Lone(msgspec.Struct, frozen=True, kw_only=True):
    """depthwise.json: depthwise convs alone. rounds: each a fresh process, with its visits."""

    schema_version: int = 1
    cases: tuple[Case, ...]
    implementations: tuple[str, ...]
    device: str
    threads: int
    rounds: tuple[tuple[CaseVisit, ...], ...] = ()


class Folder(NamedTuple):
    """As read. profiles, lone: None where the verb that makes them was another."""

    path: Path
    environment: Environment
    book: Book
    profiles: Profiles | None
    lone: Lone | None


def claim_folder(path: Path) -> None:
    """A new folder; refused where something stands already."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{path} is not a directory") from None
    except OSError as error:
        raise storage_error(error, path) from None
    if any(not name.startswith(".") for name in os.listdir(path)):
        raise UserError(f"{path} is not empty: give another --out")


def make_folder(path: Path, environment: Environment, book: Book) -> None:
    """A new folder with the environment and the ceilings; refused where something stands already."""
    claim_folder(path)
    replace_file(path / "environment.json", pretty(environment))
    if book.entries:
        save_book(path, book)


def save_book(path: Path, book: Book) -> None:
    """ceilings.json."""
    replace_file(path / "ceilings.json", pretty(book))


def save_profiles(path: Path, profiles: Sequence[Profile], failed: Sequence[tuple[str, str]]) -> None:
    """profiles.json."""
    replace_file(
        path / "profiles.json",
        msgspec.json.encode(Profiles(profiles=tuple(profiles), failed=tuple(failed))) + b"\n",
    )


def save_lone(path: Path, lone: Lone) -> None:
    """depthwise.json."""
    replace_file(path / "depthwise.json", msgspec.json.encode(lone) + b"\n")


def read_folder(path: Path) -> Folder:
    """Raises UserError where a file is missing or is not what vanbench wrote."""
    environment = read_environment(path)
    book, profiles, lone = (path / name for name in ("ceilings.json", "profiles.json", "depthwise.json"))
    return Folder(
        path,
        environment,
        read_book(book) if book.exists() else Book(),
        _decode(profiles, Profiles) if profiles.exists() else None,
        _decode(lone, Lone) if lone.exists() else None,
    )


def read_environment(path: Path) -> Environment:
    """The environment of a folder, or of a run directory."""
    return _decode(path / "environment.json", Environment)


def _decode(path: Path, kind: type[_T]) -> _T:
    return read_value(path, kind, f"{path.parent} holds nothing of vanbench: it has no {path.name}")
