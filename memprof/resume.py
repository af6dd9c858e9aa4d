"""Whether a run on the disk may go on: nothing in it may come to stand beside what does not compare with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memprof.diff.apart import nearest, why_none_joined
from memprof.errors import MemprofError, shown
from memprof.record import Record
from memprof.run_file import Maker

RESULTS = ("ok", "oom")
"""statuses that need no second run: out of memory is a result too; a crash, a timeout or an interrupt is none"""
OF_THE_DEVICE = ("steps", "rounds", "device", "gpu")
"""facts that every result depends on, an out-of-memory one too"""
WAYS = "take another folder, or use --force to start over"


def check_maker(path: Path, stored: Sequence[Record], then: Maker, now: Maker) -> None:
    """Refuse to put results of another device, length or, where any is measured, version beside those of the run."""
    kept = [record for record in stored if record.status in RESULTS]
    measured = any(record.measured for record in kept)
    before, here = then.facts(), now.facts()
    differing = [key for key in dict.fromkeys([*before, *here]) if before.get(key) != here.get(key)]
    weighty = [key for key in differing if kept and (measured or key in OF_THE_DEVICE)]
    if weighty:
        said = ", ".join(f"{shown(key)} ({_fact(before, key)} there, {_fact(here, key)} here)" for key in weighty)
        raise MemprofError(f"the run {path} was made with other facts: {said}; go on as it was made, {WAYS}")


def check_scenarios(path: Path, stored: Sequence[Record], planned: Sequence[Record]) -> None:
    """Refuse what disagrees: a stored cell that is not planned while a new one of its method and model is.

    More cells than before are fine, and so are fewer; and one at least must be in both.
    """
    ours, theirs = {record.id for record in stored}, {record.id for record in planned}
    if not ours or not theirs:
        return
    if not ours & theirs:
        whose = "its only cell is not" if len(ours) == 1 else f"none of its {len(ours)} cells is"
        why = f"{whose} asked for here; {why_none_joined(stored, planned)}"
        raise MemprofError(f"the run {path} is of other scenarios: {why}; repeat its options, {WAYS}")
    lost = [record for record in stored if record.id not in theirs]
    apart = nearest(lost, [record for record in planned if record.id not in ours])
    if apart:
        place, where = next(iter(apart.items()))
        (cell,) = (record for record in lost if record.id == place)
        name = f"{shown(cell.method)} of {shown(cell.model)}"
        more = f", and so on for {len(apart) - 1} more" if len(apart) > 1 else ""
        raise MemprofError(
            f"the run {path} is of other scenarios: {name} differs in {where or 'its id'}{more}; "
            f"ask for its cells and for more of them, {WAYS}"
        )


def _fact(facts: Mapping[str, Any], key: str) -> str:
    return "not said" if facts.get(key) is None else shown(str(facts[key]))
