"""The fault table: every fault injected into the real program, and what became of its records and processes.

`python -m benchmarks.faults -o reports/reliability` takes some minutes and writes faults.md and faults.json. It ends
with 1 if a finished record was lost, a process was left or random input met anything but an answer or an error of ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.injections import INJECTIONS
from benchmarks.row import Row
from memprof.report.describe import plain

HEADER = """# What a fault costs

Made by `make faults` (`python -m benchmarks.faults -o reports/reliability`). Every fault is injected into the real
program: signals by process number, resource limits, a small file system, a program that lies on the pipe. *Before*
counts the records that were finished, *lost* those of them that are gone afterwards, *left* the measuring processes
that still run. After a kill or an interrupt the run was continued with `--resume`, and all its cells were there.

| fault | before | lost | left | exit | what is said |
|---|---:|---:|---:|---:|---|
"""


def markdown(rows: list[Row]) -> str:
    return HEADER + "".join(_line(row) for row in rows)


def _line(row: Row) -> str:
    figures = (row.before, row.lost, row.children, row.code)
    cells = [row.fault, *("" if figure is None else str(figure) for figure in figures), row.message]
    return "| " + " | ".join(plain(cell).replace("|", "\\|") for cell in cells) + " |\n"


def is_bad(row: Row) -> bool:
    wrong = ("NOT CONTINUED", "Traceback")
    other_errors = "other errors" in row.message and ", 0 other errors" not in row.message
    return bool(
        row.lost or row.children or row.code == 99 or other_errors or any(word in row.message for word in wrong)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", help="injections whose name has this in it")
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that nothing but this thread is forked
    logging.disable(logging.WARNING)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for inject in INJECTIONS:
            if options.only is None or options.only in inject.__name__:
                for row in inject(Path(scratch) / inject.__name__):
                    rows.append(row)
                    print(_line(row), end="", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "faults.md").write_text(markdown(rows))
    (options.output / "faults.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    sys.exit(1 if any(map(is_bad, rows)) else os.EX_OK)


if __name__ == "__main__":
    main()
