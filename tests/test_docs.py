"""What the documents say holds: links, commands, and that CI runs what the README prints."""

from __future__ import annotations

import csv
import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").glob("*.md")])
# Pages that the site makes: docs/site_hooks.py.
MADE = {ROOT / "docs" / "findings.md"}
MADE |= {ROOT / "docs" / "answers" / f"{file.stem}.md" for file in (ROOT / "experiments").glob("*.toml")}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            place = (page.parent / target).resolve()
            assert place.exists() or place in MADE, f"{page.name} links to {target}"


def test_the_readme_has_two_commands_and_ci_takes_them_from_there() -> None:
    commands = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert "vanbench run --models van_b0,convnext_t" in commands[0]
    assert commands[1].endswith(".venv/bin/pytest")
    assert "grep '^python3 -m venv .venv' README.md" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_printed_is_one_that_the_command_line_understands(page: Path) -> None:
    from typer.main import get_command

    from vanbench.cli.app import app

    group = get_command(app)
    for line in re.findall(r"^ {0,4}(?:\$ )?vanbench (.+)$", page.read_text(), re.MULTILINE):
        words = [word for word in shlex.split(line.split(" #")[0]) if word]
        verb = group.commands.get(words[0])  # type: ignore[attr-defined]
        if words[0] == "--version":
            continue
        assert verb is not None, line
        if hasattr(verb, "commands"):
            verb = verb.commands.get(words[1])
            assert verb is not None, line
        options = {option for parameter in verb.params for option in parameter.opts}
        for word in words[1:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in options | {"--help"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_script_and_sweep_that_a_page_runs_is_there(page: Path) -> None:
    """`my_question` is the reader's."""
    text = page.read_text()
    named = re.findall(r"^ {0,4}python3? ([\w/]+\.py)", text, re.MULTILINE)
    named += re.findall(r"\bvanbench run (experiments/\w+\.toml)", text)
    for name in named:
        assert (ROOT / name).exists() or name == "experiments/my_question.toml", name


def test_every_experiment_says_what_it_asks_and_how_to_run_it() -> None:
    scripts = sorted((ROOT / "experiments").glob("*.py"))
    assert scripts
    for script in scripts:
        head = script.read_text().split('"""')[1]
        for word in ("Why:", "How long:", "Command:", "Columns:"):
            assert word in head, f"{script.name} has no {word}"


def test_the_tables_of_the_bandwidth_page_are_those_of_the_committed_results() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("bandwidth_page", ROOT / "experiments" / "bandwidth_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "is_it_the_bandwidth.md").read_text(encoding="utf-8")
    (machine,) = {link.split("/")[2] for link in re.findall(r"\]\((\.\./results/[^)]+)\)", page)}
    assert module.filled(page, ROOT / "results" / machine) == page, "run the last command of the page"
    assert "<!-- table: " in page


def test_the_tables_of_the_page_on_a_faster_van_are_those_of_the_committed_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib

    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    module = importlib.import_module("fast_van_page")
    page = (ROOT / "docs" / "fast_van.md").read_text(encoding="utf-8")
    (results,) = {file.parent for file in (ROOT / "results").glob("*/depthwise_kernels.csv")}
    assert module.filled(page, results, module.TABLES) == page, "run experiments/fast_van_page.py"
    assert "<!-- table: " in page


def test_the_gates_tables_are_those_of_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    module = importlib.import_module("measurement_page")
    page = (ROOT / "docs" / "measurement.md").read_text(encoding="utf-8")
    (results,) = {file.parent for file in (ROOT / "results").glob("*/gate_rules.csv")}
    assert module.filled(page, results) == page, "run experiments/measurement_page.py"


def test_the_page_on_cuda_kernels_has_the_tables_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    module = importlib.import_module("cuda_resources")
    with (ROOT / "results" / "compiled" / "cuda_resources.csv").open() as file:
        table = list(csv.DictReader(file))
    page = (ROOT / "docs" / "cuda_kernels.md").read_text()
    assert module.filled(page, table) == page, "run experiments/cuda_resources.py --page docs/cuda_kernels.md"
    spilled = [(row["architecture"], row["spilled_bytes"]) for row in table if row["spilled_bytes"] != "0"]
    assert spilled == [("sm_80", "8")], "as the page says"


def test_sweep_files_in_experiments_parse() -> None:
    from vanbench.spec.sweep import parse_sweep, read_toml

    for file in sorted((ROOT / "experiments").glob("*.toml")):
        assert parse_sweep(read_toml(file), {}).cells()


SWEEPS = sorted((ROOT / "experiments").glob("*.toml"))
NUMBERS = (
    "a two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen"
)
NUMBER_OF = {word: number for number, word in enumerate(NUMBERS.split(), 1)}


def stated_s(how_long: str) -> float:
    """Of a header: "five minutes on two CPU cores"."""
    found = re.match(r"(?:under )?(\w+) minutes? on two CPU cores", how_long)
    assert found, how_long
    return 60.0 * NUMBER_OF[found[1]]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_sweep_in_experiments_says_what_it_asks_and_how_to_run_it(file: Path) -> None:
    from vanbench.report.experiment_page import header_of
    from vanbench.spec.sweep import parse_sweep, read_toml

    head = header_of(file.read_text(encoding="utf-8"))
    sweep = parse_sweep(read_toml(file), {})
    assert sweep.name == file.stem
    assert sweep.question.rstrip("?").split(":")[0].split(",")[0] in head.question
    assert head.sections["Command"].split(" ")[:3] == ["vanbench", "run", f"experiments/{file.name}"]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_sweep_states_a_true_duration(file: Path) -> None:
    """Within a factor of two of what was measured; of one that was kept before durations were, of its budget."""
    from vanbench.report.experiment_page import header_of
    from vanbench.spec.sweep import parse_sweep, read_toml

    measured: dict[str, float] = {}
    for durations in (ROOT / "results").glob("*2-cores*/durations.csv"):
        with durations.open(newline="") as opened:
            measured |= {line["experiment"]: float(line["seconds"]) for line in csv.DictReader(opened)}
    seconds = measured.get(file.stem, parse_sweep(read_toml(file), {}).plan.budget_s)
    stated = stated_s(header_of(file.read_text(encoding="utf-8")).sections["How long"])
    assert seconds / 2 <= stated <= seconds * 2, f"{stated / 60:.0f} minutes are stated, {seconds:.0f} s it took"
