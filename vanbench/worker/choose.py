"""Which implementation serves each depthwise conv of a cell with depthwise=auto: found when the cell is vetted.

Only read by the processes that are timed, so that they have no other past than those of the cells beside them.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from vanbench.kernels.choice import Choice
from vanbench.spec.cell import Cell

__all__ = ["chosen", "is_chosen", "keep_choices"]


def is_chosen(cell: Cell) -> bool:
    """Whether this run has chosen for the cell."""
    return _file(cell).exists()


def keep_choices(cell: Cell, choices: dict[str, Choice]) -> None:
    """choices: by the convolution's name in the model."""
    _file(cell).write_bytes(msgspec.json.encode(choices))


def chosen(cell: Cell) -> dict[str, Choice]:
    """What was chosen when the cell was vetted in this run."""
    return msgspec.json.decode(_file(cell).read_bytes(), type=dict[str, Choice])


def _file(cell: Cell) -> Path:
    # Compiled or not, and whatever serves memory: the same choice.
    eager = msgspec.structs.replace(cell, compile="off", allocator="system")
    return Path(os.environ["VANBENCH_CACHE"]) / f"{eager.key}.depthwise.json"
