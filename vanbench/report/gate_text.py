"""A gate's answer in words: the terminal's table, the Markdown page, and the summary that fits what CI shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vanbench.analysis.gate import Judgement
from vanbench.analysis.gate_outcome import Outcome, PairOutcome
from vanbench.analysis.observation import observe
from vanbench.analysis.ratio import Estimate, rate
from vanbench.analysis.verdict import Verdict
from vanbench.record.gate import ArmSeen, GateRecord, PairRecord
from vanbench.report.step_summary import MOST_BYTES
from vanbench.report.to_markdown import code, escaped, markdown_table
from vanbench.units import percent, with_spread

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "COMMENT_BYTES",
    "gate_markdown",
    "gate_page",
    "gate_table",
    "headline",
]

# GitHub cuts a comment at 64 KiB; a little is left for what others write into the same.
COMMENT_BYTES = 60 * 1024

_MARK = "<!-- vanbench:gate:v1 -->"
_SIGNS = {
    Verdict.REGRESSED: "❌",
    Verdict.MISSING: "❌",
    Verdict.INVALID: "⚠️",
    Verdict.INCONCLUSIVE: "❔",
    Verdict.IMPROVED: "🚀",
    Verdict.NEW: "🆕",
    Verdict.PASS: "✅",
    Verdict.LEARNING: "❔",
}
_HEADINGS = ("cell", "base, images/s", "head, images/s", "change", "verdict", "why", "blocks")


def headline(record: GateRecord, found: Outcome) -> str:
    """One line: the counts of verdicts, the machine, how many blocks."""
    if found.problem:
        return f"INVALID: {found.problem}"
    counts = Counter(each.verdict for each in found.pairs)
    order = sorted(counts, key=lambda verdict: list(_SIGNS).index(verdict))
    words = " · ".join(f"{counts[verdict]} {verdict}" for verdict in order)
    blocks = sorted({each.shown.blocks for each in found.pairs if each.shown is not None and each.shown.blocks})
    span = "" if not blocks else f", {blocks[0]}{f'–{blocks[-1]}' if len(blocks) > 1 else ''} blocks"
    environment = record.head.environment or record.base.environment
    machine = "" if environment is None else f" ({environment.device_name}, key {environment.machine_key}{span})"
    return f"{words}{machine}"


def _change(judged: Judgement | None) -> str:
    """The change of images/s with its 95 % interval, in percent; empty where nothing was timed."""
    if judged is None or judged.mean is None or judged.low is None or judged.high is None:
        return ""
    figures = [100 * math.expm1(log) for log in (judged.mean, judged.low, judged.high)]
    if not all(math.isfinite(figure) for figure in figures):
        return ""
    text = with_spread(*figures)
    return f"{'+' if figures[0] >= 0 else ''}{text} %"


def gate_table(record: GateRecord, found: Outcome) -> Table:
    """The terminal's table: a line a pair, the family's last. Names are drawn literally."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in _HEADINGS:
        right = name not in ("cell", "verdict", "why")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for pair, line in _lines(record, found):
        colour = {"❌": "red", "⚠️": "yellow", "❔": "yellow", "🚀": "green", "✅": "green"}.get(
            _SIGNS[line.verdict], ""
        )
        cells = _cells(pair, line)
        table.add_row(*(Text(cell, style=colour if place == 4 else "") for place, cell in enumerate(cells)))
    return table


def gate_markdown(record: GateRecord, found: Outcome, most_bytes: int = MOST_BYTES) -> str:
    """The summary for CI, cut until it fits `most_bytes` of UTF-8: no details, then no passes, then counts alone."""
    top = [_MARK, f"### vanbench gate: {escaped(headline(record, found))}"]
    lines = _lines(record, found)
    short = [(pair, line) for pair, line in lines if line.verdict not in (Verdict.PASS, Verdict.NEW)]
    table, bad = (
        markdown_table(_HEADINGS, [_marked(*each) for each in some], "lrrrllr", (0, 4)) for some in (lines, short)
    )
    passed = sum(pair is not None for pair, _ in lines) - sum(pair is not None for pair, _ in short)
    left_out = f"{passed} cells that passed are left out: the page would be too long."
    for parts in (
        [*top, table, _arms(record), _details(record, found)],
        [*top, table, _arms(record)],
        [*top, bad, left_out],
        top,
    ):
        text = "\n\n".join(part for part in parts if part) + "\n"
        if len(text.encode()) <= most_bytes:
            return text
    return text.encode()[:most_bytes].decode(errors="ignore")


