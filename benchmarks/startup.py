"""Whole processes of the command line, from start to exit: seconds, CPU seconds, peak resident memory, and limits.

`python benchmarks/startup.py` runs each command three times from a folder of its own and prints the median. Imports,
tracing and printing are all counted. CPU seconds tell a slow command from a busy machine. The limits are for 2 CPU
cores without a GPU; `--no-measure` keeps a machine with one comparable.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""getrusage counts bytes on macOS and KiB on Linux"""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line and what it may cost."""

    arguments: str
    seconds: float
    mib: float | None = None


COMMANDS = (
    Command("--help", 0.3),
    Command("models", 0.3),
    Command("compare --no-measure --model 1b --rank 256", 12),
    Command("compare --no-measure --model 7b --rank 1024", 15, 1024),
    Command("compare --no-measure --model llama3.1-405b", 60),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process took."""

    seconds: float
    cpu_seconds: float
    mib: float


def run(command: Command, folder: str) -> Cost:
    """One process: its wall time and its own high-water mark, by wait4, not the largest of all children."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "memprof", *command.arguments.split()],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"memprof {command.arguments} ended with exit code {child.returncode}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * RSS_UNIT / MIB)


def line(command: Command, costs: list[Cost]) -> str:
    seconds = [cost.seconds for cost in costs]
    cpu = statistics.median(cost.cpu_seconds for cost in costs)
    mib = max(cost.mib for cost in costs)
    median = statistics.median(seconds)
    met = median <= command.seconds and (command.mib is None or mib <= command.mib)
    limit = f"{command.seconds:g} s" + (f", {command.mib:g} MiB" if command.mib else "")
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    verdict = "met" if met else "MISSED"
    cost = f"{median:6.2f} s ({spread:>14}) {cpu:6.2f} CPU s {mib:6.0f} MiB"
    return f"{command.arguments:45} {cost}   limit {limit:14} {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs; median of {repeats} (least to most), peak RSS")
    with tempfile.TemporaryDirectory() as folder:
        run(COMMANDS[0], folder)  # the first process of all reads the files in
        for command in COMMANDS:
            print(line(command, [run(command, folder) for _ in range(repeats)]), flush=True)


if __name__ == "__main__":
    main()
