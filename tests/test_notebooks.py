"""The notebooks run, hold no logic and no outputs, and their rendered copies in docs/ are of these notebooks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    document = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in document["cells"] if cell["cell_type"] == kind]


def test_all_five_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_throughput",
        "02_is_it_the_bandwidth",
        "03_depthwise_roofline",
        "04_fast_van",
        "05_reading_a_gate",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_keeps_no_outputs(path: Path) -> None:
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_reads_and_draws_and_does_nothing_else(path: Path) -> None:
    source = "\n".join("".join(cell["source"]) for cell in cells(path, "code"))
    imported = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE))
    assert imported == {"pathlib", "matplotlib", "pandas", "vanbench"}
    assert set(re.findall(r"vanbench\.(\w+)", source)) == {"load"}
    assert not re.search(r"^\s*(def|class|if|while|try|lambda)\b", source, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_its_rendered_copy_says_the_same(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbconvert", reason="nbconvert is not installed: pip install 'vanbench[test]'")
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", str(tmp_path)]
    done = subprocess.run([*command, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rendered = (ROOT / "docs" / "notebooks" / f"{path.stem}.md").read_text(encoding="utf-8")
    pictures = 0
    for cell in cells(tmp_path / path.name, "code"):
        assert "".join(cell["source"]) in rendered, "make notebooks"
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output
            content = output.get("data", {})
            pictures += "image/png" in content
            if "image/png" not in content:
                said = "".join(content.get("text/plain", ""))
                # Digits alone: how a table is spaced is pandas' affair.
                assert digits(said) in digits(rendered), "make notebooks"
    shown = re.findall(r"!\[png\]\(([^)]+)\)", rendered)
    assert len(shown) == pictures > 0
    assert all((ROOT / "docs" / "notebooks" / file).stat().st_size > 3000 for file in shown)


def digits(text: str) -> str:
    return " ".join(re.findall(r"[\d.]+", text))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_words_are_those_of_the_rendered_copy(path: Path) -> None:
    rendered = (ROOT / "docs" / "notebooks" / f"{path.stem}.md").read_text(encoding="utf-8")
    for cell in cells(path, "markdown"):
        text = "".join(cell["source"]).replace("](../docs/", "](../").replace(".ipynb)", ".md)")
        assert text in rendered, "make notebooks"
