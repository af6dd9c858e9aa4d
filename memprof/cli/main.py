"""The `memprof` command. Every error a user can cause ends here, as one line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from memprof.cli.compare import compare
from memprof.cli.doctor import doctor
from memprof.cli.methods import methods
from memprof.cli.models import models
from memprof.errors import MemprofError

INTERRUPTED = 130

app = typer.Typer(
    name="memprof",
    help="What a way of training a LLaMA costs in memory and speed, and why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(compare)
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
    """Run the command line; a `MemprofError` becomes its line on stderr and its exit code."""
    try:
        app()
    except MemprofError as error:
        print(f"memprof: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("memprof: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
