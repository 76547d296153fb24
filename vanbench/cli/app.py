"""The verbs, and the one place that turns an exception into a message and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from vanbench.cli import (
    ceilings,
    compare,
    depthwise,
    env,
    export,
    gate,
    interrupt,
    models,
    profile,
    report,
    run,
    selftest,
    track,
)
from vanbench.errors import VanbenchError

__all__ = ["app", "main"]

_INTERRUPTED = 130
# Recent typer carries a click of its own, older typer needs the real one: the class is found through typer's own.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="vanbench",
    help="Throughput and memory-bandwidth benchmark of vision backbones: VAN beside ConvNeXt and ResNet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Rich's help pages take three times as long to import as to print.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", no_args_is_help=False)(run.run)
app.command("models")(models.models)
app.command("env")(env.env)
app.command("ceilings")(ceilings.ceilings)
app.command("profile")(profile.profile)
app.command("depthwise")(depthwise.depthwise)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("gate")(gate.gate)
app.add_typer(track.track, name="track", help="The history of images/s, sharded by machine.")
app.command("export")(export.export)
app.command("selftest")(selftest.selftest)


@app.callback(invoke_without_command=True)
def _top(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave.", is_eager=True),
) -> None:
    if version:
        import vanbench

        typer.echo(f"vanbench {vanbench.__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see CONTRACT: 0, 1, 2, 130)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    interrupt.install()
    try:
        code = app(args=words, prog_name="vanbench", standalone_mode=False)
        # Typer turns a KeyboardInterrupt into this code.
        return _interrupted() if code == _INTERRUPTED else int(code or 0)
    except typer.Exit as leave:
        return int(leave.exit_code)
    except _UsageError as mistake:
        if str(mistake):  # without arguments at all, the help has been printed
            typer.echo(f"vanbench: {_message_of(mistake)}", err=True)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is left to say, and Python must not try at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except VanbenchError as error:
        if debug:
            raise
        typer.echo(f"vanbench: {error}", err=True)
        return error.exit_code


def _interrupted() -> int:
    typer.echo("vanbench: interrupted; every finished round is kept", err=True)
    return _INTERRUPTED


def _message_of(mistake: Any) -> str:
    """The message of a click UsageError, with the nearest spelling of a wrong option or verb and where help is."""
    from vanbench.errors import unknown

    context = mistake.ctx
    command = getattr(context, "command", None)
    text: str = mistake.format_message()
    if hasattr(mistake, "option_name") and text.startswith("No such option"):
        options = [word for parameter in command.params for word in parameter.opts] if command else []
        text = str(unknown("option", mistake.option_name, options))
    elif text.startswith("No such command"):
        text = str(unknown("verb", text.split("'")[1], sorted(command.commands) if command else []))
    where = context.command_path if context is not None else "vanbench"
    return f"{text} (see {where} --help)"
