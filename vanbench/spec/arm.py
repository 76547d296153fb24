"""One side of a gate: which axes, interpreter, source tree or commit. Words checked, nothing started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from vanbench.errors import UserError, unknown
from vanbench.spec.cell import Cell
from vanbench.spec.sweep import AXES, parse_sweep

__all__ = ["ARM_KEYS", "Arm", "Pair", "pairs", "parse_arm"]

_SOURCES = ("python", "path", "ref")
ARM_KEYS = (*AXES, *_SOURCES, "slowdown")


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """What one arm differs in from what holds for both.

    axes: axis as typed -> its one value. python: an interpreter. path: a source tree put first on the import path.
    ref: a commit of this repository, whose tree is put first. slowdown: share of each sample's own time that is
    waited in addition and counted, 0.1 for 10 %; it is there to test the gate with.
    """

    axes: dict[str, str] = {}
    python: str | None = None
    path: str | None = None
    ref: str | None = None
    slowdown: float = 0.0

    @property
    def text(self) -> str:
        """As it can be typed again; `.` for an arm that differs in nothing."""
        words = [f"{axis}={value}" for axis, value in self.axes.items()]
        words += [f"{name}={value}" for name in _SOURCES if (value := getattr(self, name)) is not None]
        words += [f"slowdown={self.slowdown:g}"] * bool(self.slowdown)
        return ",".join(words) or "."


class Pair(NamedTuple):
    """The two cells that are compared."""

    base: Cell
    head: Cell

    @property
    def slug(self) -> str:
        """A name for people: the cell, or both where they differ."""
        return self.base.slug if self.base == self.head else f"{self.base.slug} -> {self.head.slug}"

    @property
    def key(self) -> str:
        """A name for files and seeds."""
        return self.base.key if self.base == self.head else f"{self.base.key}-{self.head.key}"


def parse_arm(role: str, text: str) -> Arm:
    """An arm from `key=value,...`; `.` or nothing is an arm that differs in nothing. role: "base" or "head"."""
    fields: dict[str, Any] = {}
    axes: dict[str, str] = {}
    for word in [word.strip() for word in text.split(",") if word.strip() not in ("", ".")]:
        key, sign, value = (part.strip() for part in word.partition("="))
        key = {"model": "models"}.get(key, key.replace("_", "-"))
        if not sign or not value:
            raise UserError(f"--{role} {word!r} is not key=value (keys: {', '.join(ARM_KEYS)})")
        if key not in ARM_KEYS:
            raise unknown(f"key of --{role}", key, ARM_KEYS)
        if key in fields or key in axes:
            raise UserError(f"--{role} gives {key} twice")
        if key in AXES:
            axes[key] = value
        else:
            fields[key] = _slowdown(role, value) if key == "slowdown" else value
    if "path" in fields and "ref" in fields:
        raise UserError(f"--{role} gives both path and ref: one source tree is put first on the import path")
    return Arm(axes=axes, **fields)


def _slowdown(role: str, text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 10:
        raise UserError(f"--{role} slowdown={text} is not a share from 0 to 10, for instance 0.1 or 10%")
    return share


def pairs(base: Arm, head: Arm, flags: Mapping[str, Any]) -> tuple[Pair, ...]:
    """The pairs to compare: the cells of `flags` (axes as typed, and device) with each arm's own axes put in.

    Raises UserError for a wrong word, and for an axis that has several values outside and one in an arm.
    """
    for role, arm in (("base", base), ("head", head)):
        for axis, value in arm.axes.items():
            outside = flags.get(axis)
            if outside is not None and "," in str(outside):
                raise UserError(f"--{role} says {axis}={value}, but --{axis} {outside} gives several for both arms")
    sides = [parse_sweep({}, {**flags, **arm.axes}).cells() for arm in (base, head)]
    return tuple(Pair(*both) for both in zip(*sides, strict=True))
