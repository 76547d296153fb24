"""The page that GitHub shows beside a job: what is appended to it, and never more than it takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from vanbench.record.files import storage_error

__all__ = ["MOST_BYTES", "append_summary"]

# Above 1024 KiB a step's summary is dropped altogether; a little is left for what others write into the same.
MOST_BYTES = 1000 * 1024
VARIABLE = "GITHUB_STEP_SUMMARY"


def append_summary(write: Callable[[int], str]) -> Path | None:
    """Append to the file that $GITHUB_STEP_SUMMARY names; None where it is not set.

    write: makes the Markdown from the bytes there are left. Raises what a failed write is.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    path = Path(name)
    try:
        taken = path.stat().st_size if path.exists() else 0
        text = write(max(0, MOST_BYTES - taken - 1)).encode()
        with open(path, "ab") as file:
            file.write(b"\n" * bool(taken) + text)
    except OSError as error:
        raise storage_error(error, path) from None
    return path
