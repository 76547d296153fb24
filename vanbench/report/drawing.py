"""What every figure shares: look, page, legend, axes of numbers, and the way to a file. Knows no columns of a table.

Colour says the model's family (Okabe-Ito, safe for colour-blind readers). Text is drawn as text, whatever characters a
name holds.
"""

from __future__ import annotations

import errno
import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vanbench.errors import StorageError, UserError
from vanbench.record.files import replace_file
from vanbench.units import significant

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FAINT",
    "GREY",
    "LONGEST_KEY",
    "LONGEST_NAME",
    "MARKERS",
    "Drawn",
    "drawing",
    "encode",
    "family_colours",
    "filling",
    "grid_shape",
    "key",
    "key_width",
    "number",
    "number_axis",
    "one_line",
    "padded",
    "page",
    "save",
    "wrapped",
]

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
GREY = "#6B6B6B"
FAINT = "#D9D9D9"
LONGEST_NAME = 34
LONGEST_KEY = 44

_OKABE_ITO = {"van": "#D55E00", "convnext": "#0072B2", "resnet": "#009E73"}
_OTHER_FAMILIES = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LATE_FAMILIES = "#7F7F7F"
_MOST_COLUMNS = 3
_LEAST_WIDTH = 4.6  # inches
# Above so many decades, these multiples of a power of ten are ticks.
_SUBDIVISIONS = (
    (2.6, (1.0,)),
    (1.6, (1.0, 3.0)),
    (0.7, (1.0, 2.0, 5.0)),
    (0.35, (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)),
    (-1.0, (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)),
)
_MOST_PIXELS = 2200
_STYLE: Any = {
    # A name may hold `$` or `_`, which mean nothing here.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#444444",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "vanbench",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "text.usetex": False,
}


class Drawn(NamedTuple):
    """A figure, or why there is none. title: one line that says what it shows."""

    name: str
    title: str
    figure: Figure | None
    reason: str = ""


# --- values and names -----------------------------------------------------------------------------------------------


def number(row: Mapping[str, Any], name: str) -> float | None:
    """The figure in a row's column; None if it is absent, not finite or no number."""
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def one_line(text: str, longest: int = LONGEST_NAME) -> str:
    """One line, the middle of an overlong name left out: beginnings and ends tell models apart."""
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    return f"{text[: longest * 2 // 3 - 1]}…{text[-(longest // 3) :]}"


def wrapped(words: str, size: float, width: float) -> list[str]:
    """Lines of text of `size` points that fit a figure `width` inches wide, by a letter's mean width."""
    return textwrap.wrap(words, max(20, int((width - 0.16) / (0.0076 * size)))) or [""]


def _family(model: str) -> str:
    found = re.match(r"[A-Za-z]+", model.rpartition(":")[2])
    return found.group().lower() if found else model


def family_colours(models: Sequence[str]) -> dict[str, str]:
    """A colour for each model, the same for all of one family."""
    colours = dict(_OKABE_ITO)
    spare = iter(_OTHER_FAMILIES)
    for model in models:
        if _family(model) not in colours:
            colours[_family(model)] = next(spare, _LATE_FAMILIES)
    return {model: colours[_family(model)] for model in models}


# --- pieces that figures are made of --------------------------------------------------------------------------------


