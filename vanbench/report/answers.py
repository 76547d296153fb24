"""What follows from a table's rows together: what a choice is worth, where the knee is, who is faster when.

Every answer is a small table for report.md and report.html, made where the rows allow it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from vanbench.analysis.knee import SHARE, Knee, Point, best_within, knee
from vanbench.analysis.ranking import Order, pairs, tau
from vanbench.analysis.ratio import Estimate, quotient
from vanbench.report.beside import (
    CHOICES,
    IDENTITY,
    REFERENCE,
    certain_rate,
    groups_along,
    names_of,
    over_of,
    rate_of,
    ratio_of,
    text_of,
)
from vanbench.report.drawing import number
from vanbench.report.scene import configuration_of
from vanbench.report.table import Row, differing
from vanbench.units import percent, seconds, significant

__all__ = ["Answer", "answers"]

_LIMITS_S = (0.010, 0.050, 0.100)


class Answer(NamedTuple):
    """A table with a title and how to read it. align: a letter a column, `l` or `r`."""

    title: str
    text: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    align: str


def answers(rows: Sequence[Row]) -> list[Answer]:
    """Those that the rows allow; none for a single configuration of a single model."""
    measured = [row for row in rows if row["status"] == "measured" and rate_of(row) is not None]
    found: list[Answer] = []
    for make in (_choices, _training, _growth, _orders):
        found += make(measured)
    return [*found, *_knees(measured, rows)]


def _choices(rows: Sequence[Row]) -> Iterator[Answer]:
    """For each axis of a configuration: what its other values are worth against its first."""
    for axis in differing(rows, CHOICES):
        base = rows[0][axis]
        named, lines = names_of(rows), []
        for group in groups_along(rows, axis):
            if base not in group:
                continue
            for word, row in group.items():
                if word != base:
                    over = over_of(row, group[base])
                    more = [say(row, group[base]) for _, say in _MORE.get(axis, ())]
                    lines.append([named(group[base]), str(word), text_of(over), *more])
        if lines:
            title = f"What {axis.replace('_', ' ')} is worth"
            head = ["cell", axis.replace("_", " "), f"images/s over {base}", *(head for head, _ in _MORE.get(axis, ()))]
            text = "Images/s of the same model and configuration, side by side; above 1: faster."
            yield Answer(title, text, head, lines, "ll" + "r" * (len(head) - 2))


def _kept(row: Row, base: Row) -> str:
    share = number(row, "channels_last_share")
    return percent(share, 3) if share is not None and row["memory_format"] == "channels_last" else ""


def _compile_time(row: Row, base: Row) -> str:
    time_s = number(row, "compile_s")
    return seconds(time_s) if time_s is not None else ""


def _paid_back(row: Row, base: Row) -> str:
    """Images after which compiling has taken less time than it saved."""
    time_s = number(row, "compile_s")
    over = over_of(row, base)
    if time_s is None:
        return ""
    if over.low is None or over.high is None or over.low <= 1:
        return "never" if over.high is not None and over.high < 1 else "not settled"
    # An image takes 1 / rate eagerly, and that over `over` once compiled.
    counts = [time_s * certain_rate(base).value / (1 - 1 / value) for value in (over.value, over.high, over.low)]
    best, least, most = (significant(count, 2) for count in counts)
    return f"{best} ({least} to {most})" if least != most else best


_MORE: Mapping[str, Sequence[tuple[str, Callable[[Row, Row], str]]]] = {
    "memory_format": (("convs that got channels_last", _kept),),
    "compile": (("compile time, cold", _compile_time), ("images until it has paid", _paid_back)),
}


def _training(rows: Sequence[Row]) -> Iterator[Answer]:
    """How much longer a training step takes than an inference step, and how that stands beside the reference's."""
    named, lines = names_of(rows), []
    for group in groups_along(rows, "task"):
        if not {"infer", "train"} <= group.keys():
            continue
        infer, train = group["infer"], group["train"]
        beside = ""
        before, after = ratio_of(infer), ratio_of(train)
        if before is not None and after is not None:
            beside = "1" if before == after == REFERENCE else text_of(quotient(before, after))
        parts = [number(train, name) for name in ("forward_s", "backward_s", "optimizer_s")]
        whole = sum(part for part in parts if part is not None)
        shares = [percent(part / whole) if part is not None and whole else "" for part in parts]
        slower = quotient(certain_rate(infer), certain_rate(train))
        rates = [text_of(certain_rate(row)) for row in (infer, train)]
        lines.append([named(infer), *rates, text_of(slower), beside, *shares])
    if lines:
        head = ["cell", "infer, images/s", "train, images/s", "a step takes x times as long", "over the reference's x"]
        head += ["forward", "backward", "optimizer"]
        text = (
            "How much longer a training step takes than inference. Over the reference's: above 1 training slows this "
            "model down more than the reference; both ratios come from turns side by side."
        )
        yield Answer("Training beside inference", text, head, lines, "l" + "r" * 7)


