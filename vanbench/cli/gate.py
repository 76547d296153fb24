"""`vanbench gate`."""

from __future__ import annotations

__all__ = ["gate"]


def gate() -> int:
    """Being built."""
    raise NotImplementedError
