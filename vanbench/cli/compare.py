"""`vanbench compare`."""

from __future__ import annotations

__all__ = ["compare"]


def compare() -> int:
    """Being built."""
    raise NotImplementedError
