"""`vanbench run`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from vanbench.spec.sweep import Sweep

__all__ = ["run"]

_AXES = "Axes (a comma list makes several values)"
_HOW = "How long and how well"
_WHERE = "Where results go"
_Text = Optional[str]  # noqa: UP045 -- typer reads annotations at run time, on Python 3.10 too


def run(
    sweep: Annotated[Optional[Path], typer.Argument(help="A sweep file (TOML); flags overlay it.")] = None,  # noqa: UP045
    models: Annotated[
        _Text, typer.Option(help="Model names, e.g. van_b0,convnext_t; see `vanbench models`.", rich_help_panel=_AXES)
    ] = None,
    task: Annotated[_Text, typer.Option(help="infer, train. [default: infer]", rich_help_panel=_AXES)] = None,
    batch_size: Annotated[
        _Text, typer.Option(help="Images a step. [default: 1,8; on CUDA 1,32,256]", rich_help_panel=_AXES)
    ] = None,
    image_size: Annotated[_Text, typer.Option(help="Square, pixels. [default: 224]", rich_help_panel=_AXES)] = None,
    precision: Annotated[
        _Text,
        typer.Option(
            help="fp32, tf32, bf16, fp16, amp-bf16, amp-fp16. [default: fp32; on CUDA fp32,bf16]",
            rich_help_panel=_AXES,
        ),
    ] = None,
    memory_format: Annotated[
        _Text, typer.Option(help="contiguous, channels_last. [default: both]", rich_help_panel=_AXES)
    ] = None,
    compile: Annotated[  # noqa: A002 -- the flag's name
        _Text,
        typer.Option(
            help="torch.compile: off, default, reduce-overhead, max-autotune. [default: off]", rich_help_panel=_AXES
        ),
    ] = None,
    form: Annotated[
        _Text,
        typer.Option(
            help="How the model is written: reference, lean, folded. [default: reference]", rich_help_panel=_AXES
        ),
    ] = None,
    depthwise: Annotated[
        _Text,
        typer.Option(
            help="What serves depthwise convs: native, polyphase, cpu, auto. [default: native]", rich_help_panel=_AXES
        ),
    ] = None,
    allocator: Annotated[
        _Text,
        typer.Option(
            help="What serves memory: system, keep, tcmalloc, jemalloc. [default: system]", rich_help_panel=_AXES
        ),
    ] = None,
    threads: Annotated[
        _Text, typer.Option(help="CPU threads. [default: auto, torch's choice]", rich_help_panel=_AXES)
    ] = None,
    device: Annotated[_Text, typer.Option(help="auto, cpu, cuda, cuda:N. [default: auto]")] = None,
    reference: Annotated[
        _Text, typer.Option(help="The model whose first cell `ratio` divides by. [default: the first cell]")
    ] = None,
    target: Annotated[
        _Text,
        typer.Option(
            help="Relative half-width of the 95 % interval of `ratio` at which rounds end. [default: 0.02]",
            rich_help_panel=_HOW,
        ),
    ] = None,
    rounds: Annotated[
        _Text, typer.Option(help="MIN:MAX fresh processes a cell. [default: 5:15]", rich_help_panel=_HOW)
    ] = None,
    budget: Annotated[
        _Text,
        typer.Option(help="Seconds for the whole run. [default: 240; on CUDA 900]", rich_help_panel=_HOW),
    ] = None,
    timeout: Annotated[
        _Text,
        typer.Option(help="Seconds of silence before a worker is killed. [default: 300]", rich_help_panel=_HOW),
    ] = None,
    seed: Annotated[
        _Text, typer.Option(help="Of weights, inputs and the order of turns. [default: 0]", rich_help_panel=_HOW)
    ] = None,
    ceilings: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Ceilings that bounds are made of. [default: this machine's newest by `vanbench ceilings`]",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The run directory. [default: results/<machine>/<UTC time>-<name>]", rich_help_panel=_WHERE),
    ] = None,
    resume: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Continue the run in this directory.", rich_help_panel=_WHERE),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: measure failed cells again.", rich_help_panel=_WHERE)
    ] = False,
    list_cells: Annotated[
        bool, typer.Option("--list", help="Print the cells and the expected duration; measure nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the run directory.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON instead.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Measure every cell of a sweep: images/s, ratios, memory; into a run directory with CSV, report and plots.

    Nothing measured is lost: stop it at any moment and continue with --resume DIR.
    """
    flags: dict[str, Any] = {
        "models": models,
        "task": task,
        "batch-size": batch_size,
        "image-size": image_size,
        "precision": precision,
        "memory-format": memory_format,
        "compile": compile,
        "form": form,
        "depthwise": depthwise,
        "allocator": allocator,
        "threads": threads,
        "device": device,
        "reference": reference,
        "target": target,
        "rounds": rounds,
        "budget": budget,
        "timeout": timeout,
        "seed": seed,
    }
    from vanbench.execute.run import measure

    if resume is not None:
        overrides = _overrides(sweep, out, ceilings, list_cells, flags)
        events = measure(None, resume=resume, overrides=overrides, retry_failed=retry_failed)
    else:
        parsed = _parse(sweep, flags)
        if list_cells:
            _print_preview(parsed, as_json)
            return 0
        events = measure(parsed, out=out, ceilings=ceilings)
    from vanbench.cli.progress import follow

    return follow(events, quiet=quiet, as_json=as_json)


def _parse(path: Path | None, flags: dict[str, Any]) -> Sweep:
    from vanbench.spec.sweep import parse_sweep, read_toml

    document = read_toml(path) if path is not None else {}
    return parse_sweep(document, flags, name=path.stem if path is not None else "run")


def _overrides(
    sweep: Path | None, out: Path | None, ceilings: Path | None, list_cells: bool, flags: dict[str, Any]
) -> dict[str, float | int]:
    """What may accompany --resume: how long to go on. The rest stands in the directory's sweep.toml."""
    from vanbench.errors import UserError
    from vanbench.spec.sweep import parse_sweep

    allowed = ("target", "rounds", "budget", "timeout")
    given = [f"--{name}" for name, value in flags.items() if value is not None and name not in allowed]
    given += [str(sweep)] * (sweep is not None) + ["--out"] * (out is not None)
    given += ["--ceilings"] * (ceilings is not None) + ["--list"] * list_cells
    if given:
        raise UserError(
            f"--resume takes the sweep from the directory; it does not go with {', '.join(given)} "
            f"(allowed beside it: {', '.join('--' + name for name in allowed)}, --retry-failed)"
        )
    flags = {name: flags[name] for name in allowed}
    return dict(parse_sweep({"axes": {"models": "van_b0"}}, flags).sampling)


def _print_preview(sweep: Sweep, as_json: bool) -> None:
    import json

    from vanbench import units
    from vanbench.execute.run import preview

    seen = preview(sweep)
    if as_json:
        rows = [{"key": c.key, "slug": c.slug, **c.asked, "skipped": why} for c, why in seen.cells]
        typer.echo(json.dumps({"cells": rows, "expected_s": seen.seconds, "machine": seen.environment.machine}))
        return
    for cell, why in seen.cells:
        typer.echo(f"{cell.key}  {cell.slug}" + (f"  (skipped: {why})" if why else ""))
    measured = sum(why is None for _, why in seen.cells)
    typer.echo(
        f"{measured} of {len(seen.cells)} cells would be measured on {seen.environment.device_name}, "
        f"in at most about {units.duration(seen.seconds)}"
    )
