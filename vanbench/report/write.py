"""Puts the table, the report and the plots where they belong. Every file is replaced whole, or left as it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vanbench.errors import UserError
from vanbench.record.ceilings import NO_BOOK, Book, read_book
from vanbench.record.environment import Environment
from vanbench.record.files import replace_file
from vanbench.record.folder import read_environment, save_book
from vanbench.record.record import Record
from vanbench.record.store import read_run
from vanbench.report.gate_files import write_gate
from vanbench.report.look import write_folder
from vanbench.report.results_page import is_results, write_results
from vanbench.report.selftest_text import write_selftest
from vanbench.report.table import Row, read_rows, read_text, rows
from vanbench.report.to_csv import csv_text
from vanbench.report.to_html import html_page, plots_as_written
from vanbench.report.to_markdown import Heading, heading_of_run, heading_of_table, markdown
from vanbench.spec.sweep import Sweep

__all__ = ["adopt", "redraw", "write_report", "write_table"]


def write_table(
    run_path: Path, sweep: Sweep, environment: Environment, records: Sequence[Record], book: Book = NO_BOOK
) -> Path:
    """results.csv of a run directory, from records in the sweep's order; light enough for after each round.

    Raises StorageError (disk full) or UserError (not writable); the old table then still stands.
    """
    path = run_path / "results.csv"
    replace_file(path, csv_text(rows(sweep, environment, records, book)).encode())
    return path


def write_report(run_path: Path) -> list[Path]:
    """results.csv, report.md and plots/ of a run directory, from its records; the paths written."""
    run = read_run(run_path)
    table = write_table(run.path, run.sweep, run.environment, run.records, run.book)
    shown = rows(run.sweep, run.environment, run.records, run.book)
    return [table, *_write_pages(run.path, shown, heading_of_run(run.sweep, run.environment, run.book), run.book)]


def redraw(path: Path) -> list[Path]:
    """Everything that can be made again from a folder of ours, or from a results.csv: beside it in `<name>-report/`.

    Raises UserError if the path is neither, or cannot be written.
    """
    if path.is_dir():
        if is_results(path):
            return write_results(path)
        kinds = {"sweep.toml": write_report, "gate.json": write_gate, "selftest.json": write_selftest}
        found = next((write for name, write in kinds.items() if (path / name).exists()), write_folder)
        return found(path)
    shown = read_rows(read_text(path), str(path))
    folder = path.with_name(f"{path.stem}-report")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}") from None
    return _write_pages(folder, shown, heading_of_table(shown, path.stem))


def adopt(path: Path, file: Path) -> None:
    """Put a file of ceilings into a run directory, in place of its own, so that it is redrawn against them.

    Raises UserError where the path is no directory, or the file holds none of that machine and device.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a directory: ceilings belong to a run directory")
    environment = read_environment(path)
    mine = tuple(
        entry
        for entry in read_book(file).entries
        if (entry.machine_key, entry.device) == (environment.machine_key, environment.device)
    )
    if not mine:
        raise UserError(
            f"{file} holds no ceilings of {environment.device} on the machine of {path} ({environment.machine_key})"
        )
    save_book(path, Book(entries=mine))


def _write_pages(folder: Path, shown: Sequence[Row], heading: Heading, book: Book = NO_BOOK) -> list[Path]:
    from vanbench.report.ceilings_plot import ceilings_figures
    from vanbench.report.drawing import save
    from vanbench.report.plots import draw

    paths, figures = save([*draw(shown), *ceilings_figures(book)], folder / "plots")
    made = [(each.title, f"plots/{each.name}.png") for each in figures if not each.reason]
    missing = [f"No figure “{each.title}”: {each.reason}." for each in figures if each.reason]
    report, page = folder / "report.md", folder / "report.html"
    replace_file(report, markdown(shown, heading, made, missing).encode())
    replace_file(page, html_page(shown, heading, plots_as_written(paths, figures), book).encode())
    return [report, page, *paths]
