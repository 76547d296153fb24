"""The history as text: tables for the terminal, a Markdown table for a CI's page, rows for JSON. Prints nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vanbench.analysis.flags import remedies
from vanbench.analysis.history import Finding, Judged, Judgement, Opening
from vanbench.analysis.history_points import Change
from vanbench.analysis.level import LEAST_POINTS
from vanbench.analysis.verdict import Verdict
from vanbench.record.history import Point, Unreadable
from vanbench.report.to_markdown import escaped, markdown_table
from vanbench.units import percent, significant, with_spread

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "changes_text",
    "finding_rows",
    "findings_table",
    "markdown",
    "note_lines",
    "opening_lines",
    "opening_text",
    "series_table",
    "shift",
    "sparkline",
    "unreadable_lines",
    "verdict_counts",
]

_STYLES = {
    Verdict.REGRESSED: "bold red",
    Verdict.MISSING: "bold red",
    Verdict.INVALID: "magenta",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.LEARNING: "yellow",
    Verdict.IMPROVED: "green",
}
# As they stand above a table: what needs somebody first.
_GRAVEST_FIRST = (
    Verdict.REGRESSED,
    Verdict.MISSING,
    Verdict.INVALID,
    Verdict.INCONCLUSIVE,
    Verdict.LEARNING,
    Verdict.IMPROVED,
    Verdict.PASS,
)
_FIGURES = ("images/s", "baseline", "change", "limit", "of ratio")
_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 24
_MOST_NAMED = 3
_MOST_LINES = 20
_LONGEST_NAME = 44
_LONGEST_REASON = 160


# --- words ----------------------------------------------------------------------------------------------------------


def shift(change: float | None) -> str:
    """A relative change with its sign, to a tenth of a percent: `-5.3 %`, `+12.4 %`; empty if absent."""
    if change is None or not math.isfinite(change):
        return ""
    rounded = round(change, 3)
    return f"{'+' if rounded > 0 else ''}{percent(rounded, 6)}"


def _rate(point: Point) -> str:
    """Images/s whose digits follow from the interval; whatever stands there if that is no rate."""
    value, low, high = point.images_per_s, point.low, point.high
    if value is None or not math.isfinite(value):
        return "no number"
    proper = low is not None and high is not None and low <= value <= high
    return with_spread(value, low, high) if proper else significant(value, 4)


def changes_text(changes: Sequence[Change], most: int | None = None) -> str:
    """`torch 2.15.0 -> 2.16.0, cudnn 91002 -> 91100`; at most so many, the others counted."""
    words = [f"{each.name} {each.before or 'none'} → {each.after or 'none'}" for each in changes]
    shown = words if most is None or len(words) <= most else [*words[:most], f"{len(words) - most} more"]
    return ", ".join(shown)


def opening_text(opening: Opening) -> str:
    """Why a segment begins; empty for the first one."""
    words = [f"accepted: {each.reason}" for each in opening.accepted]
    return "; ".join([*words, changes_text(opening.changes)] if opening.changes else words)


def _fill(finding: Finding) -> str:
    """How many points the segment has, and how many it needs while it is learning."""
    if finding.judged is None:
        return ""
    return f"{finding.points} of {LEAST_POINTS}" if finding.verdict is Verdict.LEARNING else str(finding.points)


def _note(finding: Finding) -> str:
    """What a reader must know besides the figures; empty in the ordinary case."""
    judged = finding.judged
    if judged is None:
        return _short(finding.why)
    if finding.verdict is Verdict.INVALID:
        return "its images/s is no number above 0"
    words = []
    if finding.verdict is Verdict.PASS and judged.side:
        words.append(
            "below its limit for the first time: a second time in a row is a regression"
            if judged.side < 0
            else "above its limit for the first time"
        )
    if finding.verdict is Verdict.LEARNING and (since := opening_text(finding.since)):
        words.append(f"a new segment since {since}")
    return _short("; ".join(words))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 1]}…"


def verdict_counts(findings: Iterable[Finding]) -> str:
    """`1 REGRESSED · 5 PASS`, the gravest first."""
    counts = Counter(finding.verdict for finding in findings)
    return " · ".join(f"{counts[each]} {each}" for each in _GRAVEST_FIRST if counts[each])


def note_lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each thing to know, with the cells that it holds for; then what disturbed the cells that alert."""
    cells: dict[str, list[str]] = {}
    for finding in findings:
        if text := _note(finding):
            cells.setdefault(text, []).append(finding.slug)
    alerting = [f.judged.point for f in findings if f.verdict is Verdict.REGRESSED and f.judged is not None]
    disturbed = remedies(flag for point in alerting for flag in point.flags)
    return [f"{_who(slugs)}: {text}" for text, slugs in cells.items()] + [f"flagged {line}" for line in disturbed]


