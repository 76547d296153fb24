"""vanbench: throughput and memory-bandwidth benchmark of vision backbones.

Importing it is light: nothing heavy is loaded until a function is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas

__all__ = ["__version__", "load", "run"]
__version__ = "0.1.0"


def run(models: list[str], *, out: str | Path | None = None, **axes: Any) -> pandas.DataFrame:
    """Measure every cell of a sweep and return the table with the columns of results.csv.

    models: names as for `vanbench run --models`. axes: the other flags of `vanbench run` with underscores
    (batch_size=[1, 8], memory_format="channels_last", budget=60, ceilings="ceilings.json" ...). out: the run directory;
    a new one by default.
    Raises UserError for a word that is not allowed. A failed cell is a row, not an exception.
    """
    from vanbench.execute.run import run_quietly

    return load(run_quietly(models, out=out, **axes))


def load(path: str | Path) -> pandas.DataFrame:
    """The table of a run directory or results.csv as a DataFrame; of a profile or of depthwise convs likewise.

    Raises UserError if the path is none of these.
    """
    from vanbench.report.frames import load_frame

    return load_frame(path)
