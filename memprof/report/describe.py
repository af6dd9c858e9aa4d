"""What a set of records says in words: names that tell them apart, and the scenario they share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from memprof.record import Record
from memprof.spelling import spell_value

BASELINE = "adamw"
OWN_COUNTING = "memprof"
_OF_THE_MODEL = ("vocab_size", "num_layers")
_ESCAPE_CODE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_NAMED_APART = ("model", "method", "hyperparameters", "given", "shape")
# key, how the caption says it, the value that goes without saying
_FACTS: tuple[tuple[str, str, Any], ...] = (
    ("num_layers", "{} layers", None),
    ("batch_size", "batch {}", None),
    ("accumulation", "accumulation {}", 1),
    ("seq_len", "seq {}", None),
    ("dtype", "{}", None),
    ("kernels", "{} kernels", None),
    ("checkpointing", "layers checkpointed", False),
    ("loss_chunks", "{} loss chunks", 1),
    ("clip_grad_norm", "gradient norm clipped to {}", None),
    ("counting", "formula counted as {}", OWN_COUNTING),
    ("text", "trained on {}", None),
)
_COUNTED = ("{} layers", "{} loss chunks")


def plain(text: object) -> str:
    """One line without control characters: names and reasons may come from anywhere."""
    printable = (char if char.isprintable() else " " for char in _ESCAPE_CODE.sub("", str(text)))
    return " ".join("".join(printable).split())


def spell(value: object) -> str:
    """A hyperparameter's value as the command line writes it; of a text, its name and its hash."""
    if isinstance(value, Mapping):
        return "@".join(plain(value[key]) for key in ("name", "sha256") if key in value)
    return plain(spell_value(value))


def models(records: Iterable[Record]) -> list[str]:
    """The models, in the order in which they appear."""
    return list(dict.fromkeys(plain(record.model) for record in records))


def labels(records: Sequence[Record]) -> list[str]:
    """The method's name, with whatever else tells this record from the others of the same model."""
    apart = _varying(records)
    return [" ".join([plain(record.method), *_settings(record, records), *_facts(record, apart)]) for record in records]


def scenario_line(records: Sequence[Record]) -> str:
    """What all records share: batch, sequence length, precision, kernels, rank. What varies is in the labels."""
    if not records:
        return ""
    scenario, apart = records[0].scenario, _varying(records)
    several = len(models(records)) > 1
    said = []
    for key, phrase, silent in _FACTS:
        shared = key in scenario and key not in apart and not (several and key in _OF_THE_MODEL)
        if shared and scenario[key] is not None and scenario[key] != silent:
            said.append(_phrase(phrase, spell(scenario[key])))
    return ", ".join([*said, *_vocabulary_note(records), *_rank_note(records)])


def setting(record: Record, records: Sequence[Record]) -> str:
    """What varies around the method, as labels say it: `batch_size=4 seq_len=256`."""
    return " ".join(_facts(record, _varying(records)))


def _phrase(phrase: str, value: str) -> str:
    """`1 layer`, `2 layers`."""
    return phrase.format(value).removesuffix("s") if phrase in _COUNTED and value == "1" else phrase.format(value)


def _varying(records: Sequence[Record]) -> list[str]:
    """Scenario keys, method and model aside, that are not the same in all records."""
    keys = dict.fromkeys(key for record in records for key in record.scenario if key not in _NAMED_APART)
    return [key for key in keys if _varies(key, records)]


def _varies(key: str, records: Sequence[Record]) -> bool:
    """Models differ in their layers anyway: such keys count only where one model has two values."""
    pairs = {(r.model if key in _OF_THE_MODEL else "", repr(r.scenario.get(key))) for r in records}
    return max(Counter(group for group, _ in pairs).values(), default=0) > 1


def _settings(record: Record, records: Sequence[Record]) -> list[str]:
    """The hyperparameters that are not at their defaults, and the rank where records of one method differ in it."""
    same = [other for other in records if other.method == record.method]
    mine = _hyperparameters(record)
    given = record.scenario.get("given")
    given = given if isinstance(given, list | tuple) else None  # a file may say anything
    shown = [key for key in mine if _differs(key, same) and (given is None or key == "rank")]
    shown += [key for key in given or () if key in mine and key not in shown]
    return [f"{plain(key)}={spell(mine[key])}" for key in shown]


def _differs(key: str, records: Iterable[Record]) -> bool:
    return len({repr(_hyperparameters(record).get(key)) for record in records}) > 1


def _facts(record: Record, keys: Iterable[str]) -> list[str]:
    return [f"{plain(key)}={spell(record.scenario.get(key))}" for key in keys]


def _hyperparameters(record: Record) -> dict[str, Any]:
    return dict(record.scenario.get("hyperparameters") or {})


def _vocabulary_note(records: Sequence[Record]) -> list[str]:
    """The vocabulary wherever a paper's counting is in use, which may bring its own; labels say it within a model."""
    counted = any(record.scenario.get("counting", OWN_COUNTING) != OWN_COUNTING for record in records)
    if not counted or _varies("vocab_size", records):
        return []
    sizes = {plain(record.model): spell(record.scenario.get("vocab_size")) for record in records}
    common = Counter(sizes.values()).most_common(1)[0][0]
    others = [f"{model} {size}" for model, size in sizes.items() if size != common]
    return [f"vocabulary {common}" + (f" ({', '.join(others)})" if others else "")]


def _rank_note(records: Sequence[Record]) -> list[str]:
    """The rank most methods have, and by name the ones that have another. Who has several shows them in the labels."""
    said = ((plain(r.method), _hyperparameters(r)) for r in records)
    pairs = list(dict.fromkeys((method, _rank(settings["rank"])) for method, settings in said if "rank" in settings))
    times = Counter(method for method, _ in pairs)
    ranks = {method: rank for method, rank in pairs if times[method] == 1}
    if not ranks:
        return []
    common = Counter(ranks.values()).most_common(1)[0][0]
    others = [f"{method} {rank}" for method, rank in ranks.items() if rank != common]
    if len(others) > 4:
        return ["ranks as each method sets them"]
    return [f"rank {common}" + (f" ({', '.join(others)})" if others else "")]


def _rank(rank: object) -> str:
    return "1/4 of the smallest side, at most 256" if rank is None else spell(rank)
