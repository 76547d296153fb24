"""What a gate leaves behind beside its record: the page, what fits a comment, and the plot."""

from __future__ import annotations

from pathlib import Path

from vanbench.analysis.gate_outcome import outcome
from vanbench.record.files import replace_file
from vanbench.record.gate import read_gate
from vanbench.report.drawing import save
from vanbench.report.gate_plot import draw_gate
from vanbench.report.gate_text import COMMENT_BYTES, gate_markdown, gate_page

__all__ = ["write_gate"]


def write_gate(folder: Path) -> list[Path]:
    """report.md, comment.md and plots/ of a gate's folder, from its record; the paths written."""
    record = read_gate(folder)
    found = outcome(record)
    paths, figures = save([draw_gate(record, found)], folder / "plots")
    pages = {
        "report.md": gate_page(record, found, [each.name for each in figures if not each.reason]),
        "comment.md": gate_markdown(record, found, COMMENT_BYTES),
    }
    for name, text in pages.items():
        replace_file(folder / name, text.encode())
    return [*(folder / name for name in pages), *paths]