def _knees(rows: Sequence[Row], asked: Sequence[Row]) -> Iterator[Answer]:
    """For each model and configuration: the knee, and the best within limits of latency. asked: what failed too."""
    named, lines = names_of(rows), []
    failed = [row for row in asked if str(row["reason"]).startswith("out_of_memory")]
    for group in groups_along(rows, "batch_size"):
        ordered = sorted(group.values(), key=lambda row: int(str(row["batch_size"])))
        points = [
            Point(int(str(row["batch_size"])), certain_rate(row), number(row, "median_s") or math.inf)
            for row in ordered
        ]
        bend = knee(points)
        if bend is None:
            continue
        best = max(points, key=lambda point: point.rate.value)
        within = [best_within(points, limit) for limit in _LIMITS_S]
        lines.append(
            [
                named(ordered[0], "batch_size"),
                _bend(bend),
                f"{text_of(best.rate)} (batch {best.batch_size})",
                *(f"{significant(each.rate.value)} (batch {each.batch_size})" if each else "none" for each in within),
                _largest(ordered[-1], failed),
                _roofs(ordered),
            ]
        )
    if lines:
        limits = [f"within {seconds(limit)}" for limit in _LIMITS_S]
        head = [
            "cell",
            f"batch of {percent(SHARE)} of the best",
            "best images/s",
            *limits,
            "largest that ran",
            "what holds it, by batch",
        ]
        text = (
            f"The smallest batch that reaches {percent(SHARE)} of the best images/s (what the intervals leave open in "
            "brackets), and the most images/s with a median step within a limit of latency."
        )
        yield Answer("Batch size: the knee", text, head, lines, "lrrrrrrl")


def _bend(bend: Knee) -> str:
    text = f"{bend.batch_size} or more" if bend.at_end else str(bend.batch_size)
    return text if bend.earliest == bend.latest else f"{text} ({bend.earliest} to {bend.latest})"


def _largest(last: Row, failed: Sequence[Row]) -> str:
    """The largest batch that was measured, and the smallest that no memory was found for."""
    alike = [name for name in IDENTITY if name not in ("batch_size", "device", "threads")]
    over = [int(str(row["batch_size"])) for row in failed if all(row[name] == last[name] for name in alike)]
    return f"{last['batch_size']}" + (f" ({min(over)}: out of memory)" if over else "")


def _roofs(ordered: Sequence[Row]) -> str:
    """Which roof most of the bound is due to, by batch sizes: `1 to 4 matrix, 8 bandwidth`."""
    runs: list[tuple[str, list[str]]] = []
    for row in ordered:
        kind = row["bound_kind"]
        if kind is None:
            continue
        if not runs or runs[-1][0] != kind:
            runs.append((str(kind), []))
        runs[-1][1].append(str(row["batch_size"]))
    return ", ".join(f"{sizes[0]}{f' to {sizes[-1]}' if len(sizes) > 1 else ''} {kind}" for kind, sizes in runs)


