"""The site: a page for each experiment, findings with links that hold, and commands that the command line takes."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import make_environment, make_record, make_sweep

from vanbench.report.experiment_page import experiment_page, header_of
from vanbench.report.findings import Finding, findings
from vanbench.report.table import rows
from vanbench.report.to_csv import csv_text

ROOT = Path(__file__).parent.parent
SWEEPS = sorted((ROOT / "experiments").glob("*.toml"))

HEADER = """# Is it fast,
# and how?
#
# Why: because.
# More of why.
# How long: two minutes on two CPU cores.
# Command: vanbench run experiments/speed.toml
# Columns that answer it: ratio.
name = "speed"
"""


def test_a_header_is_read_part_by_part() -> None:
    head = header_of(HEADER)
    assert head.question == "Is it fast, and how?"
    assert head.sections["Why"] == "because. More of why."
    assert head.sections["Command"] == "vanbench run experiments/speed.toml"
    with pytest.raises(ValueError, match="must have Why, How long"):
        header_of("# A question?\n# Command: x\n# Columns that answer it: y\n")


def test_findings_know_their_tables_and_their_experiment() -> None:
    text = (
        "| experiment | finding |\n|---|---|\n"
        "| [speed](../experiments/speed.toml) ([one](m/speed.csv), [two](m/other.csv)) | `a` is [fast](m/x.png) |\n"
        "| `vanbench ceilings` ([c](m/ceilings.json)) | no table |\n"
    )
    (found,) = findings(text)
    assert found == Finding("`a` is [fast](m/x.png)", "speed", (("m", "speed"), ("m", "other")))
    assert found.plain == "a is fast"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """experiments/ with one question, results/ with its table of one machine and with its finding."""
    machine = tmp_path / "results" / "a-machine"
    machine.mkdir(parents=True)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "speed.toml").write_text(HEADER)
    sweep = make_sweep(["van_b0", "resnet18"], batch_size=(8,), memory_format=("contiguous", "channels_last"))
    table = rows(sweep, make_environment(), [make_record(cell) for cell in sweep.cells()])
    (machine / "speed.csv").write_text(csv_text(table))
    (machine / "speed-ratio.png").write_bytes(b"x")
    (machine / "speed_again.csv").write_text(csv_text(table))
    (machine / "speed_again-ratio.png").write_bytes(b"x")
    (tmp_path / "results" / "README.md").write_text(
        "| [speed](../experiments/speed.toml) ([table](a-machine/speed.csv)) "
        "| It is [fast](a-machine/speed.csv), [see](../docs/page.md). |\n"
    )
    return tmp_path


def test_an_experiments_page_has_question_finding_command_table_answers_and_plots(kept: Path) -> None:
    text = experiment_page(kept / "experiments" / "speed.toml", kept / "results", "../results")
    assert "**Is it fast, and how?**" in text
    assert "It is [fast](../results/a-machine/speed.csv), [see](../docs/page.md)." in text
    assert "\n    vanbench run experiments/speed.toml\n" in text
    assert "### infer, batch 8, 224 px" in text
    assert "### What memory format is worth" in text
    assert re.findall(r"!\[[^]]*\]\(([^)]+)\)", text) == ["../results/a-machine/speed-ratio.png"]


def test_what_nobody_measured_says_so(kept: Path) -> None:
    for file in (kept / "results").glob("*/*"):
        file.unlink()
    (kept / "results" / "README.md").write_text("nothing\n")
    text = experiment_page(kept / "experiments" / "speed.toml", kept / "results", "../results")
    assert "has not been measured yet" in text


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_command_of_an_experiments_page_is_understood(file: Path) -> None:
    from typer.main import get_command

    from vanbench.cli.app import app

    text = experiment_page(file, ROOT / "results", "../results")
    commands = re.findall(r"^    vanbench (.+)$", text, re.MULTILINE)
    assert len(commands) == 1
    verb, *words = shlex.split(commands[0])
    run = get_command(app).commands[verb]  # type: ignore[attr-defined]
    options = {option for parameter in run.params for option in parameter.opts}
    assert words[0] == f"experiments/{file.name}"
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_experiment_was_measured_and_has_its_finding(file: Path) -> None:
    if file.stem == "smoke":
        pytest.skip("it says that everything runs, and is no measurement")
    found = [each for each in findings((ROOT / "results" / "README.md").read_text()) if each.experiment == file.stem]
    assert found
    assert all((ROOT / "results" / machine / f"{name}.csv").exists() for each in found for machine, name in each.tables)


def test_every_page_is_in_the_sites_contents() -> None:
    class Loader(yaml.SafeLoader):
        """mkdocs' own tags name functions, which are not wanted here."""

    Loader.add_multi_constructor("tag:", lambda *_: None)
    contents = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]
    listed = set(leaves(contents))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert listed == written | {"findings.md"} | {f"answers/{file.stem}.md" for file in SWEEPS}


def leaves(node: Any) -> list[str]:
    if isinstance(node, str):
        return [node]
    return [leaf for each in (node.values() if isinstance(node, dict) else node) for leaf in leaves(each)]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install 'vanbench[docs]'")
    import subprocess
    import sys

    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    page = (tmp_path / "site" / "answers" / "first_answer" / "index.html").read_text()
    shown = re.findall(r'src="([^"]+\.png)"', page)
    assert shown
    assert all((tmp_path / "site" / "answers" / "first_answer" / each).resolve().exists() for each in shown)
    # Nothing is fetched from elsewhere: no fonts, no scripts.
    assert not re.findall(r'(?:src|href)="https?://(?!squidfunk\.github\.io)[^"]+\.(?:js|css|woff2?)', page)


def test_findings_lead_to_pages_and_files_of_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'vanbench[docs]'")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    hooks = importlib.import_module("site_hooks")
    text = hooks.findings_page(
        "[a](../experiments/speed.toml) [b](m/speed.csv) [c](../docs/gate.md) [d](../experiments/x.py) [e](m/s.md)\n"
    )
    assert (
        text
        == "[a](answers/speed.md) [b](results/m/speed.csv) [c](gate.md) [d](experiments/x.py) [e](results/m/s.md.txt)\n"
    )
