"""All text that is made of numbers: for people (digits follow the spread) and for files (plain decimal)."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal

__all__ = ["duration", "memory", "percent", "plain", "quantity", "seconds", "significant", "with_spread"]

# Ten significant digits: a nanosecond in ten seconds, and far below any spread seen.
FILE_DIGITS = 10
# Of a value with an (almost) vanishing spread no more is printed than this.
MOST_DIGITS = 6


def plain(value: float) -> str:
    """Plain decimal for files: no exponent, at most ten significant digits, no trailing zeros; integers exactly.

    Raises ValueError for a value that is not finite: an absent figure is an empty cell, which is the caller's.
    """
    if isinstance(value, int):
        return str(int(value))
    return _text(_rounded(value, FILE_DIGITS))


def significant(value: float, digits: int = 3) -> str:
    """`value` with at most `digits` significant digits, plain decimal: 27.31 -> 27.3, 12345 -> 12300."""
    return _text(_rounded(value, digits))


def with_spread(value: float, low: float | None, high: float | None) -> str:
    """A figure whose digits follow from its spread: `27.3 ± 0.4`, `512 ± 9`, `1.02 ± 0.12`.

    The wider side of the interval is printed with one digit, or two if the first is a 1 (one digit of 1.4 would lose
    a third of it). Without an interval: at most three significant digits.
    """
    if low is None or high is None:
        return significant(value)
    spread = max(high - value, value - low)
    if spread < 0 or not math.isfinite(spread):
        raise ValueError(f"{value} is not within {low} to {high}")
    finest = _magnitude(value) - MOST_DIGITS + 1 if value else -MOST_DIGITS
    if spread == 0:
        return f"{_text(_to_place(value, finest))} ± 0"
    place = _magnitude(spread)
    digits = Decimal(repr(spread)).scaleb(-place)
    place = max(place if digits >= 2 else place - 1, finest)
    # A spread below the last printed digit is rounded up to it: never shown smaller than it is.
    rounding = ROUND_CEILING if place > _magnitude(spread) else ROUND_HALF_EVEN
    shown = _to_place(spread, place, rounding)
    return f"{format(_to_place(value, place), 'f')} ± {format(shown, 'f')}"


def seconds(value: float) -> str:
    """A length of time to three digits: `36.6 ms`, `812 µs`, `1.23 s`."""
    return _scaled(value, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)))


def memory(size_bytes: float) -> str:
    """Bytes to three digits, binary units as allocators, pages and drivers count: `512 MiB`, `1.5 GiB`."""
    return _scaled(size_bytes, (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("B", 1.0)))


def quantity(value: float) -> str:
    """A count to three digits with an SI prefix: 4105800 -> `4.11 M`."""
    return _scaled(value, (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))).strip()


def percent(share: float, digits: int = 2) -> str:
    """A share as percent: 0.0213 -> `2.1 %`."""
    return f"{significant(share * 100, digits)} %"


def duration(value_s: float) -> str:
    """Time as people say it, to the second: `45 s`, `3 min 20 s`, `1 h 05 min`."""
    whole = max(0, round(value_s))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s" if whole % 60 else f"{whole // 60} min"
    whole_min = round(whole / 60)
    return f"{whole_min // 60} h {whole_min % 60:02d} min" if whole_min % 60 else f"{whole_min // 60} h"


def _scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    """The value in the largest unit of which, once rounded, it holds at least one; units from large to small."""
    for unit, size in units:
        text = significant(value / size)
        if abs(float(text)) >= 1 or (unit, size) == units[-1]:
            # Of a binary unit four digits can stand before the point (1000 to 1023 MiB): print them all.
            if abs(value / size) >= 999.5:
                text = str(round(value / size))
            return f"{text} {unit}"
    raise AssertionError("units is never empty")


def _magnitude(value: float) -> int:
    """The decimal place of the first significant digit: 27.3 -> 1, 0.05 -> -2."""
    return Decimal(repr(float(value))).adjusted()


def _rounded(value: float, digits: int) -> Decimal:
    if not math.isfinite(value):
        raise ValueError(f"{value} has no decimal text")
    exact = Decimal(repr(float(value)))
    if exact == 0:
        return Decimal(0)
    rounded = _to_place(value, exact.adjusted() - digits + 1)
    # 9.996 to three digits is 10.0, one digit more than asked.
    return _to_place(value, rounded.adjusted() - digits + 1)


def _to_place(value: float, place: int, rounding: str = ROUND_HALF_EVEN) -> Decimal:
    exact = Decimal(repr(float(value)))
    # Decimal.quantize fails beyond the context's 28 digits; no figure here needs them, so the place is coarsened.
    place = max(place, exact.adjusted() - 25)
    return exact.quantize(Decimal(1).scaleb(place), rounding=rounding)


def _text(value: Decimal) -> str:
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text
