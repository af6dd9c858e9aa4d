"""The fault table: every fault injected into the real program, and what became of its records and processes.

`python -m benchmarks.faults -o reports/reliability` takes some minutes and writes faults.md and faults.json. It ends
with 1 if a finished record was lost, a process was left, or the program ended with another exit code or another message
than the fault's own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.injections import INJECTIONS, Injection
from benchmarks.row import Row
from memprof.report.describe import plain

HEADER = """# What a fault costs

Made by `make faults` (`python -m benchmarks.faults -o reports/reliability`). Every fault is injected into the real
program: signals by process number, resource limits, a small file system, a program that lies on the pipe. *Before*
counts the records that were finished, *lost* those of them that are gone or changed in a byte afterwards, *left* the
measuring processes that still run a second later. After a kill or an interrupt the run was continued with `--resume`:
exactly the missing cells ran. Exit code and message of every row are compared with those that are right for its fault.

| fault | before | lost | left | exit | what is said |
|---|---:|---:|---:|---:|---|
"""


def markdown(rows: list[Row]) -> str:
    return HEADER + "".join(_line(row) for row in rows)


def _line(row: Row) -> str:
    figures = (row.before, row.lost, row.children, row.code)
    cells = [row.fault, *("" if figure is None else str(figure) for figure in figures), row.message]
    return "| " + " | ".join(plain(cell).replace("|", "\\|") for cell in cells) + " |\n"


def _inject(injection: Injection, scratch: Path) -> list[Row]:
    """In a process and a folder of its own: most of the time of one is the start of its program."""
    return list(injection(scratch / injection.__name__))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", help="injections whose name has this in it")
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that nothing but this thread is forked
    logging.disable(logging.WARNING)
    chosen = [each for each in INJECTIONS if options.only is None or options.only in each.__name__]
    rows: list[Row] = []
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(os.cpu_count(), context) as pool:
        for found in pool.map(_inject, chosen, [Path(scratch)] * len(chosen)):
            rows += found
            print("".join(map(_line, found)), end="", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "faults.md").write_text(markdown(rows))
    (options.output / "faults.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    bad = [row for row in rows if row.is_bad]
    for row in bad:
        print(f"WRONG: {row.fault}: exit {row.code}, wanted {row.wanted}; {row.message!r}, wanted {row.says!r}")
    sys.exit(1 if bad or not rows else os.EX_OK)


if __name__ == "__main__":
    main()
