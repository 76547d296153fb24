"""Sweeps: flags and files say the same thing the same way, and a wrong word is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vanbench.errors import UserError
from vanbench.spec import names
from vanbench.spec.sampling import Sampling, stop_reason
from vanbench.spec.sweep import AXES, parse_sweep, read_toml, sweep_to_toml


def test_flags_and_a_file_give_the_same_sweep(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        'name = "s"\n[axes]\nmodels = ["van_b0", "convnext_t"]\nbatch-size = [1, 8]\nprecision = "fp32,bf16"\n'
        '[sampling]\nrounds = "3:4"\nbudget = 60\n'
    )
    flags = {"models": "van_b0,convnext_t", "batch-size": "1,8", "precision": "fp32,bf16", "rounds": "3:4"}
    by_flags = parse_sweep({}, {**flags, "budget": "60"}, name="s")
    assert parse_sweep(read_toml(file), {}) == by_flags


def test_a_flag_overlays_the_file() -> None:
    document = {"axes": {"models": ["van_b0"], "batch-size": [1]}, "sampling": {"budget": 10}}
    sweep = parse_sweep(document, {"batch-size": "4", "budget": "20"})
    assert sweep.axes["batch-size"] == (4,)
    assert sweep.plan.budget_s == 20


def test_cells_are_in_one_order_each_once_with_compared_cells_side_by_side() -> None:
    sweep = parse_sweep({}, {"models": "van_b0,convnext_t,van_b0", "batch-size": "8,1", "task": "infer,train"})
    cells = sweep.cells()
    assert len(cells) == len(set(cells)) == 8
    assert cells == sweep.cells()
    contests = [cell.contest for cell in cells]
    assert [c for i, c in enumerate(contests) if i == 0 or contests[i - 1] != c] == list(dict.fromkeys(contests))


def test_aliases_become_the_registrys_names() -> None:
    sweep = parse_sweep({}, {"models": "ConvNeXt-T,rn50,van_tiny,my.module:build"})
    assert sweep.axes["models"] == ("convnext_tiny", "resnet50", "van_b0", "my.module:build")


def test_the_first_cell_of_a_contest_is_the_reference_unless_a_model_is_named() -> None:
    flags = {"models": "van_b0,resnet50", "memory-format": "contiguous,channels_last"}
    first = parse_sweep({}, flags).reference_of(("infer", 1, 224))
    assert first is not None
    assert (first.model, first.memory_format) == ("van_b0", "contiguous")
    named = parse_sweep({}, {**flags, "reference": "rn50"}).reference_of(("infer", 1, 224))
    assert named is not None
    assert (named.model, named.memory_format) == ("resnet50", "contiguous")


def test_an_excluded_cell_says_which_rule_left_it_out() -> None:
    document = {
        "axes": {"models": ["van_b0", "resnet50"], "batch-size": [1, 8]},
        "exclude": [{"models": "resnet50", "batch-size": [8]}],
    }
    sweep = parse_sweep(document, {})
    reasons = {(c.model, c.batch_size): sweep.excluded(c) for c in sweep.cells()}
    assert reasons[("resnet50", 8)] == "excluded by the sweep: models = resnet50, batch-size = 8"
    assert [key for key, reason in reasons.items() if reason] == [("resnet50", 8)]


def test_a_resolved_sweep_survives_toml_to_the_last_value() -> None:
    document = {"axes": {"models": "van_b0"}, "exclude": [{"batch-size": 8}], "question": "why?", "reference": "van_b0"}
    flags = {"rounds": "2:7", "target": "0.05", "seed": "3", "threads": "auto,2", "device": "cpu", "settle": "0"}
    sweep = parse_sweep(document, flags).resolved("cpu")
    import tomli_w  # the writer is a dependency; the reader is checked against it

    assert tomli_w
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    assert parse_sweep(tomllib.loads(sweep_to_toml(sweep)), {}) == sweep


MISTAKES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {}, "no models"),
    ({}, {"models": ""}, "empty value"),
    ({}, {"models": "van_b0", "precision": "bf17"}, "unknown precision 'bf17'; did you mean 'bf16'"),
    ({}, {"models": "van_b0", "precision": "fp32,"}, "empty value"),
    ({}, {"models": "van_b0", "task": "inference"}, "unknown task 'inference'; did you mean 'infer'"),
    ({}, {"models": "van_b0", "memory-format": "channel_last"}, "did you mean 'channels_last'"),
    ({}, {"models": "van_b0", "compile": "on"}, "allowed: off, default, reduce-overhead, max-autotune"),
    ({}, {"models": "van_b0", "batch-size": "0"}, "batch-size '0' is not a whole number from 1"),
    ({}, {"models": "van_b0", "batch-size": "many"}, "batch-size 'many' is not a whole number"),
    ({"axes": {"models": "van_b0", "batch-size": 1.5}}, {}, "batch-size 1.5"),
    ({"axes": {"models": "van_b0", "batch-size": True}}, {}, "batch-size True"),
    ({}, {"models": "van_b0", "image-size": "9999"}, "image-size '9999'"),
    ({}, {"models": "van_b0", "threads": "-1"}, "threads '-1' is not a whole number from 1 to 4096, or auto"),
    ({}, {"models": "van_b0", "device": "gpu"}, "unknown device 'gpu'"),
    ({}, {"models": "van_b0", "device": "cuda:x"}, "unknown device 'cuda:x'"),
    ({}, {"models": "van_b0", "rounds": "5"}, ""),
    ({}, {"models": "van_b0", "rounds": "5:2"}, "MIN <= MAX"),
    ({}, {"models": "van_b0", "rounds": "x"}, "rounds 'x' is not MIN:MAX"),
    ({}, {"models": "van_b0", "target": "2"}, "target '2' is a relative half-width"),
    ({}, {"models": "van_b0", "budget": "-3"}, "budget '-3' is not a number above 0"),
    ({}, {"models": "van_b0", "budget": "nan"}, "budget 'nan'"),
    ({}, {"models": "van_b0", "reference": "resnet50"}, "unknown reference 'resnet50'"),
    ({"axis": {}}, {"models": "van_b0"}, "unknown key 'axis'; did you mean 'axes'"),
    ({"axes": {"model": "van_b0"}}, {}, "unknown axis 'model'; did you mean 'models'"),
    ({"axes": {"models": "van_b0"}, "sampling": {"bugdet": 3}}, {}, "did you mean 'budget'"),
    ({"axes": {"models": "van_b0"}, "exclude": [{"precison": "bf16"}]}, {}, "did you mean 'precision'"),
    ({"axes": {"models": "van_b0"}, "exclude": [{}]}, {}, "at least one axis"),
    ({"axes": 3}, {}, "must be a table"),
]


@pytest.mark.parametrize(("document", "flags", "said"), [m for m in MISTAKES if m[2]])
def test_a_mistake_is_refused_with_its_word_and_what_is_allowed(
    document: dict[str, Any], flags: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse_sweep(document, flags)
    assert said in str(caught.value)


def test_one_number_of_rounds_is_both_the_least_and_the_most() -> None:
    plan = parse_sweep({}, {"models": "van_b0", "rounds": "4"}).plan
    assert (plan.min_rounds, plan.max_rounds) == (4, 4)


def test_a_file_that_is_no_toml_is_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("axes = [")
    with pytest.raises(UserError, match=r"bad\.toml is not valid TOML"):
        read_toml(file)
    with pytest.raises(UserError, match="no such sweep file"):
        read_toml(tmp_path / "absent.toml")


def test_defaults_give_a_first_answer_on_a_cpu_and_a_wider_one_on_cuda() -> None:
    sweep = parse_sweep({}, {"models": "van_b0"})
    cpu, cuda = sweep.resolved("cpu"), sweep.resolved("cuda")
    assert (cpu.axes["batch-size"], cpu.axes["memory-format"]) == ((1, 8), names.MEMORY_FORMATS)
    assert cuda.axes["batch-size"] == (1, 32, 256)
    assert len(cuda.cells()) > len(cpu.cells())
    assert cpu.plan.budget_s == 240


def test_every_axis_of_a_cell_can_be_given() -> None:
    from vanbench.spec.cell import Cell

    assert set(AXES.values()) | {"device"} == set(Cell.__struct_fields__)


@given(st.integers(0, 30), st.one_of(st.none(), st.floats(0, 10)))
def test_the_stop_rule_never_stops_before_the_least_and_always_at_the_most(rounds: int, width: float | None) -> None:
    sampling = Sampling()
    reason = stop_reason(sampling, rounds, width)
    if rounds >= sampling.max_rounds:
        assert reason == "max rounds"
    elif rounds < sampling.min_rounds or width is None or width > sampling.target:
        assert reason is None
    else:
        assert reason == "target reached"
