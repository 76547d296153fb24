"""Which model names can be built, and what they cost. Builds on the meta device: no weights, no time."""

from __future__ import annotations

from vanbench.errors import UserError, nearest
from vanbench.models.load import cost_of, find_own, timm_names
from vanbench.record.task import Named, Names

__all__ = ["answer"]


def answer(task: Names) -> Named:
    """What is wrong with each model name (nothing: absent), and rows of name, params and MACs."""
    known = timm_names("*")
    problems = {name: problem for name in task.models if (problem := _problem(name, known))}
    wanted = list(task.models) if task.pattern is None else timm_names(task.pattern)
    rows: list[tuple[str, int | None, int | None]] = []
    for name in wanted:
        if name in problems:
            continue
        params, macs = cost_of(name, task.image_size) if task.cost else (None, None)
        rows.append((name, params, macs))
    return Named(problems=problems, rows=rows)


def _problem(name: str, known: list[str]) -> str | None:
    if ":" in name:
        return _problem_of_callable(name)
    base = name.split(".")[0]
    if base in known:
        return None
    from vanbench.spec.names import ALIASES

    close = nearest(name, [*known, *ALIASES])
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"unknown model {name!r}{hint} ({len(known)} are known: vanbench models '*')"


def _problem_of_callable(name: str) -> str | None:
    try:
        find_own(name)
    except UserError as error:
        return str(error)
    return None