def page(
    title: str,
    about: str,
    notes: Sequence[str],
    shape: tuple[int, int],
    size: tuple[float, float],
    count: int,
    *,
    room: float = 0.0,
    least_height: float = 0.0,
    **share: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure of panels, `size` inches each, with title and `about` above, notes below; surplus panels removed.

    room: inches left free at the right, for a legend to come; least_height: of all panels together; share: what
    `Figure.subplots` takes besides.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines, columns = shape
    width = max(columns * size[0] + 0.3 + room, _LEAST_WIDTH)
    # Bold letters are wider.
    titled = wrapped(title, 11.6, width)
    above = [*titled, *wrapped(about, 8.5, width)]
    below = [line for note in notes for line in wrapped(note, 6.5, width)]
    head, foot = 0.17 + 0.22 * len(above), 0.17 + 0.115 * len(below)
    height = max(lines * size[1], least_height) + head + foot
    layout = ConstrainedLayoutEngine(
        rect=(0, foot / height, 0.99 - room / width, 1 - (head + foot) / height), w_pad=0.06, h_pad=0.06
    )
    figure = Figure(figsize=(width, height), layout=layout)
    grid = figure.subplots(lines, columns, squeeze=False, **share)
    axes = [axis for line in grid for axis in line]
    for axis in axes[count:]:
        axis.remove()
    for i, line in enumerate(above):
        style: dict[str, Any] = (
            {"fontsize": 10.5, "fontweight": "bold"} if i < len(titled) else {"fontsize": 8.5, "color": GREY}
        )
        figure.text(0.08 / width, 1 - (0.10 + 0.23 * i) / height, line, ha="left", va="top", **style)
    for i, line in enumerate(reversed(below)):
        y = (0.08 + 0.115 * i) / height
        figure.text(0.08 / width, y, line, ha="left", va="bottom", fontsize=6.5, color=GREY)
    return figure, axes[:count]


def grid_shape(count: int, most: int = _MOST_COLUMNS) -> tuple[int, int]:
    """Lines and columns for so many panels."""
    columns = {4: 2, 7: 4, 8: 4}.get(count, min(count, most))
    return -(-count // columns), columns


def key(
    figure: Figure,
    beside: Axes,
    entries: Sequence[tuple[str, Artist]],
    *,
    corner: Any = "upper left",
    at: tuple[float, float] = (1.02, 1.02),
    **style: Any,
) -> None:
    """A legend whose `corner` stands `at` a place of the panel `beside`, by default right of it.

    entries: (label, mark). Leave `key_width` inches of the page for it.
    """
    shape: dict[str, Any] = {"handletextpad": 0.3, "labelspacing": 0.35, "borderaxespad": 0.3, "fontsize": 7.5}
    # Labels are set afterwards: a legend would leave out a name that begins with an underscore.
    legend = figure.legend(
        [mark for _, mark in entries],
        ["x"] * len(entries),
        loc=corner,
        bbox_to_anchor=at,
        bbox_transform=beside.transAxes,
        frameon=False,
        **{**shape, **style},
    )
    legend.set_in_layout(False)
    for text, (label, _) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(one_line(label, LONGEST_KEY))


def key_width(labels: Sequence[str]) -> float:
    """Inches that a legend with these labels takes, by a letter's mean width; 0 without labels."""
    return 0.4 + 0.0088 * 7.5 * max(len(one_line(label, LONGEST_KEY)) for label in labels) if labels else 0.0


def filling(colour: str, filled: bool) -> dict[str, Any]:
    """How a marker is filled, for `plot`."""
    return {"markerfacecolor": colour if filled else "white", "markeredgecolor": colour, "markeredgewidth": 0.9}


def number_axis(axis: Any, values: Sequence[float], *, logarithmic: bool) -> None:
    """Ticks as plain numbers. axis: an XAxis or YAxis; values: what it must hold."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis.set_major_formatter(FuncFormatter(lambda value, _: significant(value) if math.isfinite(value) else ""))
    if not logarithmic:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        return
    decades = math.log10(max(values) / min(values)) if values else 1.0
    subs = next(subs for least, subs in _SUBDIVISIONS if decades > least)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def padded(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """Limits of a logarithmic axis with room at both ends."""
    low, high = min(values), max(values)
    room = max((high / low) ** share, 1.04)
    return low / room, high * room


# --- from a figure to files -----------------------------------------------------------------------------------------


@contextmanager
def drawing() -> Iterator[None]:
    """Our style for the time of drawing; a name with signs that the font lacks is drawn with boxes, without a word."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


def encode(figure: Figure) -> dict[str, bytes]:
    """The content of a figure's files by suffix (`png`, `svg`)."""
    files = {}
    with drawing():
        for suffix in ("png", "svg"):
            content = io.BytesIO()
            # No date within: drawn twice from the same table a figure is the same to the byte.
            metadata = {"Date": None} if suffix == "svg" else {"Software": "vanbench"}
            # A wide figure has pixels enough at a lower density, and its SVG has every detail.
            density = min(_STYLE["savefig.dpi"], _MOST_PIXELS / max(figure.get_size_inches()))
            figure.savefig(content, format=suffix, metadata=metadata, dpi=density)
            files[suffix] = content.getvalue()
    return files


def save(drawn: Iterable[Drawn], folder: Path) -> tuple[list[Path], list[Drawn]]:
    """Write each figure into `folder` (made if need be), each file whole; the paths written, and all that was drawn.

    Files of figures that can no longer be made are removed, so that no old figure stands beside new numbers.
    Raises StorageError or UserError if a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        kind = StorageError if error.errno == errno.ENOSPC else UserError
        raise kind(f"cannot make {folder}: {error.strerror}") from None
    paths, figures = [], []
    for each in drawn:
        figures.append(each)
        if each.figure is None:
            for suffix in ("png", "svg"):
                (folder / f"{each.name}.{suffix}").unlink(missing_ok=True)
            continue
        for suffix, content in encode(each.figure).items():
            path = folder / f"{each.name}.{suffix}"
            replace_file(path, content)
            paths.append(path)
    return paths, figures
