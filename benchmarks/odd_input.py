"""Random and broken input: what the fuzz feeds to everything that memprof reads. Each is made by its Rng alone."""

from __future__ import annotations

import json
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from memprof.api import compare
from memprof.catalogue import METHODS
from memprof.run_file import Maker
from memprof.shapes import BOUNDS
from memprof.store import RunStore

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
        store = RunStore.create(Path(folder) / "run", maker=Maker({"torch": "2.11"}))
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


def a_budget_file(rng: Rng, inside: bool) -> bytes:
    """A memprof.toml, or the same inside a pyproject.toml."""
    whole = TOML.replace("[", "[tool.memprof.").replace(".[", "[tool.memprof.") if inside else TOML
    return scratched(rng, whole.encode())
