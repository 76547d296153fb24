"""`vanbench selftest`."""

from __future__ import annotations

__all__ = ["selftest"]


def selftest() -> int:
    """Being built."""
    raise NotImplementedError
