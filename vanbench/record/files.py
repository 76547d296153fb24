"""Files written so that nobody ever sees half of one, and values read back from them. Knows no names."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import TypeVar

import msgspec

from vanbench.errors import StorageError, UserError

__all__ = ["pretty", "read_value", "replace_file", "storage_error"]

_T = TypeVar("_T")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one and nothing between.

    Raises StorageError (disk full) or UserError (not writable); the old content is then still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> StorageError | UserError:
    """What a failed write is: a full disk, or a place that cannot be written."""
    if error.errno in _FULL:
        run = _run_of(path)
        then = f"continue with --resume {run}" if (run / "sweep.toml").exists() else "start again"
        return StorageError(f"no space left to write {path}: free some and {then}")
    return UserError(f"cannot write {path}: {os.strerror(error.errno or 0)}")


def _run_of(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "cells" else path.parent


def read_value(path: Path, kind: type[_T], missing: str) -> _T:
    """A value from a JSON file. Raises UserError: `missing` where there is no such file, else what is wrong with it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise UserError(missing) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
    except msgspec.DecodeError as error:
        raise UserError(f"{path} is not what vanbench wrote: {error}") from None


def pretty(value: msgspec.Struct) -> bytes:
    """JSON that people can read."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