def _who(slugs: Sequence[str]) -> str:
    return ", ".join(slugs) if len(slugs) <= _MOST_NAMED else f"{len(slugs)} cells"


def unreadable_lines(unreadable: Sequence[Unreadable]) -> list[str]:
    """A line for each line of a shard that was left out, the first of them, and their number."""
    if not unreadable:
        return []
    lines = [f"{each.path}, line {each.line}: left out: {_short(each.why)}" for each in unreadable[:_MOST_LINES]]
    return [*lines, f"{len(unreadable)} line{'s' if len(unreadable) != 1 else ''} of the history could not be read"]


# --- tables ---------------------------------------------------------------------------------------------------------


def _figures(finding: Finding) -> dict[str, str]:
    """Text of each of `_FIGURES`. The limit as a change: where it lies far off, a pass says little."""
    judged = finding.judged
    if judged is None:
        return dict.fromkeys(_FIGURES, "")
    far = judged.lower / judged.baseline - 1 if judged.lower is not None and judged.baseline is not None else None
    return {
        "images/s": _rate(judged.point),
        "baseline": "" if judged.baseline is None else significant(judged.baseline, 4),
        "change": shift(judged.change),
        "limit": shift(far),
        "of ratio": shift(judged.ratio_change),
    }


def findings_table(findings: Sequence[Finding]) -> Table:
    """A line for each finding: cell, images/s, baseline, change, limit, the ratio's change if any, verdict, points."""
    figures = [_figures(finding) for finding in findings]
    heads = [head for head in _FIGURES if head != "of ratio" or any(each[head] for each in figures)]
    lines = [
        [finding.slug, *(each[head] for head in heads), finding.verdict, _fill(finding)]
        for finding, each in zip(findings, figures, strict=True)
    ]
    return _table([*heads, "verdict", "points"], lines)


def series_table(judgements: Sequence[Judgement], findings: Sequence[Finding]) -> Table:
    """A line for each series: cell, its last points as bars, images/s, change, limit, verdict, points.

    findings: of each series, in the same order.
    """
    lines = []
    for judgement, finding in zip(judgements, findings, strict=True):
        bars = sparkline([each.point.images_per_s for each in judgement.points])
        figures = _figures(finding)
        shown = [figures[head] for head in ("images/s", "change", "limit")]
        lines.append([finding.slug, bars, *shown, finding.verdict, _fill(finding)])
    return _table([f"last {_SPARKS}", "images/s", "change", "limit", "verdict", "points"], lines)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str | Verdict]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    widest = max((len(str(line[0])) for line in lines), default=0)
    table.add_column("cell", overflow="fold", min_width=min(widest, _LONGEST_NAME))
    for head in heads:
        left = head == "verdict" or head.startswith("last")
        table.add_column(head, justify="left" if left else "right", no_wrap=True)
    for line in lines:
        # Names are drawn literally, never read as rich's markup.
        cells = [Text(str(cell), style=_STYLES.get(cell, "") if isinstance(cell, Verdict) else "") for cell in line]
        table.add_row(*cells)
    return table


