"""Memory against what was swept, as lines: their names and what tells them apart, in a PNG and on the page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memprof.report.describe import BASELINE
from memprof.report.palette import DASHES
from memprof.report.rows import Row

QUANTITIES = {"rank": "rank", "batch_size": "batch size", "seq_len": "sequence length, tokens"}


@dataclass(frozen=True, slots=True)
class Line:
    """One method, all else alike, by (value, peak in bytes); one point where the quantity does nothing to it.

    Methods that agree to the byte everywhere share a line.
    """

    name: str
    points: tuple[tuple[int, int], ...]

    @property
    def is_swept(self) -> bool:
        """Two values at least; two peaks at one value are two shapes under one name."""
        return len({value for value, _ in self.points}) > 1


@dataclass(frozen=True, slots=True)
class Look:
    """How a sweep's line is told from others, in every panel alike."""

    colour: int | None
    """the method's place among the methods; None for AdamW"""
    style: int
    """the line's place among the method's own: the batch size in a panel of ranks"""

    @property
    def dash(self) -> int:
        """Which pattern: AdamW is dashed from its first line on."""
        return (self.style + (self.colour is None)) % len(DASHES)


def looks(found: Mapping[tuple[str, str], Sequence[Line]]) -> dict[tuple[str, str], Look]:
    """Quantity and a line's name to its look: a colour for each method, whatever is swept."""
    names = list(dict.fromkeys((key, line.name) for (_, key), group in found.items() for line in group))
    methods = list(dict.fromkeys(method for _, name in names if (method := _method(name)) is not None))
    seen: Counter[tuple[str, str | None]] = Counter()
    made = {}
    for key, name in names:
        method = _method(name)
        made[key, name] = Look(None if method is None else methods.index(method), seen[key, method])
        seen[key, method] += 1
    return made


def _method(name: str) -> str | None:
    """A line's name without what may be swept; None where AdamW is among those that share it."""
    own = [" ".join(part for part in each.split() if part.partition("=")[0] not in QUANTITIES)
           for each in name.split(" = ")]  # fmt: skip
    return None if BASELINE in own else " = ".join(dict.fromkeys(own))


def lines(rows: Sequence[Row], key: str) -> list[Line]:
    """The rows by their labels without `key`, each along it."""
    groups: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for row in rows:
        name = " ".join(part for part in row.label.split() if not part.startswith(f"{key}="))
        groups[name].add((_value(row, key) or 0, row.peak or 0))
    alike: dict[tuple[tuple[int, int], ...], list[str]] = defaultdict(list)
    for name, points in groups.items():
        known = [point for point in points if point[0]]
        alike[tuple(sorted(known or points))].append(name)
    return [Line(" = ".join(names), points) for points, names in alike.items()]


def panel_names(found: Mapping[tuple[str, str], Sequence[Line]]) -> list[str]:
    """The model where there are several, and the quantity where a model has several panels."""
    several, twice = len({model for model, _ in found}) > 1, len({key for _, key in found}) > 1
    return [", by ".join(filter(None, [model if several else "", _spoken(key) if several and twice else ""]))
            for model, key in found]  # fmt: skip


def _spoken(key: str) -> str:
    """A quantity without its unit."""
    return QUANTITIES[key].partition(",")[0]


def sweeps(rows: Sequence[Row]) -> dict[tuple[str, str], list[Line]]:
    """Model and quantity to its lines, for every quantity that some method takes several values of."""
    seen = [row for row in rows if row.peak]
    panels = [(model, key) for model in dict.fromkeys(row.model for row in seen) for key in QUANTITIES]
    found = {panel: lines([row for row in seen if row.model == panel[0]], panel[1]) for panel in panels}
    return {panel: group for panel, group in found.items() if any(line.is_swept for line in group)}


def _value(row: Row, key: str) -> int | None:
    """What a row has of a quantity; None for a rank where the method has none."""
    settings = row.record.scenario.get("hyperparameters") or {}
    value = settings.get("rank") if key == "rank" else row.record.scenario.get(key)
    return value if isinstance(value, int) and value > 0 else None
