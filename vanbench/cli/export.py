"""`vanbench export`."""

from __future__ import annotations

__all__ = ["export"]


def export() -> int:
    """Being built."""
    raise NotImplementedError
