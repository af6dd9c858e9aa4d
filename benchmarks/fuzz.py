"""Random and broken input for everything that memprof reads; anything but an answer or a `MemprofError` is a finding.

`python -m benchmarks.fuzz --seconds 60` goes on until the time is over and prints each finding with its seed;
`python -m benchmarks.fuzz --seed 1234` runs that one again, with its traceback. Every case is made by its seed alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from memprof.api import compare, resolve_method
from memprof.budget.config import read_budgets
from memprof.catalogue import METHODS
from memprof.diff.read import read_run
from memprof.errors import MemprofError
from memprof.model_config import read_config
from memprof.record import document
from memprof.report import text
from memprof.shapes import BOUNDS, get_shape
from memprof.store import RECORDS, RunStore, load
from memprof.units import parse_size

Rng = random.Random
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", " ",
    "x" * 5000, "\x00", "\x1b[31m", "a\nb", "\u202e", "__import__('os')", "{{7*7}}", "<b>", "|", "=", ":", ",", "/",
    "none", "nan", [], {}, [[]], [1, [2, [3]]], {"a": {"b": {"c": {"d": {}}}}},
)  # fmt: skip
WORDS = (
    *METHODS,
    "rank",
    "lr",
    "betas",
    "update_gap",
    "scale",
    "weight_decay",
    "eps",
    "128",
    "0.9/0.999",
    "1e-3",
    "none",
)
TOML = '[defaults]\nmodel = "9m"\n[[budget]]\nname = "one"\nmethod = "adamw"\npeak = "1 GiB"\nmax_increase = "1%"\n'
CONFIG = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "rms_norm_eps": 1e-6,
          "rope_theta": 1e4, "rope_scaling": None, "tie_word_embeddings": False, "head_dim": 16}  # fmt: skip


def tangled(rng: Rng, value: Any) -> Any:
    """The value with some of its parts put wrong, at any depth."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        kept = {name: part for name, part in value.items() if name != key or rng.random() < 0.9}
        return kept | ({key: tangled(rng, value[key])} if key in kept else {str(rng.choice(ODD)): rng.choice(ODD)})
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], tangled(rng, value[place]), *value[place + 1 :]]
    return rng.choice(ODD)


def scratched(rng: Rng, data: bytes) -> bytes:
    """The bytes cut short, or with some of them replaced, doubled or taken out."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((0, 1, 2, 50)))
        new = rng.choice((b"", rng.randbytes(rng.randint(1, 8)), data[start:end] * 2, b"[" * 3000, b"9" * 400))
        data = data[:start] if rng.random() < 0.2 else data[:start] + new + data[end:]
    return data


@cache
def stored() -> bytes:
    """A run as it lies on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore.create(Path(folder) / "run", environment={"torch": "2.11"})
        for record in compare(["9m"], ["adamw", "galore"], num_layers=1, vocab_size=32, batch_size=1, seq_len=8):
            store.append(record)
        return store.records.read_bytes()


def a_run(rng: Rng) -> bytes:
    if rng.random() < 0.3:
        return scratched(rng, stored())
    lines = [json.loads(line) for line in stored().splitlines()]
    place = rng.randrange(len(lines))
    lines[place] = tangled(rng, lines[place])
    return b"\n".join(json.dumps(line).encode() for line in lines)


def a_config(rng: Rng) -> bytes:
    fields = CONFIG | {name: rng.randint(-1, bound + 1) for name, bound in BOUNDS.items() if rng.random() < 0.2}
    return (
        scratched(rng, json.dumps(fields).encode()) if rng.random() < 0.3 else json.dumps(tangled(rng, fields)).encode()
    )


def a_method(rng: Rng) -> str:
    words = [rng.choice((*WORDS, str(rng.choice(ODD)))) for _ in range(rng.randint(1, 8))]
    joints = [rng.choice((":", "=", ",", "/", "", "::")) for _ in words]
    regular = f"{rng.choice(list(METHODS))}:{rng.choice(WORDS)}={rng.choice((*WORDS, *map(str, ODD)))}"
    return regular if rng.random() < 0.5 else "".join(word + joint for word, joint in zip(words, joints, strict=True))


def try_config(rng: Rng, folder: Path) -> None:
    file = folder / "config.json"
    file.write_bytes(a_config(rng))
    read_config(file)


def try_method(rng: Rng, folder: Path) -> None:
    resolve_method(a_method(rng), get_shape("9m"), 2, rng.choice((None, 1, 64, 10**9)))


def try_budgets(rng: Rng, folder: Path) -> None:
    file = folder / rng.choice(("memprof.toml", "pyproject.toml"))
    content = (
        TOML if file.name == "memprof.toml" else TOML.replace("[", "[tool.memprof.").replace(".[", "[tool.memprof.")
    )
    file.write_bytes(scratched(rng, content.encode()))
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
            f"{target}: {tally.answered} answered, {tally.refused} refused, {len(tally.findings)} findings", flush=True
        )
        kinds = Counter(tally.findings.values())
        for seed, error in tally.findings.items():
            if kinds.pop(error, None):
                print(f"  --target '{target}' --seed {seed}: {error}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
