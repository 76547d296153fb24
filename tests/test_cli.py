"""The command line as people type it: what is right works, what is wrong is said in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vanbench.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "unknown verb 'rnu'; did you mean 'run'?"),
        (["run", "--modles", "x"], "unknown option '--modles'; did you mean '--models'"),
        (["run"], "no models: give --models van_b0,convnext_t"),
        (["run", "--models", "van_b0", "--precision", "bf17"], "unknown precision 'bf17'; did you mean 'bf16'"),
        (["run", "--models", "van_b0", "--batch-size", "x"], "batch-size 'x' is not a whole number from 1 to 65536"),
        (["run", "--models", "van_b0", "--device", "gpu"], "unknown device 'gpu'"),
        (["run", "--models", "van_b0", "--device", "cdua"], "did you mean 'cuda'"),
        (["run", "absent.toml"], "no such sweep file: absent.toml"),
        (["run", "--resume", "absent"], "no such run directory: absent"),
        (["run", "--resume", "x", "--models", "y"], "--resume takes the sweep from the directory"),
        (["run", "--resume", "x", "--target", "7"], "target '7' is a relative half-width"),
        (["report", "absent"], "absent"),
        (["report"], "Missing argument"),
        (["env", "--device", "cuda:x"], "unknown device 'cuda:x'"),
        (["ceilings", "--seconds", "3"], "seconds 3 is too short"),
        (["ceilings", "--threads", "two"], "threads 'two' is not a whole number"),
        (["ceilings", "--device", "gpu"], "unknown device 'gpu'"),
        (["run", "--models", "van_b0", "--resume", "x", "--ceilings", "y"], "--resume takes the sweep"),
        (["profile"], "no models: give --models"),
        (["profile", "--models", "van_b0", "--seconds", "0"], "seconds 0 is not a number above 0"),
        (["profile", "--models", "van_b0", "--memory-format", "nhwc"], "unknown memory-format 'nhwc'"),
        (["profile", "--models", "van_b0", "--compile", "default"], "profile takes eager cells alone"),
        (["depthwise", "--kernel", "4"], "unknown kernel '4'"),
        (["depthwise", "--dilation", "0"], "unknown dilation '0'"),
        (["depthwise", "--precision", "amp-bf16"], "unknown precision 'amp-bf16'"),
        (["depthwise", "--pass", "backwards"], "unknown pass 'backwards'"),
        (["depthwise", "--depthwise", "nativ"], "did you mean 'native'"),
        (["depthwise", "--rounds", "0"], "rounds 0 is not a whole number above 0"),
        (["depthwise", "--threads", "1,2"], "depthwise takes one"),
        (["depthwise", "--budget", "-1"], "budget -1 is not a number above 0"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_word_and_exit_2(
    words: list[str], said: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in error
    assert not list(in_tmp.iterdir()), "a mistake leaves nothing behind"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--models", "van_b9"], "unknown model 'van_b9'; did you mean 'van_b6'"),
        (["run", "--models", "no.such:thing"], "no module 'no'"),
        (["run", "--models", "convnext_tiiny", "--list"], "did you mean 'convnext_tiny'"),
        (["run", "--models", "van_b0", "--device", "cuda:77"], "device 'cuda:77' is not here"),
        (["models", "no-such-net"], "no model matches 'no-such-net'"),
    ],
)
def test_a_name_that_only_a_worker_can_judge_is_refused_the_same_way(
    words: list[str], said: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert not list(in_tmp.iterdir())


def test_help_explains_every_flag_of_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in (
        "--models",
        "--batch-size",
        "--memory-format",
        "--target",
        "--rounds",
        "--budget",
        "--resume",
        "--list",
    ):
        assert flag in text


def test_no_words_at_all_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "Usage" in captured.out + captured.err


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"vanbench {version('vanbench')}"


def test_the_usual_models_are_listed_at_once_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["van_b0"]["top1"] == 75.4
    assert rows["van_b0"]["params"] == 4_105_800
    assert "convnext_t" in rows["convnext_tiny"]["aliases"]
    for row in rows.values():
        assert (row["top1"] is None) == (row["source"] is None)


@pytest.mark.slow
def test_matching_models_are_built_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "resnet1?", "--json"]) == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["resnet18"]["params"] == 11_689_512
    assert rows["resnet18"]["macs"] == pytest.approx(1_814_100_000, rel=1e-4)


@pytest.mark.slow
def test_env_describes_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json", "--device", "cpu"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["device"] == "cpu"
    assert seen["hardware"]["cores"] >= 1
    assert "tf32" in seen["unsupported"]


@pytest.mark.slow
def test_listing_prints_cells_and_duration_and_writes_nothing(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--models", "van_b0,convnext_t", "--precision", "fp32,tf32", "--device", "cpu", "--list"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.count("(skipped: ") == 8
    assert "8 of 16 cells would be measured" in text
    assert not list(in_tmp.iterdir())


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m vanbench models | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(in_tmp: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vanbench", "run", "absent.toml", "--debug"], capture_output=True, text=True, check=False
    )
    assert "Traceback" in done.stderr
    assert done.returncode == 1
