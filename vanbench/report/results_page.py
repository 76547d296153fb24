"""One page for all that was kept: every machine's tables, plots and findings, from a folder such as `results/`.

A finding is what the folder's README.md says beside the link to a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vanbench.errors import UserError
from vanbench.record.ceilings import read_book
from vanbench.record.files import replace_file
from vanbench.record.folder import read_environment
from vanbench.report.depthwise_columns import DEPTHWISE_COLUMNS
from vanbench.report.findings import findings
from vanbench.report.folder_html import depthwise_section, facts_of, profile_section
from vanbench.report.frames import which_table
from vanbench.report.ops_columns import OPS_COLUMNS
from vanbench.report.table import read_rows, read_text
from vanbench.report.to_html import Section, ceilings_section, rendered, section

__all__ = ["is_results", "plots_of", "words_of", "write_results"]


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
        facts.append(facts_of(read_environment(file.parent)))
        sections += _sections(file.parent, found, f"m{number + 1}")
        if (file.parent / "ceilings.json").exists():
            plots = [
                (svg.stem, f"Measured roofs, {words_of(svg, 'ceilings')}", read_text(svg), "")
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
    # In the order in which the README tells of them, then what it does not tell of.
    told = {name: place for place, (machine, name) in enumerate(found) if machine == folder.name}
    for file in sorted(folder.glob("*.csv"), key=lambda file: (told.get(file.stem, len(told)), file.name)):
        finding = found.get((folder.name, file.stem))
        plots = [
            (svg.stem.removeprefix(f"{file.stem}-"), f"{file.stem}: {words_of(svg, file.stem)}", read_text(svg), "")
            for svg in plots_of(file, "svg")
        ]
        said = [finding] if finding else []
        place = f"{anchor}-{file.stem}"
        columns, needed, kind = which_table(text := read_text(file))
        try:
            rows = read_rows(text, str(file), columns, needed, kind)
        except UserError:
            rows = []  # another kind of table: its finding and its plots speak for it
        if rows and columns is OPS_COLUMNS:
            yield profile_section(file.stem, rows, plots, place, said, ops=False)
        elif rows and columns is DEPTHWISE_COLUMNS:
            yield depthwise_section(file.stem, rows, plots, place, said)
        elif rows or said or plots:
            yield section(file.stem, rows, plots, place, said)


def plots_of(table: Path, suffix: str) -> list[Path]:
    """The plots beside a kept table: <name>-<plot>, and those of no table whose name is longer."""
    longer = [other.stem for other in table.parent.glob(f"{table.stem}?*.csv")]
    return [
        plot
        for plot in sorted(table.parent.glob(f"{table.stem}-*.{suffix}"))
        if not any(plot.stem.startswith(f"{other}-") for other in longer)
    ]


def words_of(plot: Path, name: str) -> str:
    """What a table's plot shows, from its file's name."""
    return plot.stem.removeprefix(f"{name}-").replace("_", " ").replace("-", ", ")
