"""One page for all that was kept: every machine's tables, plots and findings, from a folder such as `results/`.

A finding is what the folder's README.md says beside the link to a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vanbench.errors import UserError
from vanbench.record.ceilings import read_book
from vanbench.record.environment import Environment
from vanbench.record.files import replace_file
from vanbench.record.folder import read_environment
from vanbench.report.findings import findings
from vanbench.report.table import Row, read_rows, read_text
from vanbench.report.to_html import Section, ceilings_section, rendered, section

__all__ = ["is_results", "write_results"]


def is_results(path: Path) -> bool:
    """Whether it holds machines' folders and a page of findings."""
    return (path / "README.md").exists() and any(path.glob("*/environment.json"))


def write_results(path: Path) -> list[Path]:
    """report.html in the folder; the paths written."""
    said = findings(read_text(path / "README.md"))
    found = {table: finding.plain for finding in said for table in finding.tables}
    sections: list[Section] = []
    facts = []
    for number, file in enumerate(sorted(path.glob("*/environment.json"))):
        facts.append(_facts(read_environment(file.parent)))
        sections += _sections(file.parent, found, f"m{number + 1}")
        if (file.parent / "ceilings.json").exists():
            plots = [
                (svg.stem, f"Measured roofs, {_words(svg, 'ceilings')}", read_text(svg), "")
                for svg in sorted(file.parent.glob("ceilings*.svg"))
            ]
            sections.append(
                ceilings_section(read_book(file.parent / "ceilings.json"), plots, f"m{number + 1}-ceilings")
            )
    page = path / "report.html"
    question = "What has been measured, on which machine, and what it says."
    replace_file(page, rendered("Results", question, sections, facts).encode())
    return [page]


def _sections(folder: Path, found: dict[tuple[str, str], str], anchor: str) -> Iterator[Section]:
    for file in sorted(folder.glob("*.csv")):
        finding = found.get((folder.name, file.stem))
        # Its plots are <name>-<plot>.svg, and those of no table whose name is longer.
        longer = [other.stem for other in folder.glob(f"{file.stem}?*.csv")]
        plots = [
            (svg.stem.removeprefix(f"{file.stem}-"), f"{file.stem}: {_words(svg, file.stem)}", read_text(svg), "")
            for svg in sorted(folder.glob(f"{file.stem}-*.svg"))
            if not any(svg.stem.startswith(f"{other}-") for other in longer)
        ]
        rows = _rows(file)
        if finding is None and not plots and not rows:
            continue
        yield section(file.stem, rows, plots, f"{anchor}-{file.stem}", [finding] if finding else [])


def _words(svg: Path, name: str) -> str:
    return svg.stem.removeprefix(f"{name}-").replace("_", " ").replace("-", ", ")


def _rows(file: Path) -> list[Row]:
    """Of a results.csv; none of another kind of table."""
    try:
        return read_rows(read_text(file), str(file))
    except UserError:
        return []


def _facts(environment: Environment) -> list[tuple[str, str]]:
    hardware, software = environment.hardware, environment.software
    system = f", {hardware.virtualisation}" if hardware.virtualisation else ""
    return [
        ("machine", environment.machine),
        ("device", f"{environment.device}, {environment.device_name}"),
        ("hardware", f"{hardware.cpu}, {hardware.cores} cores, {hardware.memory_gib} GiB{system}"),
        ("software", f"vanbench {software.vanbench}, torch {software.torch}, timm {software.timm}"),
        ("machine key", environment.machine_key),
    ]
