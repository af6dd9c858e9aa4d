"""Random and broken input for everything that memprof reads; anything but an answer or a `MemprofError` is a finding.

`python -m benchmarks.fuzz --seconds 60` goes on until the time is over and prints each finding with its seed;
`python -m benchmarks.fuzz --seed 1234` runs that one again, with its traceback. Every case is made by its seed alone.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.odd_input import ODD, Rng, a_budget_file, a_config, a_method, a_run
from memprof.api import resolve_method
from memprof.budget.config import read_budgets
from memprof.diff.read import read_run
from memprof.errors import MemprofError
from memprof.model_config import read_config
from memprof.record import document
from memprof.report import text
from memprof.run_file import RECORDS, load
from memprof.shapes import get_shape
from memprof.units import counted, parse_size


def try_config(rng: Rng, folder: Path) -> None:
    file = folder / "config.json"
    file.write_bytes(a_config(rng))
    read_config(file)


def try_method(rng: Rng, folder: Path) -> None:
    resolve_method(a_method(rng), get_shape("9m"), 2, rng.choice((None, 1, 64, 10**9)))


def try_budgets(rng: Rng, folder: Path) -> None:
    file = folder / rng.choice(("memprof.toml", "pyproject.toml"))
    file.write_bytes(a_budget_file(rng, inside=file.name == "pyproject.toml"))
    read_budgets(file)


def try_stored(rng: Rng, folder: Path) -> None:
    """What can be loaded can be rendered and written again."""
    (folder / RECORDS).write_bytes(a_run(rng))
    records = load(folder)
    if records:
        text.markdown(records)
        text.csv(records)
        document(records, {})


def try_diff(rng: Rng, folder: Path) -> None:
    (folder / RECORDS).write_bytes(a_run(rng))
    read_run(folder if rng.random() < 0.5 else folder / RECORDS)


def try_size(rng: Rng, folder: Path) -> None:
    parse_size(
        str(rng.choice((*ODD, 24, "1.5", "9" * 20))) + rng.choice(("", "GiB", " GB", "B", "giB", "GiBGiB", "\n"))
    )


TARGETS: dict[str, Callable[[Rng, Path], None]] = {
    "config.json": try_config, "method string": try_method, "budget file": try_budgets, "stored run": try_stored,
    "diff": try_diff, "size": try_size,
}  # fmt: skip


@dataclass(slots=True)
class Tally:
    """What became of the cases of one target."""

    answered: int = 0
    refused: int = 0
    findings: dict[int, str] = field(default_factory=dict)
    """seed to error"""


def one(target: str, seed: int) -> bool:
    """Run one case; whether it was answered and not refused."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            TARGETS[target](random.Random(f"{target} {seed}"), Path(folder))
        except MemprofError as error:
            if "\n" in str(error):
                raise AssertionError("an error of more than one line") from error
            return False
    return True


def fuzz(target: str, seeds: range, until: float = float("inf")) -> Tally:
    tally = Tally()
    for seed in seeds:
        if time.monotonic() > until:
            break
        try:
            answered = one(target, seed)
            tally.answered += answered
            tally.refused += not answered
        except Exception as error:
            tally.findings[seed] = f"{type(error).__name__}: {str(error)[:100]}"
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="run this case alone")
    parser.add_argument("--target", choices=TARGETS, action="append")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    targets, found = options.target or list(TARGETS), 0
    for target in targets:
        if options.seed is not None:
            one(target, options.seed)
            continue
        tally = fuzz(target, range(10**9), time.monotonic() + options.seconds / len(targets))
        found += len(tally.findings)
        print(
            f"{target}: {tally.answered} answered, {tally.refused} refused, {counted(len(tally.findings), 'finding')}",
            flush=True,
        )
        kinds = Counter(tally.findings.values())
        for seed, error in tally.findings.items():
            if kinds.pop(error, None):
                print(f"  --target '{target}' --seed {seed}: {error}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
