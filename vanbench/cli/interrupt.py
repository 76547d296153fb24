"""An interrupt that cannot get lost.

A KeyboardInterrupt is raised wherever Python happens to be, and some places swallow it: one run of many was seen to go
on to its end after a Ctrl-C that came just as the first interval was computed, most likely inside scipy's import. So
the signal is also remembered, and whoever follows a run asks between events.
"""

from __future__ import annotations

import signal

__all__ = ["check", "install"]

_seen: list[int] = []


def _interrupted(number: int, _frame: object) -> None:
    _seen.append(number)
    raise KeyboardInterrupt


def install() -> None:
    """Let Ctrl-C, a termination and a hang-up all interrupt; forget earlier ones."""
    _seen.clear()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupted)


def check() -> None:
    """Raise KeyboardInterrupt if a signal came, however long ago."""
    if _seen:
        raise KeyboardInterrupt
