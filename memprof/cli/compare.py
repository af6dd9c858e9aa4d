"""`memprof compare`: methods side by side on each model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from memprof.counting import COUNTINGS
from memprof.errors import CellFailedError, shown


class Witness(StrEnum):
    FORMULA = "formula"
    TRACE = "trace"
    MEASURED = "measured"


SCENARIO, MEASURING, OUTPUT = "Scenario", "Measuring", "Output"


def compare(
    model: Annotated[list[str], typer.Option(help="Named shape or path to a config.json; repeats.", rich_help_panel=SCENARIO)] = ["1b"],  # noqa: B006, E501
    method: Annotated[list[str] | None, typer.Option(help="name, or name:key=value,...; repeats; 'all'. [default: the core eight]", rich_help_panel=SCENARIO)] = None,  # noqa: E501
    rank: Annotated[list[str] | None, typer.Option(metavar="INTEGER[,...]", help="Rank, for methods that have one; 32,64,128 sweeps, as for the two below. [default: a quarter of the smallest treated side, at most 256]", rich_help_panel=SCENARIO)] = None,  # noqa: E501
    batch_size: Annotated[list[str], typer.Option("--batch-size", "--batch", metavar="INTEGER[,...]", help="Sequences of a micro-batch.", rich_help_panel=SCENARIO)] = ["8"],  # noqa: B006, E501
    accumulation: Annotated[int, typer.Option(min=1, help="Micro-batches of an optimizer step.", rich_help_panel=SCENARIO)] = 1,  # noqa: E501
    seq_len: Annotated[list[str], typer.Option("--seq-len", "--seq", metavar="INTEGER[,...]", help="Tokens of a sequence.", rich_help_panel=SCENARIO)] = ["256"],  # noqa: B006, E501
    dtype: Annotated[str, typer.Option(help="bf16, fp16, fp32 or amp.", rich_help_panel=SCENARIO)] = "bf16",
    kernels: Annotated[str | None, typer.Option(help="What formula and trace stand for: cuda or cpu. [default: cuda, or the device measured on]", rich_help_panel=SCENARIO)] = None,  # noqa: E501
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Override the model's vocabulary.", rich_help_panel=SCENARIO)] = None,  # noqa: E501
    num_layers: Annotated[int | None, typer.Option(min=1, help="Override the model's number of layers.", rich_help_panel=SCENARIO)] = None,  # noqa: E501
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Activation checkpointing: keep only each layer's input, run the layer again in backward.", rich_help_panel=SCENARIO)] = False,  # noqa: E501
    loss_chunks: Annotated[int, typer.Option(min=1, help="Pieces in which head and loss are computed: the logits of one piece are alive.", rich_help_panel=SCENARIO)] = 1,  # noqa: E501
    clip_grad_norm: Annotated[float | None, typer.Option(help="Clip gradients to this norm before the optimizer's step.", rich_help_panel=SCENARIO)] = None,  # noqa: E501
    counting: Annotated[str, typer.Option(help=f"How the formula counts, and then speaks: {', '.join(COUNTINGS)}.", rich_help_panel=SCENARIO)] = "memprof",  # noqa: E501
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and data.", rich_help_panel=SCENARIO)] = 0,
    text: Annotated[str | None, typer.Option(metavar="FILE", help="Measured steps train on the bytes of this file, its first GiB at most, instead of synthetic tokens.", rich_help_panel=MEASURING)] = None,  # noqa: E501
    measure: Annotated[bool | None, typer.Option("--measure/--no-measure", help="Take real steps too. [default: when CUDA is there]", rich_help_panel=MEASURING)] = None,  # noqa: E501
    device: Annotated[str | None, typer.Option(help="Where to measure: cuda or cpu.", rich_help_panel=MEASURING)] = None,  # noqa: E501
    rounds: Annotated[int, typer.Option(min=0, max=1_000, help="Rounds of a race: in each every method has its turn, in random order, and speeds are compared round by round. 0: memory alone.", rich_help_panel=MEASURING)] = 6,  # noqa: E501
    steps: Annotated[int, typer.Option(min=2, max=100_000, help="Timed ordinary steps of each method, spread over the rounds; one a round at least.", rich_help_panel=MEASURING)] = 10,  # noqa: E501
    timeout: Annotated[float, typer.Option(min=1.0, max=1e6, help="Seconds that one measured cell may take.", rich_help_panel=MEASURING)] = 1_800.0,  # noqa: E501
    max_fraction: Annotated[float, typer.Option(min=0.01, max=100.0, help="Skip a cell that needs more than this share of the free memory; above 1 tries what does not fit.", rich_help_panel=MEASURING)] = 0.95,  # noqa: E501
    by: Annotated[Witness | None, typer.Option(help="Whose figures the columns show. [default: the strongest that ran; the formula's under a paper's counting]", rich_help_panel=OUTPUT)] = None,  # noqa: E501
    unit: Annotated[str | None, typer.Option(help="GiB (2**30), GB (1e9), MiB, MB, ... [default: GiB, or MiB where no peak reaches 0.01 GiB]", rich_help_panel=OUTPUT)] = None,  # noqa: E501
    fits: Annotated[str | None, typer.Option(help="Say what fits a memory such as 24GiB.", rich_help_panel=OUTPUT)] = None,  # noqa: E501
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.", rich_help_panel=OUTPUT)] = False,  # noqa: E501
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="What the allocator would hold; each line of a measured process's memory, and how each speed was come by.", rich_help_panel=OUTPUT)] = False,  # noqa: E501
    output: Annotated[str | None, typer.Option("--output", "-o", help="Keep the run in this folder: records, tables, charts.", rich_help_panel=OUTPUT)] = None,  # noqa: E501
    histories: Annotated[str | None, typer.Option(metavar="DIR", help="Keep what each measurement records of the allocator in this folder, a file a cell.", rich_help_panel=OUTPUT)] = None,  # noqa: E501
    force: Annotated[bool, typer.Option("--force", help="Start over in a folder that holds a run, or histories of these cells.", rich_help_panel=OUTPUT)] = False,  # noqa: E501
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder: cells run that neither finished nor ran out of memory.", rich_help_panel=OUTPUT)] = False,  # noqa: E501
    retry_oom: Annotated[bool, typer.Option("--retry-oom", help="With --resume: cells that ran out of memory run again too.", rich_help_panel=OUTPUT)] = False,  # noqa: E501
) -> None:  # fmt: skip
    """Methods side by side: memory by formula, by trace and, with a device, measured; and speed."""
    from memprof.cli.session import Session, View

    session = Session.plan(
        models=model,
        methods=method,
        measure=measure,
        device=device,
        rank=swept("--rank", rank or []) or None,
        batch_size=swept("--batch-size", batch_size),
        accumulation=accumulation,
        seq_len=swept("--seq-len", seq_len),
        dtype=dtype,
        kernels=kernels,
        vocab_size=vocab_size,
        num_layers=num_layers,
        checkpointing=checkpointing,
        loss_chunks=loss_chunks,
        clip_grad_norm=clip_grad_norm,
        counting=counting,
        seed=seed,
        text=text,
    )
    view = View.of(by=by, unit=unit, fits=fits, json=json, output=output, force=force, resume=resume,
                   retry_oom=retry_oom, verbose=verbose, histories=histories)  # fmt: skip
    records = session.run(view, rounds=rounds, steps=steps, timeout=timeout, max_fraction=max_fraction)
    if any(record.status != "ok" for record in records):
        raise typer.Exit(CellFailedError.exit_code)


def swept(option: str, given: Sequence[str]) -> list[int]:
    """The whole numbers of an option that repeats and takes comma lists, each once."""
    texts = [part.strip() for text in given for part in text.split(",")]
    for text in texts:
        if not re.fullmatch(r"0*[1-9]\d{0,8}", text, re.ASCII):
            message = f"{shown(text)!r} is no whole number of at least 1; write 64, or 32,64,128 to sweep"
            raise typer.BadParameter(message, param_hint=option)
    return list(dict.fromkeys(int(text) for text in texts))
