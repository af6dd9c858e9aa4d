"""`memprof explain`: why one method's peak is where it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memprof.cli.compare import swept
from memprof.errors import MemprofError
from memprof.units import UNITS

if TYPE_CHECKING:
    from memprof.explanation import Explanation

SCENARIO, OUTPUT = "Scenario", "Output"


def explain(
    method: Annotated[str, typer.Argument(help="name, or name:key=value,...")],
    model: Annotated[str, typer.Option(help="Named shape or path to a config.json.", rich_help_panel=SCENARIO)] = "1b",
    rank: Annotated[str | None, typer.Option(metavar="INTEGER", help="Rank, for a method that has one.", rich_help_panel=SCENARIO)] = None,  # noqa: E501
    batch_size: Annotated[str, typer.Option("--batch-size", "--batch", metavar="INTEGER", help="Sequences of a micro-batch.", rich_help_panel=SCENARIO)] = "8",  # noqa: E501
    accumulation: Annotated[int, typer.Option(min=1, help="Micro-batches of an optimizer step.", rich_help_panel=SCENARIO)] = 1,  # noqa: E501
    seq_len: Annotated[str, typer.Option("--seq-len", "--seq", metavar="INTEGER", help="Tokens of a sequence.", rich_help_panel=SCENARIO)] = "256",  # noqa: E501
    dtype: Annotated[str, typer.Option(help="bf16, fp16, fp32 or amp.", rich_help_panel=SCENARIO)] = "bf16",
    kernels: Annotated[str | None, typer.Option(help="What the trace stands for: cuda or cpu. [default: cuda]", rich_help_panel=SCENARIO)] = None,  # noqa: E501
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Override the model's vocabulary.", rich_help_panel=SCENARIO)] = None,  # noqa: E501
    num_layers: Annotated[int | None, typer.Option(min=1, help="Override the model's number of layers.", rich_help_panel=SCENARIO)] = None,  # noqa: E501
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Activation checkpointing.", rich_help_panel=SCENARIO)] = False,  # noqa: E501
    loss_chunks: Annotated[int, typer.Option(min=1, help="Pieces in which the loss is computed.", rich_help_panel=SCENARIO)] = 1,  # noqa: E501
    clip_grad_norm: Annotated[float | None, typer.Option(help="Clip gradients to this norm before the optimizer's step.", rich_help_panel=SCENARIO)] = None,  # noqa: E501
    depth: Annotated[int, typer.Option(min=1, max=9, help="Pieces of a module's name that are told apart; 4 and more: tensor by tensor.", rich_help_panel=OUTPUT)] = 2,  # noqa: E501
    top: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of the longer tables.", rich_help_panel=OUTPUT)] = 8,
    unit: Annotated[str | None, typer.Option(help="GiB (2**30), GB (1e9), MiB, MB, ... [default: GiB, or MiB for a small model]", rich_help_panel=OUTPUT)] = None,  # noqa: E501
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.", rich_help_panel=OUTPUT)] = False,  # noqa: E501
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Draw modules, timeline and waterfall in this folder too.", rich_help_panel=OUTPUT)] = None,  # noqa: E501
    force: Annotated[bool, typer.Option("--force", help="Overwrite such charts there.", rich_help_panel=OUTPUT)] = False,  # noqa: E501
) -> None:  # fmt: skip
    """Why a method's peak is where it is: against AdamW's, by module and instant, and what would lower it."""
    if unit is not None and unit not in UNITS:
        raise MemprofError(f"unknown unit {unit!r}; choose from {', '.join(UNITS)}")
    if output is not None:
        _check_place(output, force)
    from memprof.api import environment
    from memprof.api import explain as explanation_of
    from memprof.cli.screen import print_table
    from memprof.report.diagnosis import diagnosis
    from memprof.report.explain import render
    from memprof.report.rows import suitable_unit

    with _waiting():
        explained = explanation_of(
            model,
            method,
            depth=depth,
            rank=None if rank is None else _single("--rank", rank),
            batch_size=_single("--batch-size", batch_size),
            accumulation=accumulation,
            seq_len=_single("--seq-len", seq_len),
            dtype=dtype,
            kernels=kernels,
            vocab_size=vocab_size,
            num_layers=num_layers,
            checkpointing=checkpointing,
            loss_chunks=loss_chunks,
            clip_grad_norm=clip_grad_norm,
        )
    unit = unit or suitable_unit([explained.record])
    if output is not None:
        _draw(output, explained, unit)
    if json:
        print(explained.document(environment(), diagnosis(explained, unit)))
    else:
        print_table(render(explained, unit=unit, top=top))


def _single(option: str, given: str) -> int:
    """One whole number; who gives several wants a comparison."""
    values = swept(option, [given])
    if len(values) > 1:
        listed = ",".join(map(str, values))
        message = f"{listed}: one value here; sweep with memprof compare {option} {listed}"
        raise typer.BadParameter(message, param_hint=option)
    return values[0]


def _check_place(folder: Path, force: bool) -> None:
    """An error before anything is traced, rather than after."""
    from memprof.report.explain_files import NAMES

    taken = [name for name in NAMES if (folder / name).exists()]
    if taken and not force:
        raise MemprofError(f"{folder / taken[0]} is there already; use --force to overwrite it")


def _draw(folder: Path, explained: Explanation, unit: str) -> None:
    from memprof.report.explain_files import write
    from memprof.run_file import disk

    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, explained, unit)


@contextmanager
def _waiting() -> Iterator[None]:
    """A line for whoever watches, gone when there is something to read."""
    from memprof.cli.screen import WIPE

    watched = sys.stderr.isatty()
    if watched:
        print("memprof: tracing ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if watched:
            print(WIPE, end="", file=sys.stderr, flush=True)
