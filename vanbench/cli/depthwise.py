"""`vanbench depthwise`: depthwise convs alone, against the roofline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["depthwise"]


def depthwise(
    models: Annotated[str, typer.Option(help="Models whose depthwise convs are meant.")] = "van_b0,convnext_t",
    kernel: Annotated[str, typer.Option(help="Kernel sizes to try on each map: 3, 5, 7; or none.")] = "3,5,7",
    dilation: Annotated[str, typer.Option(help="Dilations to try with each kernel: 1, 2, 3.")] = "1,2,3",
    batch_size: Annotated[Optional[int], typer.Option(help="Images. [default: 8; on CUDA 64]")] = None,  # noqa: UP045
    image_size: Annotated[int, typer.Option(help="Of the models' input, pixels.")] = 224,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, a comma list.")] = "fp32",
    memory_format: Annotated[str, typer.Option(help="contiguous, channels_last.")] = "contiguous,channels_last",
    passes: Annotated[
        str, typer.Option("--pass", help="forward, grad_input, grad_weight.")
    ] = "forward,grad_input,grad_weight",
    implementation: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--depthwise",
            help="Implementations. [default: native,polyphase,cpu; on CUDA native,polyphase,cuda,triton,cudnn,aten]",
        ),
    ] = None,
    threads: Annotated[str, typer.Option(help="CPU threads; auto is torch's choice.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    rounds: Annotated[int, typer.Option(help="Fresh processes that visit every case, at most.")] = 5,
    budget: Annotated[float, typer.Option(help="Seconds for all of it.")] = 600.0,
    seed: Annotated[int, typer.Option(help="Of tensors and of the order of cases.")] = 0,
    ceilings: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads annotations at run time, on Python 3.10 too
        typer.Option(help="Ceilings to hold it against. [default: this machine's newest by `vanbench ceilings`]"),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The folder to write. [default: results/<machine>/<UTC time>-depthwise]"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print depthwise.csv's rows as JSON instead.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Depthwise convs alone: every shape of the models x kernel x dilation x layout x pass, warm and cold.

    Each by every implementation in turns, as fractions of the roof that holds it.
    """
    from vanbench.cli.looking import NO_CEILINGS, Line
    from vanbench.cli.words import numbers, positive, thread_counts, words
    from vanbench.errors import UserError
    from vanbench.execute.ceilings import Looking
    from vanbench.execute.depthwise import Axes, time_depthwise
    from vanbench.execute.profile import Begun
    from vanbench.record.folder import read_folder
    from vanbench.report.look import depthwise_table, write_folder
    from vanbench.spec import names
    from vanbench.spec.sweep import parse_sweep

    flags = {"models": models, "device": device, "image-size": str(image_size), "threads": threads}
    if batch_size is not None:
        flags["batch-size"] = str(batch_size)
    sweep = parse_sweep({}, flags)
    counts = thread_counts(threads)
    if len(counts) != 1:
        raise UserError(f"threads {threads!r} has several values: depthwise takes one")
    if rounds < 1:
        raise UserError(f"rounds {rounds} is not a whole number above 0")
    axes = Axes(
        batch_size=batch_size,
        kernel_sizes=() if kernel == "none" else numbers("kernel", kernel, (3, 5, 7)),
        dilations=numbers("dilation", dilation, (1, 2, 3)),
        precisions=words("precision", precision, ("fp32", "bf16", "fp16")),
        memory_formats=words("memory-format", memory_format, names.MEMORY_FORMATS),
        directions=words("pass", passes, names.DIRECTIONS),
        implementations=() if implementation is None else words("depthwise", implementation, names.DEPTHWISE),
    )
    path = Path()
    with Line(quiet or as_json) as line:
        for event in time_depthwise(
            [str(model) for model in sweep.axes["models"]],
            axes,
            image_size=image_size,
            device=device,
            threads=counts[0],
            rounds=rounds,
            budget_s=positive("budget", budget),
            seed=seed,
            out=out,
            ceilings=ceilings,
        ):
            if isinstance(event, Begun):
                path = event.path
                line.say(f"{event.cells} cases on {event.environment.device_name} -> {event.path}")
                if not event.has_ceilings:
                    line.say(NO_CEILINGS)
            elif isinstance(event, Looking):
                line.show(event.text)
            else:
                write_folder(path, plots=False)
                line.say(f"round {event.number} saved: {event.reached} of {event.cases} cases")
    write_folder(path)
    rows = depthwise_table(read_folder(path))
    if as_json:
        import json

        typer.echo(json.dumps({"path": str(path), "rows": rows}))
    elif quiet:
        typer.echo(str(path))
    else:
        counted = {status: sum(row["status"] == status for row in rows) for status in ("measured", "failed", "skipped")}
        typer.echo(", ".join(f"{count} {status}" for status, count in counted.items() if count))
        typer.echo(f"{path}: depthwise.csv, report.html, report.md, plots/")
    return 1 if any(row["status"] == "failed" for row in rows) else 0