def sparkline(rates: Sequence[float | None], most: int = _SPARKS) -> str:
    """The last points as bars between the least and the greatest of them; `·` for a point without a valid rate."""
    shown = [rate if rate is not None and math.isfinite(rate) and rate > 0 else None for rate in rates[-most:]]
    valid = [rate for rate in shown if rate is not None]
    if not valid:
        return "·" * len(shown)
    low, span = min(valid), max(valid) - min(valid)

    def bar(rate: float) -> str:
        return _BARS[round((rate - low) / span * (len(_BARS) - 1))] if span else _BARS[len(_BARS) // 2]

    return "".join("·" if rate is None else bar(rate) for rate in shown)


def opening_lines(judgements: Sequence[Judgement]) -> list[str]:
    """What opened the segments, by time: the day, why, and the cells that it holds for."""
    cells: dict[tuple[str, str], list[str]] = {}
    for judgement in judgements:
        for opening in judgement.openings:
            times = [each.time for each in opening.accepted]
            if opening.place < len(judgement.points):
                times.append(judgement.points[opening.place].point.time)
            if text := opening_text(opening):
                cells.setdefault((min(times)[:10], text), []).append(judgement.series.slug)
    return [f"{day}  {text}  ({_who(slugs)})" for (day, text), slugs in sorted(cells.items())]


# --- for other programs ---------------------------------------------------------------------------------------------


def finding_rows(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Plain values for JSON, an object a finding; what is absent or not finite is None."""
    return [_row(finding) for finding in findings]


def _row(finding: Finding) -> dict[str, Any]:
    row: dict[str, Any] = {"cell_key": finding.cell_key, "slug": finding.slug, "verdict": str(finding.verdict)}
    judged = finding.judged
    figures: Mapping[str, Any] = _plain(judged) if judged is not None else {}
    return {**row, **figures, "points": finding.points, "note": _note(finding)}


def _plain(judged: Judged) -> dict[str, Any]:
    point = judged.point
    figures = {
        "images_per_s": point.images_per_s,
        "low": point.low,
        "high": point.high,
        "baseline": judged.baseline,
        "limit": judged.lower,
        "upper_limit": judged.upper,
        "change": judged.change,
        "ratio": point.ratio,
        "ratio_change": judged.ratio_change,
    }
    known = {name: value if value is not None and math.isfinite(value) else None for name, value in figures.items()}
    place = {"machine_key": point.machine_key, "machine": point.machine, "time": point.time, "commit": point.commit}
    return {**place, **known, "flags": list(point.flags)}


def markdown(
    findings: Sequence[Finding], machine: str, *, unreadable: int = 0, ended: int = 0, title: str = "vanbench track"
) -> str:
    """The check as Markdown, for the page of a CI job: counts, a table with the gravest first, what was left out.

    machine: what the figures are of, for people. unreadable: lines of the history that were left out; ended: series
    that nobody measures any more.
    """
    parts = [f"### {escaped(title)}: {verdict_counts(findings) or 'nothing to judge'} ({escaped(machine)})"]
    ordered = sorted(findings, key=lambda finding: _GRAVEST_FIRST.index(finding.verdict))
    lines = [
        [finding.slug, *_figures(finding).values(), _bold(finding.verdict), _fill(finding), _note(finding)]
        for finding in ordered
    ]
    head = ["cell", *_FIGURES, "verdict", "points", "note"]
    if lines:
        parts.append(markdown_table(head, lines, align="lrrrrrlrl", raw=(head.index("verdict"),)))
    said = []
    if unreadable:
        said.append(f"{unreadable} line{'s' if unreadable != 1 else ''} of the history could not be read")
    if ended:
        said.append(f"{ended} series that nobody measures any more {'are' if ended != 1 else 'is'} not judged")
    if said:
        parts.append(f"{'; '.join(said)}.".capitalize())
    return "\n\n".join(parts) + "\n"


def _bold(verdict: Verdict) -> str:
    return f"**{verdict}**" if verdict in (Verdict.REGRESSED, Verdict.MISSING, Verdict.INVALID) else str(verdict)
