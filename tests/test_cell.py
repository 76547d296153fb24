"""Cells: their keys are for ever, their slugs are for people."""

from __future__ import annotations

import msgspec
import pytest

from vanbench.spec.cell import Cell

# Never edit a key here: it names files and histories of people who upgraded.
PINNED = {
    "dd375ee12b63da8a": Cell(model="van_b0"),
    "219743132688396d": Cell(model="van_b0", memory_format="channels_last"),
    "90f9d476257078ad": Cell(model="convnext_tiny"),
    "09d544e1659c6760": Cell(model="van_b0", batch_size=8),
    "591319ac582a6ad7": Cell(model="convnext_tiny", batch_size=8, memory_format="channels_last"),
}
MORE = {
    "train": Cell(model="resnet50", task="train", batch_size=32),
    "bf16": Cell(model="resnet50", precision="bf16", image_size=160),
    "compiled": Cell(model="van_b2", compile="max-autotune", device="cuda:1"),
    "threads": Cell(model="van_b2", threads=4),
    "own": Cell(model="package.module:callable", precision="amp-fp16"),
}
PINNED_MORE = {
    "train": "fdf344881a0a85c7",
    "bf16": "e7c191bc46f5363f",
    "compiled": "a388f21ea828a606",
    "threads": "763054bf18a5d408",
    "own": "bf9dcd23fab473f9",
}


@pytest.mark.parametrize("key", PINNED)
def test_the_key_of_a_cell_never_changes(key: str) -> None:
    assert PINNED[key].key == key


@pytest.mark.parametrize("name", MORE)
def test_the_key_of_a_cell_on_another_axis_never_changes(name: str) -> None:
    assert MORE[name].key == PINNED_MORE[name]


def test_a_value_spelt_out_that_is_the_default_gives_the_same_key() -> None:
    assert Cell(model="van_b0", precision="fp32", threads="auto", device="auto").key == Cell(model="van_b0").key


def test_every_field_that_differs_changes_the_key() -> None:
    base = Cell(model="van_b0")
    others = [
        msgspec.structs.replace(base, **{field: value})
        for field, value in {
            "model": "van_b1", "task": "train", "batch_size": 2, "image_size": 225, "precision": "bf16",
            "memory_format": "channels_last", "compile": "default", "form": "lean", "depthwise": "cpu",
            "allocator": "keep",
            "device": "cpu", "threads": 1,
        }.items()
    ]  # fmt: skip
    assert len(others) == len(Cell.__struct_fields__)
    assert len({cell.key for cell in [base, *others]}) == len(others) + 1


def test_a_slug_names_what_people_look_for_and_leaves_defaults_out() -> None:
    assert Cell(model="van_b0", batch_size=8).slug == "van_b0 bs8 fp32"
    cell = Cell(model="van_b0", task="train", image_size=96, memory_format="channels_last", compile="default")
    assert cell.slug == "van_b0 train bs1 96px fp32 channels_last compile=default"


def test_a_cell_survives_json() -> None:
    cell = Cell(model="van_b0", threads=3)
    assert msgspec.json.decode(msgspec.json.encode(cell), type=Cell) == cell


def test_a_cell_refuses_a_field_it_does_not_know() -> None:
    with pytest.raises(msgspec.ValidationError, match="batchsize"):
        msgspec.json.decode(b'{"model":"van_b0","batchsize":3}', type=Cell)
