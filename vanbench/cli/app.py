"""The verbs, and the one place that turns an exception into a message and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import click
import typer

from vanbench.cli import env, models, report, run
from vanbench.errors import VanbenchError

__all__ = ["app", "main"]

app = typer.Typer(
    name="vanbench",
    help="Throughput and memory-bandwidth benchmark of vision backbones: VAN beside ConvNeXt and ResNet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", no_args_is_help=False)(run.run)
app.command("models")(models.models)
app.command("env")(env.env)
app.command("report")(report.report)


@app.callback(invoke_without_command=True)
def _top(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave.", is_eager=True),
) -> None:
    if version:
        import vanbench

        typer.echo(f"vanbench {vanbench.__version__}")
        raise typer.Exit


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see CONTRACT: 0, 1, 2, 130)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    try:
        code = app(args=words, prog_name="vanbench", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.exceptions.NoArgsIsHelpError as nothing:
        typer.echo(nothing.format_message())
        return 2
    except click.UsageError as mistake:
        typer.echo(f"vanbench: {_message_of(mistake)}", err=True)
        return 2
    except (KeyboardInterrupt, click.Abort):
        typer.echo("vanbench: interrupted; every finished round is kept", err=True)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is left to say, and Python must not try at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except VanbenchError as error:
        if debug:
            raise
        typer.echo(f"vanbench: {error}", err=True)
        return error.exit_code


def _message_of(mistake: click.UsageError) -> str:
    """Click's message, with the nearest spelling of a wrong option or verb and where help is."""
    from vanbench.errors import nearest

    text = mistake.format_message()
    if isinstance(mistake, click.NoSuchOption) and mistake.ctx is not None:
        options = [word for parameter in mistake.ctx.command.params for word in parameter.opts]
        close = nearest(mistake.option_name, options)
        text = f"unknown option {mistake.option_name!r}" + (f"; did you mean {' or '.join(close)}?" if close else "")
    elif text.startswith("No such command") and isinstance(getattr(mistake.ctx, "command", None), click.Group):
        group = mistake.ctx.command  # type: ignore[union-attr]
        verbs = sorted(group.commands)  # type: ignore[attr-defined]
        word = text.split("'")[1] if "'" in text else ""
        close = nearest(word, verbs)
        text = f"unknown verb {word!r}" + (f"; did you mean {' or '.join(close)}?" if close else "")
        text += f" (allowed: {', '.join(verbs)})"
    where = mistake.ctx.command_path if mistake.ctx is not None else "vanbench"
    return f"{text} (see {where} --help)"
