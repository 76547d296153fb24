"""Each flag is raised by what it is for, by nothing less, and carries a remedy."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from builders import make_facts, make_record, make_round

from vanbench.analysis.flags import FLAGS, flags_of, remedies
from vanbench.record.measurement import Disturbance, Facts, Round
from vanbench.record.record import Failed, Record, Skipped
from vanbench.spec.cell import Cell


def _disturbed(**figures: object) -> Record:
    """Five rounds of 10 s and 100 steps each, all disturbed alike."""
    seen = msgspec.convert({"window_s": 10.0, "steps": 100, **figures}, Disturbance)
    return make_record(rounds=[make_round(f"r{i}", disturbance=seen) for i in range(5)])


def _with_rounds(**changes: object) -> Record:
    return make_record(rounds=[make_round(f"r{i}", **changes) for i in range(5)])  # type: ignore[arg-type]


def _with_facts(cell: Cell, facts: Facts) -> Record:
    return make_record(cell, facts=facts)


CHANNELS_LAST = Cell(model="van_b0", memory_format="channels_last")

RAISED: list[tuple[str, Record]] = [
    ("contended", _disturbed(pressure_s=1.1)),
    ("contended", _disturbed(foreign_s=1.1)),
    ("contended", _disturbed(involuntary_switches=1510)),
    ("stolen", _disturbed(steal_s=0.41)),
    ("throttled", _disturbed(throttled_s=0.011)),
    ("throttled", _disturbed(gpu_throttle_reasons=["gpu_idle", "sw_power_cap"])),
    ("host_bound", _with_rounds(enqueue_share=0.95)),
    ("emulated", _with_facts(Cell(model="van_b0", depthwise="triton"), make_facts(device="cpu"))),
    ("layout_lost", _with_facts(CHANNELS_LAST, make_facts(channels_last_share=0.97))),
    ("recompiled", _with_rounds(recompiles=1)),
    ("graph_break", _with_rounds(graph_breaks=2)),
    ("page_faults", _disturbed(minor_faults=50_100)),
    ("foreign_gpu", _disturbed(gpu_foreign_processes=1)),
    ("alone", _with_rounds(alone=True)),
    ("few_rounds", make_record(rounds=[make_round("r0")])),
]

QUIET: list[Record] = [
    make_record(),
    _with_facts(Cell(model="van_b0", depthwise="cpu"), make_facts(device="cpu")),
    _with_facts(Cell(model="van_b0", depthwise="cuda"), make_facts(device="cuda:0")),
    _disturbed(pressure_s=0.9, foreign_s=0.9, involuntary_switches=1490, steal_s=0.39, throttled_s=0.009),
    _disturbed(gpu_throttle_reasons=["gpu_idle", "Applications Clocks Setting", "none"], gpu_foreign_processes=0),
    _disturbed(minor_faults=49_900),
    _with_rounds(enqueue_share=0.85),
    _with_facts(CHANNELS_LAST, make_facts(channels_last_share=1.0)),
    _with_facts(CHANNELS_LAST, make_facts(channels_last_share=None)),
    _with_facts(Cell(model="van_b0"), make_facts(channels_last_share=0.0)),
    _with_facts(
        Cell(model="van_b0", memory_format="channels_last", compile="default"), make_facts(channels_last_share=0.5)
    ),
]


@pytest.mark.parametrize(("name", "record"), RAISED)
def test_a_flag_is_raised_by_what_it_is_for_and_alone(name: str, record: Record) -> None:
    assert flags_of(record) == (name,)


@pytest.mark.parametrize("record", QUIET)
def test_what_is_below_every_threshold_raises_nothing(record: Record) -> None:
    assert flags_of(record) == ()


def test_what_the_contest_knows_raises_the_flags_that_need_it() -> None:
    assert flags_of(make_record(), has_reference=False) == ("no_reference",)
    assert flags_of(make_record(), half_width=0.021) == ("wide",)
    assert flags_of(make_record(), half_width=0.019) == ()
    assert flags_of(make_record(), bound_fraction=1.001) == ("above_bound",)
    assert flags_of(make_record(), bound_fraction=1.0) == ()


def test_a_failed_cell_keeps_what_disturbed_it_and_a_skipped_one_has_no_flag() -> None:
    failed = Failed(kind="signal", message="killed", rerun="vanbench run")
    record = msgspec.structs.replace(_disturbed(pressure_s=5.0), outcome=failed)
    assert flags_of(record, has_reference=False, half_width=0.5) == ("contended",)
    assert flags_of(make_record(rounds=[], outcome=Skipped(reason="budget")), has_reference=False) == ()


def _series(log_times: np.ndarray) -> Round:
    return make_round("r", (0.03 * np.exp(log_times)).tolist())


def test_a_machine_that_wanders_is_not_called_unsteady_and_one_that_slows_down_is() -> None:
    rng = np.random.default_rng(5)

    def record(slope: float) -> Record:
        rounds = []
        for i in range(5):
            walk = np.zeros(60)
            for lap in range(1, 60):
                walk[lap] = 0.9 * walk[lap - 1] + rng.normal(0, 0.08)
            rounds.append(msgspec.structs.replace(_series(walk + np.linspace(0, slope, 60)), round=f"r{i}"))
        return make_record(rounds=rounds)

    wandering = sum("unsteady" in flags_of(record(0.0)) for _ in range(200)) / 200
    slowing = sum("unsteady" in flags_of(record(math.log(2.2))) for _ in range(200)) / 200
    assert wandering <= 0.03
    assert slowing >= 0.6


def test_every_flag_has_its_remedy_once_in_the_tables_order() -> None:
    names = [flag.name for flag in FLAGS]
    assert len(set(names)) == len(names)
    lines = remedies([*reversed(names), names[0], "unheard_of"])
    assert [line.split(":")[0] for line in lines] == names
    assert all("\n" not in line and len(line.split(": ", 1)[1]) > 20 for line in lines)


def test_every_flag_is_tried_here() -> None:
    tried = {name for name, _ in RAISED} | {"unsteady", "wide", "above_bound", "no_reference"}
    assert tried == {flag.name for flag in FLAGS}
