"""One look at one roof: which roof, by which method, and the function that gives the figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Place", "Visit"]


class Place(NamedTuple):
    """roof: stream, matrix, vector or launch. word: the stream's kind or the precision. bytes: of a stream's arrays."""

    roof: str
    word: str = ""
    bytes: int = 0


class Visit(NamedTuple):
    """run: gives bytes/s or FLOP/s, of a launch seconds; how: the method, in words that stand beside the figure."""

    place: Place
    how: str
    run: Callable[[], float]