def gate_page(record: GateRecord, found: Outcome, figures: Sequence[str]) -> str:
    """report.md of a gate's folder: the whole summary and its plots (names of PNG files in plots/)."""
    shown = [f"![{escaped(name)}](plots/{name}.png)" for name in figures]
    return "\n\n".join([gate_markdown(record, found).rstrip(), *shown]) + "\n"


def _lines(record: GateRecord, found: Outcome) -> list[tuple[PairRecord | None, PairOutcome]]:
    lines: list[tuple[PairRecord | None, PairOutcome]] = list(zip(record.pairs, found.pairs, strict=False))
    if found.family is not None:
        lines.append((None, found.family))
    return lines


def _cells(pair: PairRecord | None, line: PairOutcome) -> list[str]:
    judged = line.shown
    blocks = "" if judged is None else f"{judged.blocks}" + (f" (+{judged.left_out} left out)" * bool(judged.left_out))
    return [line.slug, *_rates(pair), _change(judged), str(line.verdict), _why(line), blocks]


def _marked(pair: PairRecord | None, line: PairOutcome) -> list[str]:
    cells = _cells(pair, line)
    cells[0] = code(cells[0])
    cells[4] = f"{_SIGNS[line.verdict]} **{line.verdict}**"
    return cells


def _why(line: PairOutcome) -> str:
    counted = [*line.more, *line.less]
    # Of a pair with equal axes what grew is the verdict's own reason already.
    extra = [] if line.shown is None else counted
    return "; ".join([line.why, *extra])


def _rates(pair: PairRecord | None) -> tuple[str, str]:
    """Images/s of both arms over the blocks of the pass that is shown."""
    if pair is None:
        return "", ""
    blocks = [block for block in pair.passes[-1] if not observe(block).broken and not observe(block).void]
    sides = [[each for block in blocks if (each := getattr(block, role)) is not None] for role in ("base", "head")]
    return _figure(rate(sides[0])), _figure(rate(sides[1]))


def _figure(estimate: Estimate | None) -> str:
    return "" if estimate is None else with_spread(*estimate)


def _arms(record: GateRecord) -> str:
    lines = [f"- {role}: {_arm(arm)}" for role, arm in (("base", record.base), ("head", record.head))]
    rules = record.rules
    lines.append(
        f"- rule: REGRESSED where a step takes over {percent(rules.min_effect)} longer, at {percent(rules.alpha)} over "
        f"{len(rules.looks)} looks ({', '.join(map(str, rules.looks))} blocks), twice; PASS where "
        f"{percent(rules.tolerance)} is excluded"
    )
    return "\n".join(lines)


def _arm(arm: ArmSeen) -> str:
    words = []
    if arm.commit is not None:
        words.append(f"commit {arm.commit[:12]}")
    if arm.environment is not None:
        software = arm.environment.software
        words.append(f"Python {software.python}, torch {software.torch}, timm {software.timm}")
    if arm.loaded:
        words.append(f"from its tree: {', '.join(arm.loaded)}")
    return ", ".join([code(arm.asked.text), *map(escaped, words)])


def _details(record: GateRecord, found: Outcome) -> str:
    """What a sceptic asks for: the spread, the p-values, the twin, the blocks left out and why, each block's figure."""
    rows = []
    for pair, line in zip(record.pairs, found.pairs, strict=False):
        for number, judged in enumerate((line.first, line.second), 1):
            if judged is None or judged.mean is None or judged.sd is None:
                continue
            observed = [observe(block) for block in pair.passes[number - 1]]
            reasons = sorted({each.void for each in observed if each.void})
            rows.append(
                [
                    line.slug,
                    f"{number}",
                    f"{100 * judged.sd:.2f} %",
                    f"{judged.p_slower:.2g}",
                    f"{100 * math.expm1(judged.twin or 0.0):+.2f} %",
                    f"{100 * (judged.detectable or 0.0):.2g} %",
                    "; ".join(reasons),
                    " ".join(f"{100 * math.expm1(each.change):+.1f}" for each in observed if not each.broken),
                ]
            )
    if not rows:
        return ""
    names = ("cell", "pass", "spread a block", "p (slower)", "twin", "detectable", "left out for", "blocks, %")
    table = markdown_table(names, rows, "lrrrrrll")
    return f"<details><summary>spread, p-values, the base's twin, every block</summary>\n\n{table}\n\n</details>"
