"""The `memprof` command. Every error a user can cause ends here, as one line and an exit code."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from memprof.cli.check import check
from memprof.cli.compare import compare
from memprof.cli.diff import diff
from memprof.cli.doctor import doctor
from memprof.cli.explain import explain
from memprof.cli.methods import methods
from memprof.cli.models import models
from memprof.cli.report import report
from memprof.cli.reproduce import reproduce
from memprof.errors import MemprofError
from memprof.interrupt import Interrupted, listening

USAGE = 2
INTERRUPTED = 130

app = typer.Typer(
    name="memprof",
    help="What a way of training a LLaMA costs in memory and speed, and why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(compare)
app.command()(explain)
app.command()(check)
app.command()(diff)
app.command()(report)
app.command()(reproduce)
app.command()(methods)
app.command()(models)
app.command()(doctor)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"memprof {version('memprof')}")
        except PackageNotFoundError:
            typer.echo("memprof (checkout)")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """What a way of training a LLaMA costs in memory and speed, and why."""


def main() -> None:
    """Run the command line; whatever a user can cause becomes one line on stderr and an exit code."""
    with listening():
        try:
            code = app(standalone_mode=False)
        except (Interrupted, KeyboardInterrupt) as stopped:
            _fail(str(stopped) or "interrupted", INTERRUPTED)
        except MemprofError as error:
            _fail(str(error), error.exit_code)
        except Exception as error:
            _fail_usage(error)
    sys.exit(code or 0)


def _fail(message: str, code: int) -> NoReturn:
    with suppress(OSError):  # a terminal that hung up takes no more words
        print(f"memprof: {message}", file=sys.stderr)
    sys.exit(code)


def _fail_usage(error: Exception) -> NoReturn:
    """A mistake in the options, which typer (or click, under an older typer) found; anything else is a bug of ours."""
    if not hasattr(error, "format_message"):
        raise error
    message = " ".join(str(error.format_message()).split())
    if not message:  # no arguments at all: the help was printed
        sys.exit(USAGE)
    _fail(f"{message.rstrip('.')}; memprof --help and memprof COMMAND --help say what there is", USAGE)
