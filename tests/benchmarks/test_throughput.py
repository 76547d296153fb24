"""This project's own benchmarks: `pytest tests/benchmarks --benchmark-enable`. Otherwise each is a smoke test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow

CELLS = (
    {"model": "van_b0", "batch_size": 4, "image_size": 96},
    {"model": "van_b0", "batch_size": 4, "image_size": 96, "memory_format": "channels_last"},
    {"model": "convnext_atto", "batch_size": 4, "image_size": 96},
    {"model": "resnet18", "batch_size": 4, "image_size": 96},
    {"model": "resnet18", "batch_size": 4, "image_size": 96, "task": "train"},
)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(str(value) for value in cell.values()))
def test_images_per_second(cell: dict[str, Any], benchmark: Any, vanbench_cell: Callable[..., Any]) -> None:
    figures = vanbench_cell(**cell, budget=60, rounds="5:5", round=3)
    assert benchmark.extra_info["images_per_s"] == figures.images_per_s > 0
