"""Several stored runs as one: a grid that was measured folder by folder, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memprof.command import commands
from memprof.record import Record
from memprof.run_file import Maker, load, read_maker


@dataclass(frozen=True, slots=True)
class Runs:
    """What the runs hold together."""

    records: list[Record]
    environment: Mapping[str, Any]
    """a fact in which they differ is said with each of its values"""
    commands: list[str]


def read_runs(paths: Sequence[Path]) -> Runs:
    """The records in the order of their runs; of a cell that several have, the last one that was measured."""
    read = [(load(path), read_maker(path)) for path in paths]
    found: dict[str, Record] = {}
    for record in (record for records, _ in read for record in records):
        if record.measured or record.id not in found or not found[record.id].measured:
            found[record.id] = record
    made = [command for records, maker in read for command in commands(records, maker.steps, maker.rounds)]
    return Runs(list(found.values()), _together([maker for _, maker in read]), list(dict.fromkeys(made)))


def _together(makers: Sequence[Maker]) -> dict[str, Any]:
    facts = [maker.environment for maker in makers]
    if len(facts) == 1:
        return dict(facts[0])
    keys = dict.fromkeys(key for each in facts for key in each)
    values = {key: list(dict.fromkeys(each[key] for each in facts if key in each)) for key in keys}
    return {key: said[0] if len(said) == 1 else " / ".join(map(str, said)) for key, said in values.items()}
