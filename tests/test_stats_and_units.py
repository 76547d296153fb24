"""Statistics against closed forms, and text of numbers against the numbers."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from vanbench import stats, units

figures = st.floats(min_value=1e-6, max_value=1e7)
relative = st.floats(min_value=1e-7, max_value=3.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0, 1))
def test_a_quantile_agrees_with_numpy(values: list[float], share: float) -> None:
    assert stats.quantile(values, share) == pytest.approx(np.quantile(values, share), rel=1e-9, abs=1e-6)


def test_a_quantile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        stats.quantile([], 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.quantile([1.0], 1.5)


@given(st.lists(st.floats(-100, 100), min_size=4, max_size=40), st.sampled_from([0.0, 0.1, 0.25]))
def test_a_trimmed_mean_agrees_with_scipy(values: list[float], share: float) -> None:
    expected = scipy_stats.trim_mean(values, share)
    assert stats.trimmed_mean(values, share) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_trimmed_mean_keeps_something() -> None:
    with pytest.raises(ValueError, match=r"under 0\.5"):
        stats.trimmed_mean([1.0, 2.0], 0.5)


def test_the_t_interval_is_the_text_books() -> None:
    values = [9.0, 10.0, 11.0, 12.0, 13.0]
    # t(0.975, 4) = 2.776445, s = sqrt(2.5)
    assert stats.t_half_width(values) == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)
    assert stats.t_half_width([1.0]) is None


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (27.31, 26.9, 27.72, "27.3 ± 0.4"),
        (512.3, 503.0, 521.0, "512 ± 9"),
        (1.0234, 0.9, 1.14, "1.02 ± 0.12"),
        (0.51234, 0.508, 0.5165, "0.512 ± 0.004"),
        (12345.0, 11667.0, 13023.0, "12300 ± 700"),
        (0.3, -19.7, 20.3, "0 ± 20"),
        (9.97, 9.5, 10.47, "10.0 ± 0.5"),
        (27.31, None, None, "27.3"),
        (27.31, 27.31, 27.31, "27.31 ± 0"),
        (27.31, 27.3099999, 27.3100001, "27.3100 ± 0.0001"),
    ],
)
def test_printed_digits_follow_from_the_spread(value: float, low: float | None, high: float | None, text: str) -> None:
    assert units.with_spread(value, low, high) == text


@given(figures, relative)
def test_a_figure_with_its_spread_is_read_back_within_the_spread(value: float, share: float) -> None:
    spread = value * share
    text = units.with_spread(value, value - spread, value + spread)
    shown, shown_spread = map(float, text.split(" ± "))
    assert abs(shown - value) <= max(spread, value * 1e-5)
    assert shown_spread >= 0.74 * spread
    assert shown_spread <= max(1.34 * spread, value * 1.1e-5)
    assert "e" not in text.lower()


def test_a_figure_outside_its_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="not within"):
        units.with_spread(3.0, 4.0, 2.0)


@given(st.floats(min_value=1e-12, max_value=1e15), st.booleans())
def test_plain_numbers_are_read_back_to_ten_digits_and_have_no_exponent(size: float, negative: bool) -> None:
    value = -size if negative else size
    text = units.plain(value)
    assert re.fullmatch(r"-?\d+(\.\d*[1-9])?", text)
    assert float(text) == pytest.approx(value, rel=5.1e-10)


def test_plain_keeps_integers_exactly_and_refuses_what_is_not_finite() -> None:
    assert units.plain(12_345_678_901_234) == "12345678901234"
    assert units.plain(0.0) == "0"
    for absent in (math.nan, math.inf):
        with pytest.raises(ValueError, match="no decimal"):
            units.plain(absent)


@given(figures, st.integers(1, 6))
def test_significant_digits_are_never_more_than_asked(value: float, digits: int) -> None:
    text = units.significant(value, digits)
    assert len(text.replace(".", "").strip("0")) <= digits
    assert float(text) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.seconds(0.03661), "36.6 ms"),
        (units.seconds(0.000812), "812 µs"),
        (units.seconds(1.234), "1.23 s"),
        (units.seconds(0.9996), "1 s"),
        (units.seconds(4e-9), "4 ns"),
        (units.seconds(1234.4), "1234 s"),
        (units.memory(512 * 2**20), "512 MiB"),
        (units.memory(1020 * 2**20), "1020 MiB"),
        (units.memory(1.5 * 2**30), "1.5 GiB"),
        (units.memory(0), "0 B"),
        (units.quantity(4_105_800), "4.11 M"),
        (units.quantity(17), "17"),
        (units.percent(0.0213), "2.1 %"),
        (units.duration(45.2), "45 s"),
        (units.duration(200), "3 min 20 s"),
        (units.duration(240), "4 min"),
        (units.duration(3900), "1 h 05 min"),
        (units.duration(59.7), "1 min"),
    ],
)
def test_text_for_people_has_its_unit(text: str, expected: str) -> None:
    assert text == expected
