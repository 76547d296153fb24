"""`vanbench env`: what this machine is, and what will disturb a measurement on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vanbench.record.allocators import Gains

__all__ = ["env"]


def env(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    allocators: Annotated[
        bool, typer.Option("--allocators", help="Measure what each allocator is worth, three minutes on the CPU.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Describe the machine at rest: hardware, versions, and each thing that disturbs a measurement with its remedy."""
    from vanbench.execute.allocators import gains_of
    from vanbench.execute.probe import probe
    from vanbench.spec.sweep import parse_sweep

    parse_sweep({"axes": {"models": "van_b0"}}, {"device": device})  # the word is checked before a worker starts
    if allocators:
        _measure_allocators(quiet=as_json)
    seen = probe(device)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(seen).decode())
        return
    from vanbench import units
    from vanbench.analysis.advice import advice

    hardware, software, rest = seen.hardware, seen.software, seen.rest
    lines = [
        ("machine", f"{seen.machine} (key {seen.machine_key})"),
        ("device", f"{seen.device}: {seen.device_name}"),
        (
            "CPU",
            f"{hardware.cpu}, {hardware.cores} cores, {hardware.logical_cores} logical, {software.cpu_capability}"
            + (f", quota {hardware.cpu_quota:g} CPUs" if hardware.cpu_quota is not None else "")
            + (f", under a {hardware.virtualisation}" if hardware.virtualisation else ""),
        ),
        ("memory", f"{hardware.memory_gib} GiB, {units.memory(rest.free_bytes)} free"),
        *(
            ("GPU", f"{gpu.name}, {units.memory(gpu.memory_bytes)}, compute {gpu.compute_capability}")
            for gpu in hardware.gpus
        ),
        ("system", f"{software.os} {software.kernel}, {software.libc}"),
        (
            "software",
            f"vanbench {software.vanbench}, Python {software.python}, torch {software.torch}, timm {software.timm}"
            + (f", CUDA {software.cuda}, cuDNN {software.cudnn}, driver {software.driver}" if software.cuda else ""),
        ),
        ("threads", f"{rest.threads}, when idle: {rest.wait_policy}"),
        ("allocator", rest.allocator),
        *((f"no {word}", reason) for word, reason in seen.unsupported.items()),
        *((name, value) for name, value in seen.settings.items()),
    ]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        typer.echo(f"{name:<{width}}  {text}")
    found = advice(seen)
    typer.echo("")
    if not found:
        typer.echo("Nothing seen that would disturb a measurement.")
    for what, remedy in found:
        typer.echo(f"! {what}\n  -> {remedy}")
    known = gains_of(seen.machine_key)
    if known is not None:
        typer.echo("")
        for line in _recommendation(known):
            typer.echo(line)


def _measure_allocators(quiet: bool) -> None:
    """Find out and keep what the allocators gain; with progress, as `run` shows it."""
    from rich.console import Console

    from vanbench.cli import interrupt
    from vanbench.cli.progress import shown
    from vanbench.execute.allocators import find_gains

    for _ in shown(find_gains(), Console(stderr=True, quiet=quiet)):
        interrupt.check()


def _recommendation(known: Gains) -> list[str]:
    """What was measured of the allocators, and which to choose by what words."""
    from vanbench import units
    from vanbench.analysis.gains import recommended
    from vanbench.record.allocators import setting

    figures = [f"{gain.allocator} {units.with_spread(gain.ratio, gain.low, gain.high)}" for gain in known.gains]
    lines = [f"allocators, images/s over the system's ({known.cell}, {known.date[:10]}): {', '.join(figures)}"]
    best = recommended(known)
    if best is None:
        return [*lines, "  -> none of them gains for certain: the system's serves as well"]
    return [*lines, f"  -> allocator={best.allocator}; for a program of your own: {setting(best.allocator)} python ..."]
