"""A selftest in words and a picture: what the harness gets right here, what this machine can and cannot detect."""

from __future__ import annotations

from pathlib import Path

from vanbench.analysis.gate import detectable
from vanbench.analysis.selftest import KNOWN_LIMIT, REDRAWN, Findings, Known, Truth, findings, minutes_for
from vanbench.record.files import replace_file
from vanbench.record.selftest import SelftestRecord, read_selftest
from vanbench.report.drawing import GREY, Drawn, drawing, page, save
from vanbench.report.to_markdown import escaped, markdown_table
from vanbench.units import duration, percent, significant

__all__ = ["HEADINGS", "draw_selftest", "plain_words", "selftest_markdown", "selftest_rows", "write_selftest"]

HEADINGS = ("truth", "measured", "95 % interval", "holds it", "the gate says", "flagged when drawn again")


def selftest_rows(found: Findings) -> list[tuple[str, ...]]:
    """The table: the model of known rate, then each injected slowdown."""
    rows: list[tuple[str, ...]] = [_known_row(found.known)] if found.known is not None else []
    return rows + [_truth_row(each) for each in found.truths]


def plain_words(record: SelftestRecord, found: Findings) -> list[str]:
    """Sentences for people who know no statistics."""
    if found.problem:
        return [f"This machine cannot be judged: {found.problem}."]
    lines = []
    if found.known is not None:
        word = "right" if abs(found.known.error) <= KNOWN_LIMIT else "WRONG"
        lines.append(f"The harness is {word}: a model of known speed is measured {_signed(found.known.error)} off.")
    assert found.sd is not None
    for slowdown in (0.10, 0.05, 0.03):
        minutes = minutes_for(found, slowdown, record.rules)
        if minutes is None:
            lines.append(f"A slowdown of {percent(slowdown)} cannot be told from noise here, not even with 24 blocks.")
        else:
            lines.append(f"A slowdown of {percent(slowdown)} is found in about {duration(60 * minutes)} of one cell.")
    least = percent(record.rules.min_effect)
    lines.append(f"A slowdown below {least} never fails a gate, by rule; one a little above it is often missed.")
    still = next((each for each in found.truths if each.slowdown == 0), None)
    if still is not None:
        alarms = f"{significant(100 * still.redrawn, 2)} %" if still.redrawn else f"none of {REDRAWN}"
        lines.append(f"The same code against itself: {alarms} of gates drawn again from these blocks cried wolf.")
    held, count = found.groups
    lines.append(f"Of {count} intervals of four blocks {held} hold the truth (95 % are meant to).")
    if found.left_out:
        lines.append(f"{found.left_out} blocks were disturbed by other programs and left out: stop them if you can.")
    return lines


def selftest_markdown(record: SelftestRecord, found: Findings, figures: tuple[str, ...] = ()) -> str:
    """report.md."""
    environment = record.environment
    parts = [
        "# vanbench selftest",
        f"{escaped(record.cell.slug)} on {escaped(environment.device_name)} (key {environment.machine_key}), "
        f"{found.blocks} blocks",
        "\n".join(f"- {escaped(line)}" for line in plain_words(record, found)),
        markdown_table(HEADINGS, selftest_rows(found), "lrrlll") if found.truths else "",
        *(f"![{name}](plots/{name}.png)" for name in figures),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def draw_selftest(record: SelftestRecord, found: Findings) -> Drawn:
    """Left: what was injected and what was measured. Right: the smallest slowdown found, by minutes of a gate."""
    title = "What this machine can detect"
    if found.sd is None or found.block_s is None:
        return Drawn("selftest", title, None, found.problem)
    rules = record.rules
    notes = [
        "Left: the injected slowdown and what the harness measured, with 95 % intervals. Right: the smallest slowdown "
        f"that a gate's first pass of one cell finds with {percent(rules.power)} probability, after each of its looks; "
        f"nothing below {percent(rules.min_effect)} is ever REGRESSED (dashed).",
    ]
    with drawing():
        about = f"{record.cell.slug}, {found.blocks} blocks, spread of a block {percent(found.sd)}"
        figure, (left, right) = page(title, about, notes, (1, 2), (3.3, 2.7), 2)
        truths = [100 * each.slowdown for each in found.truths]
        measured = [100 * each.measured.value for each in found.truths]
        spans = [
            [100 * ((each.measured.value or 0) - (each.measured.low or 0)) for each in found.truths],
            [100 * ((each.measured.high or 0) - (each.measured.value or 0)) for each in found.truths],
        ]
        top = 1.1 * max(*truths, *measured)
        left.plot([0, top], [0, top], color=GREY, linewidth=0.7)
        left.errorbar(truths, measured, yerr=spans, fmt="o", color="#0072B2", markersize=4, capsize=2, linewidth=1)
        left.set_xlabel("injected, % of a step's time")
        left.set_ylabel("measured, %")
        minutes = [count * found.block_s / 60 for count in rules.looks]
        least = [100 * detectable(found.sd, count, rules.alpha_of(1), rules.power) for count in rules.looks]
        right.plot(minutes, least, "o-", color="#D55E00", markersize=4, linewidth=1)
        for place, count in enumerate(rules.looks):
            right.annotate(f"{count} blocks", (minutes[place], least[place]), (4, 4), textcoords="offset points",
                           fontsize=6.5, color=GREY)  # fmt: skip
        right.axhline(100 * rules.min_effect, color=GREY, linewidth=0.7, linestyle="--")
        right.set_xlim(0, 1.2 * minutes[-1])
        right.set_ylim(0, 1.25 * max(*least, 100 * rules.min_effect))
        right.set_xlabel("minutes of a gate, one cell")
        right.set_ylabel("smallest slowdown found, %")
    return Drawn("selftest", title, figure)


def write_selftest(folder: Path) -> list[Path]:
    """report.md and plots/ of a selftest's folder, from its record; the paths written."""
    record = read_selftest(folder)
    found = findings(record)
    paths, figures = save([draw_selftest(record, found)], folder / "plots")
    names = tuple(each.name for each in figures if not each.reason)
    text = folder / "report.md"
    replace_file(text, selftest_markdown(record, found, names).encode())
    return [text, *paths]


def _known_row(known: Known) -> tuple[str, ...]:
    low, high = known.measured.low, known.measured.high
    span = f"{significant(low, 4)} to {significant(high, 4)}" if low is not None and high is not None else ""
    held = "" if low is None or high is None else _yes(low <= known.truth <= high)
    return (
        f"{significant(known.truth, 4)} images/s (busy wait)",
        f"{significant(known.measured.value, 4)}",
        span,
        held,
        f"{_signed(known.error)} off",
        "",
    )


def _truth_row(truth: Truth) -> tuple[str, ...]:
    low, high = truth.measured.low, truth.measured.high
    assert low is not None
    assert high is not None
    return (
        f"{percent(truth.slowdown)} slower" if truth.slowdown else "the same",
        _signed(truth.measured.value),
        f"{_signed(low)} to {_signed(high)}",
        _yes(truth.covered),
        str(truth.judgement.verdict),
        f"{significant(100 * truth.redrawn, 3)} %",
    )


def _yes(word: bool) -> str:
    return "yes" if word else "no"


def _signed(share: float) -> str:
    return f"{100 * share:+.2f} %"
