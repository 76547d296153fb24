"""The fixture for pytest's users, tried as they use it: in a pytest of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TEST = """
def test_small(benchmark, vanbench_cell):
    figures = vanbench_cell(model="resnet18", batch_size=2, image_size=64, rounds="2:2", round=0.3)
    assert figures.images_per_s > 0
    assert benchmark.extra_info["images_per_s"] == figures.images_per_s
"""


def pytest_run(folder: Path, test: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_theirs.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_theirs.py", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_cell_beside_benchmark_gives_its_steps_and_extra_info_to_pytest_benchmark(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, TEST, "--benchmark-enable", "--benchmark-json=out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    (bench,) = json.loads((tmp_path / "out.json").read_text())["benchmarks"]
    extra = bench["extra_info"]
    assert extra["images_per_s_low"] < extra["images_per_s"] < extra["images_per_s_high"]
    assert extra["machine_key"]
    assert extra["cell"] == "resnet18 bs2 64px fp32"
    assert extra["rounds"] == 2
    # The steps' own rate, two images each, is the harness's: samples are nothing but steps.
    assert 2 * bench["stats"]["ops"] == pytest.approx(extra["images_per_s"], rel=0.02)
    assert bench["stats"]["rounds"] > 2


def test_with_benchmarks_disabled_it_is_a_smoke_test_of_one_round(tmp_path: Path) -> None:
    test = TEST + "    assert figures.rounds == 1\n    assert figures.low is None\n"
    done = pytest_run(tmp_path, test, "--benchmark-disable")
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_benchmark_the_figures_are_returned_and_a_cell_that_fails_fails_the_test(tmp_path: Path) -> None:
    test = """
def test_alone(vanbench_cell):
    figures = vanbench_cell(model="resnet18", batch_size=1, image_size=64, rounds="1:1", round=0.1)
    assert figures.machine_key

def test_wrong(vanbench_cell):
    vanbench_cell(model="test_theirs:broken", batch_size=1, image_size=64, rounds="1:1", round=0.1)

def test_impossible(vanbench_cell):
    vanbench_cell(model="resnet18", precision="tf32", rounds="1:1", round=0.1)

def broken():
    raise RuntimeError("not today")
"""
    done = pytest_run(tmp_path, test)
    assert "1 failed, 1 passed" in done.stdout
    assert "not today" in done.stdout
    import torch

    if not torch.cuda.is_available():
        assert "1 skipped" in done.stdout
