"""The exception tree, and nothing else. The command line turns each into one message and an exit code.

VanbenchError
├── UserError           a word, value, key, file, directory or device that cannot be: exit 2
├── StorageError        what was measured could not be written (full disk): exit 1, what is on disk stays whole
└── WorkerError         a worker could not be started at all (no torch, wrong interpreter): exit 1
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["StorageError", "UserError", "VanbenchError", "WorkerError", "nearest", "unknown"]


class VanbenchError(Exception):
    """Anything this package raises on purpose. `exit_code` is what the command line leaves with."""

    exit_code = 1


class UserError(VanbenchError):
    """The user's mistake. The message names the word, what is allowed and the nearest spelling."""

    exit_code = 2


class StorageError(VanbenchError):
    """A file could not be written; nothing already on disk was harmed."""


class WorkerError(VanbenchError):
    """The measured side could not be started."""


def nearest(word: str, allowed: Iterable[str], count: int = 3) -> list[str]:
    """The spellings in `allowed` closest to `word`, best first (difflib's ratio, case ignored)."""
    names = {name.lower(): name for name in allowed}
    return [names[hit] for hit in difflib.get_close_matches(word.lower(), names, n=count, cutoff=0.5)]


def unknown(kind: str, word: str, allowed: Iterable[str], *, show: int = 24) -> UserError:
    """The one message for a word that is not in a closed set.

    `kind` is the noun of the set ("precision", "model"), `show` the most names printed.
    """
    names = list(allowed)
    text = f"unknown {kind} {word!r}"
    close = nearest(word, names)
    if close:
        text += f"; did you mean {' or '.join(repr(name) for name in close)}?"
    if len(names) <= show:
        text += f" (allowed: {', '.join(names)})"
    else:
        text += f" ({len(names)} are known)"
    return UserError(text)
