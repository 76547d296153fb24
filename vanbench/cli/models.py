"""`vanbench models`: what can be named."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

__all__ = ["models"]

_MOST = 60


def models(
    pattern: Annotated[
        Optional[str],  # noqa: UP045 -- typer reads annotations at run time, on Python 3.10 too
        typer.Argument(help="A shell pattern over all of timm's names, e.g. 'convnext*'; without one: the usual ones."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """List models: parameters, GMACs at 224 px, published ImageNet-1k top-1 and its source.

    A model of your own is named package.module:callable.
    """
    from vanbench.spec.names import ALIASES, KNOWN

    if pattern is None:
        rows: list[tuple[str, int | None, int | None]] = [(name, k.params, k.macs) for name, k in KNOWN.items()]
    else:
        rows = _matching(pattern)
    aliases: dict[str, list[str]] = {}
    for alias, name in ALIASES.items():
        aliases.setdefault(name, []).append(alias)
    if as_json:
        import json

        typer.echo(
            json.dumps(
                [
                    {
                        "model": name,
                        "aliases": aliases.get(name, []),
                        "params": params,
                        "macs": macs,
                        "top1": KNOWN[name].top1 if name in KNOWN else None,
                        "source": (KNOWN[name].source or None) if name in KNOWN else None,
                    }
                    for name, params, macs in rows
                ]
            )
        )
        return
    import sys

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "aliases"):
        table.add_column(heading, no_wrap=True)
    for heading in ("params [M]", "GMACs", "top-1 [%]"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("source of top-1")
    for name, params, macs in rows:
        known = KNOWN.get(name)
        table.add_row(
            name,
            " ".join(aliases.get(name, [])),
            "" if params is None else f"{params / 1e6:.2f}",
            "" if macs is None else f"{macs / 1e9:.2f}",
            "" if known is None or known.top1 is None else f"{known.top1:.1f}",
            "" if known is None else known.source,
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _matching(pattern: str) -> list[tuple[str, int | None, int | None]]:
    """Rows for every name that matches, with costs where there are few enough to build them all."""
    from vanbench.errors import UserError, nearest
    from vanbench.execute.probe import ask_names
    from vanbench.record.task import Names
    from vanbench.spec.names import ALIASES, KNOWN, canonical

    found = ask_names(Names(pattern=canonical(pattern))).rows
    if not found:
        close = nearest(pattern, [*KNOWN, *ALIASES])
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "; try '*resnet*'"
        raise UserError(f"no model matches {pattern!r}{hint}")
    if len(found) <= _MOST:
        found = ask_names(Names(models=tuple(name for name, _, _ in found), cost=True)).rows
    return found