def _growth(rows: Sequence[Row]) -> Iterator[Answer]:
    """The time of a pixel by image size, over the smallest image's."""
    sizes = sorted({int(str(row["image_size"])) for row in rows})
    if len(sizes) < 2:
        return
    named, lines = names_of(rows), []
    for group in groups_along(rows, "image_size"):
        first = group.get(sizes[0])
        if first is None or len(group) < 2:
            continue
        line = [named(first, "image_size")]
        for size in sizes[1:]:
            row = group.get(size)
            line.append(text_of(_slower_a_pixel(row, first)) if row is not None else "")
        lines.append(line)
    if lines:
        head = ["cell", *(f"{size} px" for size in sizes[1:])]
        text = f"Time of a pixel over the same at {sizes[0]} px: 1 where time grows with the pixels."
        yield Answer("Image size: the time of a pixel", text, head, lines, "l" + "r" * (len(sizes) - 1))


def _slower_a_pixel(row: Row, first: Row) -> Estimate:
    slower = quotient(certain_rate(first), certain_rate(row))
    pixels = (float(str(first["image_size"])) / float(str(row["image_size"]))) ** 2
    low, high = (None if end is None else end * pixels for end in (slower.low, slower.high))
    return Estimate(slower.value * pixels, low, high)


def _orders(rows: Sequence[Row]) -> Iterator[Answer]:
    """The order of models in each configuration, how alike the orders are, and who changes places."""
    scenes = list(dict.fromkeys((row["task"], row["image_size"]) for row in rows))
    for task, size in scenes:
        mine = [row for row in rows if (row["task"], row["image_size"]) == (task, size)]
        varied = differing(mine, (*CHOICES, "device", "threads"))
        several = bool(differing(mine, ("batch_size",)))
        configurations: dict[str, dict[str, Row]] = {}
        for row in mine:
            words = [f"batch {row['batch_size']}"] * several + [configuration_of(row, varied)]
            configurations.setdefault(", ".join(filter(None, words)), {})[str(row["model"])] = row
        configurations = {name: by for name, by in configurations.items() if len(by) > 1}
        if len({model for by in configurations.values() for model in by}) < 3 or len(configurations) < 2:
            continue
        orders = [_order(list(by.values())) for by in configurations.values()]
        lines = []
        for name, order in zip(configurations, orders, strict=True):
            alike = tau(orders[0], order)
            lines.append([name, _said(order), significant(alike, 2) if alike is not None else ""])
        met = pairs(orders)
        certain = [f"{pair.one} and {pair.other}" for pair in met if pair.certainly]
        unsure = [f"{pair.one} and {pair.other}" for pair in met if pair.changes and not pair.certainly]
        text = (
            f"Fastest first; ≈ where the interval of the two does not settle it. {len(certain)} of {len(met)} pairs "
            f"change places for certain{_list(certain)}, {len(unsure)} perhaps{_list(unsure)}. "
            "Kendall's tau with the first configuration: 1 the same order, 0 none in common, -1 the reverse."
        )
        title = "Order of the models" + (f", {task}, {size} px" if len(scenes) > 1 else "")
        yield Answer(title, text, ["configuration", "order", "tau"], lines, "llr")


def _list(names: Sequence[str]) -> str:
    return f" ({'; '.join(names)})" if names else ""


def _order(rows: Sequence[Row]) -> Order:
    """Ratios, where all have one to the same reference; else images/s."""
    ratios = [ratio_of(row) for row in rows]
    one = len({row["ratio_to"] for row in rows}) == 1
    found = [ratio if one and None not in ratios else rate_of(row) for ratio, row in zip(ratios, rows, strict=True)]
    return {str(row["model"]): each for row, each in zip(rows, found, strict=True) if each is not None}


def _said(order: Order) -> str:
    models = sorted(order, key=lambda model: -order[model].value)
    text = models[0]
    for before, model in pairwise(models):
        low = quotient(order[before], order[model]).low
        text += f" {'>' if low is not None and low > 1 else '≈'} {model}"
    return text
