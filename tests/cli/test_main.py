"""The program's frame: help at once, every error as one line, every end with its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import memprof.api
import memprof.cli.main
import memprof.interrupt
from memprof.cli.main import app
from memprof.errors import CellFailedError, MemprofError, NothingToDoError, UnsupportedError

Main = Callable[..., Any]
ROOT = Path(__file__).parents[2]

OPTIONS = {
    "compare": {
        "--accumulation", "--batch", "--batch-size", "--by", "--checkpointing", "--clip-grad-norm", "--counting",
        "--device", "--dtype", "--fits", "--force", "--histories", "--json", "--kernels", "--loss-chunks",
        "--max-fraction", "--measure", "--method", "--model", "--no-measure", "--num-layers", "--output", "--rank",
        "--resume", "--retry-oom", "--rounds", "--seed", "--seq", "--seq-len", "--steps", "--text", "--timeout",
        "--unit", "--verbose", "--vocab-size", "-o", "-v",
    },
    "explain": {
        "method", "--accumulation", "--batch", "--batch-size", "--checkpointing", "--clip-grad-norm",
        "--depth", "--dtype", "--force",
        "--json", "--kernels", "--loss-chunks", "--model", "--num-layers", "--output", "--rank", "--seq", "--seq-len",
        "--top", "--unit", "--vocab-size", "-o",
    },
    "report": {
        "run", "--by", "--fits", "--force", "--html", "--json", "--output", "--prediction", "--strict", "--unit", "-o",
    },
    "reproduce": {
        "--device", "--force", "--json", "--list", "--no-trace", "--output", "--rounds", "--run", "--steps", "--table",
        "--trace", "-o", "paper",
    },
    "methods": {"name"},
    "models": set[str](),
    "doctor": {"--ceilings", "--device", "--json"},
}  # fmt: skip
"""Everything that a command takes, besides --help. A new knob is a decision: it enters here."""


def test_every_option_is_known() -> None:
    group = typer.main.get_command(app)
    found = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        names = [text for parameter in command.params for text in (*parameter.opts, *parameter.secondary_opts)]
        found[name] = set(names) - {"--help"}
    assert {name: found[name] for name in OPTIONS} == OPTIONS


@pytest.mark.parametrize(
    "arguments", [["--help"], ["compare", "--help"], ["explain", "--help"], ["models"], ["--version"]]
)
def test_torch_is_not_imported_for(arguments: list[str]) -> None:
    code = (
        "import atexit, os, sys\n"
        "atexit.register(lambda: os._exit(bool({'torch', 'pandas', 'matplotlib'} & sys.modules.keys())))\n"
        f"sys.argv = ['memprof', *{arguments!r}]\n"
        "from memprof.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_names_every_command_and_has_no_escape_codes(memprof_process: Main) -> None:
    outcome = memprof_process("--help")
    assert outcome.code == 0 and "\x1b" not in outcome.out
    assert all(name in outcome.out for name in OPTIONS)


def test_without_a_command_it_says_what_there_is(memprof_main: Main) -> None:
    outcome = memprof_main()
    assert outcome.code == 2 and "compare" in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(MemprofError, 2), (CellFailedError, 3), (UnsupportedError, 4), (NothingToDoError, 5)],
)
def test_an_error_is_one_line_and_its_exit_code(
    memprof_main: Main, monkeypatch: pytest.MonkeyPatch, error: type[MemprofError], code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("a fact; a way out")

    monkeypatch.setattr("memprof.doctor.findings", fail)
    outcome = memprof_main("doctor")
    assert (outcome.code, outcome.out, outcome.err) == (code, "", "memprof: a fact; a way out\n")


@pytest.mark.parametrize("raised", [KeyboardInterrupt, memprof.interrupt.Interrupted])
def test_an_interrupt_is_130(memprof_main: Main, monkeypatch: pytest.MonkeyPatch, raised: type[BaseException]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("memprof.doctor.findings", fail)
    outcome = memprof_main("doctor")
    assert (outcome.code, outcome.out) == (130, "")
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("arguments", [["models"], ["methods"], ["compare", "--model", "9m", "--json"]])
def test_a_reader_that_leaves_early_sees_no_traceback(arguments: list[str]) -> None:
    """The pipe is closed before anything is written, as `| head -1` may do."""
    end, pipe = os.pipe()
    os.close(end)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "memprof", *arguments],
        stdout=pipe,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        timeout=120,
    )
    os.close(pipe)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert done.returncode != 2
