"""`vanbench profile`: where a step's time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

__all__ = ["profile"]

_Text = Optional[str]  # noqa: UP045 -- typer reads annotations at run time, on Python 3.10 too


def profile(
    models: Annotated[_Text, typer.Option(help="Model names, e.g. van_b0,convnext_t.")] = None,
    task: Annotated[_Text, typer.Option(help="infer, train. [default: infer]")] = None,
    batch_size: Annotated[_Text, typer.Option(help="Images a step. [default: 8; on CUDA 64]")] = None,
    image_size: Annotated[_Text, typer.Option(help="Square, pixels. [default: 224]")] = None,
    precision: Annotated[_Text, typer.Option(help="fp32, tf32, bf16, fp16, amp-bf16, amp-fp16.")] = None,
    memory_format: Annotated[_Text, typer.Option(help="contiguous, channels_last. [default: both]")] = None,
    compile: Annotated[_Text, typer.Option(help="off: a compiled step has no operations to name.")] = None,  # noqa: A002
    form: Annotated[_Text, typer.Option(help="How the model is written: reference, lean, folded.")] = None,
    depthwise: Annotated[_Text, typer.Option(help="What serves depthwise convs: native, polyphase, cpu, auto.")] = None,
    allocator: Annotated[_Text, typer.Option(help="What serves memory: system, keep, tcmalloc, jemalloc.")] = None,
    threads: Annotated[_Text, typer.Option(help="CPU threads. [default: auto, torch's choice]")] = None,
    device: Annotated[_Text, typer.Option(help="auto, cpu, cuda, cuda:N. [default: auto]")] = None,
    seconds: Annotated[float, typer.Option(help="Of turns of profiled and unprofiled steps, a cell.")] = 15.0,
    seed: Annotated[_Text, typer.Option(help="Of weights and inputs. [default: 0]")] = None,
    timeout: Annotated[_Text, typer.Option(help="Seconds of silence before a worker is killed. [default: 300]")] = None,
    ceilings: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Ceilings to hold it against. [default: this machine's newest by `vanbench ceilings`]"),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The folder to write. [default: results/<machine>/<UTC time>-profile]"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print ops.csv's rows as JSON instead.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Where one step's time goes, op by op, against the ceilings: ops.csv, tables by class and stage, the roofline."""
    from vanbench.cli.looking import NO_CEILINGS, Line
    from vanbench.cli.words import positive
    from vanbench.execute.profile import Begun, Kept, Missed, profile_cells
    from vanbench.record.folder import read_folder
    from vanbench.report.look import ops_table, write_folder
    from vanbench.spec.sweep import parse_sweep

    flags: dict[str, Any] = {
        "models": models,
        "task": task,
        "batch-size": batch_size or ("64" if (device or "").startswith("cuda") else "8"),
        "image-size": image_size,
        "precision": precision,
        "memory-format": memory_format or "contiguous,channels_last",
        "compile": compile,
        "form": form,
        "depthwise": depthwise,
        "allocator": allocator,
        "threads": threads,
        "device": device,
        "seed": seed,
        "timeout": timeout,
    }
    sweep = parse_sweep({}, flags, name="profile")
    path, failed = Path(), False
    with Line(quiet or as_json) as line:
        for event in profile_cells(sweep, out=out, ceilings=ceilings, seconds=positive("seconds", seconds)):
            if isinstance(event, Begun):
                path = event.path
                line.say(f"{event.cells} cells on {event.environment.device_name} -> {event.path}")
                if not event.has_ceilings:
                    line.say(NO_CEILINGS)
            elif isinstance(event, Kept):
                write_folder(path, plots=False)
                line.say(f"{event.profile.cell.slug}: {len(event.profile.ops)} operations")
            elif isinstance(event, Missed):
                failed = failed or event.kind != "skipped"
                line.say(f"{event.cell.slug}: {event.kind}: {event.message}")
            else:
                line.show(f"{event.cell.slug}: {event.text}")
    write_folder(path)
    rows = ops_table(read_folder(path))
    if as_json:
        import json

        typer.echo(json.dumps({"path": str(path), "rows": rows}))
    elif quiet:
        typer.echo(str(path))
    else:
        _print(rows)
        typer.echo(f"{path}: ops.csv, report.html, report.md, plots/")
    return 1 if failed else 0


def _print(rows: list[dict[str, Any]]) -> None:
    from vanbench import units
    from vanbench.report.class_lines import class_lines, warnings_of
    from vanbench.report.op_tables import groups, steps

    for step in steps(rows):
        typer.echo(f"\n{step.words}: a step takes {units.seconds(step.step_s)}")
        head = ("", "operations", "ms an image", "share", "of its roof")
        lines = [head, *class_lines(step, groups(step, "op_class"))]
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        for line in lines:
            cells = [line[0].ljust(widths[0]), *(line[i].rjust(widths[i]) for i in range(1, 5))]
            typer.echo("  " + "  ".join(cells))
        for said in warnings_of(step):
            typer.echo(f"  ! {said}")
