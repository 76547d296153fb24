"""Bounds: the right roof for each operation, its level's bandwidth, and never a longer time than must be."""

from __future__ import annotations

import msgspec
import pytest
from builders import make_ceilings, roof

from vanbench.analysis.roofline import WINOGRAD, bandwidth, bound, least, matrix_rate, missing_roofs, vector_rate
from vanbench.record.ceilings import Stream
from vanbench.record.ops import Work


def test_bandwidth_is_that_of_the_level_and_never_of_a_slower_one() -> None:
    ceilings = make_ceilings()
    assert bandwidth(ceilings, 1) == 100e9, "below the smallest size: the smallest"
    assert bandwidth(ceilings, 1 << 16) == 100e9, "the fastest kind of stream"
    assert bandwidth(ceilings, (1 << 20) - 1) == 100e9, "between two sizes: the smaller one's"
    assert bandwidth(ceilings, 1 << 20) == 95e9
    assert bandwidth(ceilings, 1 << 24) == 10e9, "a larger size that was faster shows that this one was disturbed"
    assert bandwidth(ceilings, 1 << 40) == 10e9
    assert bandwidth(make_ceilings(streams=()), 1) is None


@pytest.mark.parametrize(
    ("work", "kind", "seconds"),
    [
        (Work(bytes=10_000_000_000, dtype="fp32", vector_flops=10), "bandwidth", 1.0),
        (Work(bytes=1000, dtype="fp32", vector_flops=50_000_000), "vector", 1e-3),
        (Work(bytes=1000, dtype="fp32", matrix_flops=200_000_000), "matrix", 1e-3),
        (Work(bytes=1000, dtype="fp32", vector_flops=10), "launch", 1e-6),
        (Work(bytes=1000, dtype="bf16", vector_flops=60_000_000), "vector", 1e-3),
    ],
)
def test_an_operation_is_held_by_the_roof_that_takes_longest(work: Work, kind: str, seconds: float) -> None:
    roof = least(work, make_ceilings())
    assert roof is not None
    assert roof.kind == kind
    assert roof.seconds == pytest.approx(seconds)


def test_depthwise_work_never_gets_the_matrix_units() -> None:
    ceilings = make_ceilings()
    depthwise = least(Work(bytes=8, dtype="fp32", vector_flops=10**9), ceilings)
    dense = least(Work(bytes=8, dtype="fp32", matrix_flops=10**9), ceilings)
    assert depthwise is not None
    assert dense is not None
    assert depthwise.seconds == pytest.approx(4 * dense.seconds)


def test_matrix_work_may_run_on_the_vector_units_where_they_are_faster() -> None:
    ceilings = make_ceilings(vector={"fp32": roof(900e9)})
    assert matrix_rate(ceilings, "fp32") == 900e9
    assert vector_rate(ceilings, "tf32") == 900e9, "outside the matrix units TF32 is fp32"


def test_tf32_changes_matrix_work_alone() -> None:
    ceilings = make_ceilings()
    work = Work(bytes=8, dtype="fp32", matrix_flops=800_000_000, vector_flops=1)
    slow, fast = least(work, ceilings), least(work, ceilings, tf32=True)
    assert slow is not None
    assert fast is not None
    assert [slow.seconds, fast.seconds] == pytest.approx([4e-3, 1e-3])


def test_winograd_makes_the_dense_part_cheaper_by_its_factor() -> None:
    ceilings = make_ceilings()
    plain = Work(bytes=8, dtype="fp32", matrix_flops=2_000_000_000)
    half = msgspec.structs.replace(plain, winograd_flops=1_000_000_000)
    first, second = least(plain, ceilings), least(half, ceilings)
    assert first is not None
    assert second is not None
    assert second.seconds == pytest.approx(first.seconds * (1 + 1 / WINOGRAD) / 2)


def test_a_step_is_the_sum_and_its_kind_the_largest_part() -> None:
    works = [
        Work(bytes=10_000_000_000, dtype="fp32", count=2),
        Work(bytes=8, dtype="fp32", matrix_flops=200_000_000, count=100),
    ]
    found = bound(works, make_ceilings())
    assert found is not None
    assert found.seconds == pytest.approx(2.1)
    assert found.kind == "bandwidth"
    assert found.shares == {"bandwidth": pytest.approx(2.0), "matrix": pytest.approx(0.1)}
    assert found.bytes == 20_000_000_800


def test_without_launches_small_operations_cost_their_bytes() -> None:
    works = [Work(bytes=1000, dtype="fp32", count=10)]
    eager, compiled = bound(works, make_ceilings()), bound(works, make_ceilings(), launch=False)
    assert eager is not None
    assert compiled is not None
    assert [eager.seconds, compiled.seconds] == pytest.approx([1e-5, 1e-7])


def test_a_roof_that_was_not_measured_leaves_no_bound_instead_of_a_loose_one() -> None:
    works = [Work(bytes=8, dtype="fp16", matrix_flops=10), Work(bytes=8, dtype="fp64", vector_flops=10)]
    assert bound(works, make_ceilings()) is None
    assert missing_roofs(works, make_ceilings()) == ["matrix fp16", "vector fp64"]
    assert bound([], make_ceilings()) is None
    assert bound(works[:0], make_ceilings(streams=())) is None


def test_work_on_whole_numbers_is_held_by_its_bytes_alone() -> None:
    found = bound([Work(bytes=10_000_000_000, dtype="", vector_flops=10**12)], make_ceilings())
    assert found is not None
    assert found.kind == "bandwidth"


def test_cold_bytes_come_from_main_memory() -> None:
    work = Work(bytes=100_000, dtype="fp32")
    warm, cold = least(work, make_ceilings()), least(work, make_ceilings(), level_bytes=1 << 62)
    assert warm is not None
    assert cold is not None
    assert cold.seconds == pytest.approx(10 * warm.seconds)


def test_what_is_written_where_it_was_read_may_go_as_fast_as_an_update() -> None:
    update = Stream(kind="update", bytes=1 << 24, ceiling=roof(20e9))
    ceilings = make_ceilings(streams=(*make_ceilings().streams, update))
    assert bandwidth(ceilings, 1 << 24) == 10e9
    assert bandwidth(ceilings, 1 << 24, in_place=True) == 20e9
    out_of_place = Work(bytes=1 << 30, dtype="fp32")
    in_place = Work(bytes=1 << 30, dtype="fp32", footprint=1 << 24)
    first, second = least(out_of_place, ceilings), least(in_place, ceilings)
    assert first is not None
    assert second is not None
    assert first.seconds == pytest.approx(2 * second.seconds)


def test_the_level_is_that_of_the_distinct_memory() -> None:
    small = Work(bytes=1 << 21, dtype="fp32", footprint=1 << 20)
    found = least(small, make_ceilings())
    assert found is not None
    assert found.seconds == pytest.approx((1 << 21) / 95e9)
