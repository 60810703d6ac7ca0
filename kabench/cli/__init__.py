"""The command line. Each command is a module that parses, calls and prints, and imports what it needs when called."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from kabench.cli.command import Command
from kabench.cli.compare import compare
from kabench.cli.diff import diff
from kabench.cli.errors import CommandError, say
from kabench.cli.probe import probe
from kabench.cli.proxy import proxy
from kabench.cli.report import report
from kabench.cli.run import run
from kabench.cli.serve import serve
from kabench.cli.worker import worker
from kabench.version import __version__

app = typer.Typer(
    name="kabench",
    help="Send load through a keep-alive agent, and measure what keep-alive is worth.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # `Command` has the groups
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=Command)(run)
app.command(cls=Command)(compare)
app.command(cls=Command)(diff)
app.command(cls=Command)(serve)
app.command(cls=Command)(proxy)
app.command(cls=Command)(probe)
app.command(cls=Command)(report)
app.command(cls=Command)(worker)

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""The error that typer raises for a command line it does not understand."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kabench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[  # its callback prints it
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with its code. An error is printed in one or two lines."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot show must not end a run
    try:
        code = app(standalone_mode=False)
    except CommandError as error:
        say(f"kabench: {error}")
        code = error.exit_code
    except typer.Abort:
        code = CommandError.INTERRUPTED
    except _UsageError as error:
        _explain(error)
        code = CommandError.CANNOT_START
    sys.exit(_flushed(code if isinstance(code, int) else 0))


def _flushed(code: int) -> int:
    """Flush standard output and return the exit code. Text that cannot be printed, as on a full disk, is lost."""
    if sys.stdout is None:  # closed before the command began
        return code
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stdout = None  # else Python would try again at its end, and complain
        return code or CommandError.COULD_NOT_MEASURE
    return code


def _explain(error: Exception) -> None:
    text = getattr(error, "format_message", error.__str__)().strip()
    if text:
        context = getattr(error, "ctx", None)
        command = "kabench" if context is None else context.command_path
        say(f"kabench: {text}\nTry '{command} --help'.")
