"""A watched step taken apart: who holds what when each phase ends, and who holds what at the peak."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from memprof.explain.places import PlacedLedger
from memprof.explanation import Holding, Moment, Part
from memprof.timeline import ACTIVATION, GRAD, OPTIMIZER_STATE, OUTSIDE, PARAM, Peak

TENSORS = 4
"""the depth from which on tensors have lines of their own; modules of a LLaMA are at most three deep"""
NAMED = 3
"""how many of the tensors or operations of a group are named"""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One booked step of one scenario."""

    ledger: PlacedLedger
    peak: Peak

    @classmethod
    def of(cls, ledger: PlacedLedger) -> Self:
        return cls(ledger, ledger.peak_instant)

    def moment(self) -> Moment:
        """The worst instant, with what was allocated to reach it."""
        peak, ledger = self.peak, self.ledger
        event = peak.end - ledger.start
        block = ledger.timeline.events[peak.end - 1] if event else None
        return Moment(
            nbytes=peak.nbytes,
            phase=peak.phase,
            place="" if block is None else ledger.place[block],
            maker="" if block is None else ledger.timeline.maker[block],
            event=event,
            by_category=peak.by_category,
            doing="" if block is None else ledger.doing.get(block, ""),
        )

    def holdings(self, depth: int) -> tuple[Holding, ...]:
        """What is alive at the worst instant, by category and by name up to `depth`."""
        grouped: dict[tuple[str, str], list[int]] = defaultdict(list)
        for block in self._alive(self.peak.end):
            name = folded(self._path(block, depth))
            grouped[self.ledger.timeline.category[block], name].append(block)
        found = [self._holding(category, name, blocks) for (category, name), blocks in grouped.items()]
        return tuple(sorted(found, key=lambda each: -each.nbytes))

    def parts(self, depth: int) -> tuple[Part, ...]:
        """The model by name up to `depth`, each category when its phase ends, as the trace's figures are read."""
        sizes: dict[str, Counter[str]] = defaultdict(Counter)
        modules: dict[str, set[str]] = defaultdict(set)
        for category, blocks in self._ends().items():
            for block in blocks:
                path = self._path(block, depth)
                sizes[folded(path)][category] += self.ledger.timeline.nbytes[block]
                modules[folded(path)].add(path)
        found = [
            Part(
                name=name,
                modules=len(modules[name]),
                param=size[PARAM],
                grad=size[GRAD],
                optimizer_state=size[OPTIMIZER_STATE],
                activation=size[ACTIVATION],
            )
            for name, size in sizes.items()
        ]
        return tuple(sorted(found, key=lambda part: -part.total))

    def state(self) -> dict[str, int]:
        """The optimizer's tensors by name, largest first."""
        found: Counter[str] = Counter()
        for block in self._of(OPTIMIZER_STATE, self._alive(None)):
            found[self.ledger.tensor[block]] += self.ledger.timeline.nbytes[block]
        return dict(found.most_common())

    def _ends(self) -> dict[str, list[int]]:
        """The blocks that make up each category's figure."""
        after = self._alive(self.ledger.end)
        forwards = [end for _, end in self.ledger.timeline.forwards() if end <= (self.ledger.end or 0)]
        saved = self._alive(forwards[-1]) if forwards else []
        return {
            PARAM: self._of(PARAM, after),
            GRAD: self.ledger.grad_blocks,
            OPTIMIZER_STATE: self._of(OPTIMIZER_STATE, after),
            ACTIVATION: self._of(ACTIVATION, saved),
        }

    def _alive(self, end: int | None) -> list[int]:
        category = self.ledger.timeline.category
        return [block for block in self.ledger.timeline.alive(end) if category[block] != OUTSIDE]

    def _of(self, category: str, blocks: Iterable[int]) -> list[int]:
        return [block for block in blocks if self.ledger.timeline.category[block] == category]

    def _path(self, block: int, depth: int) -> str:
        """The module that a block belongs to, or from `TENSORS` on its weight and the optimizer's own tensor."""
        place, tensor = self.ledger.place[block], self.ledger.tensor.get(block)
        if depth >= TENSORS:
            return cut(f"{place}.{tensor}" if tensor else place, depth)
        return cut(self.ledger.module_of.get(place, place), depth)

    def _holding(self, category: str, name: str, blocks: list[int]) -> Holding:
        whats: Counter[str] = Counter()
        for block in blocks:
            whats[self._what(category, block)] += self.ledger.timeline.nbytes[block]
        said = [what for what, _ in whats.most_common(NAMED) if what]
        more = ["..."] if len(whats) > NAMED else []
        nbytes = sum(whats.values())
        return Holding(category=category, name=name, what=", ".join(said + more), tensors=len(blocks), nbytes=nbytes)

    def _what(self, category: str, block: int) -> str:
        if category in (PARAM, GRAD):
            return ""
        return self.ledger.tensor.get(block) or self.ledger.timeline.maker[block].removeprefix("aten::")


def folded(name: str) -> str:
    """Alike layers under one name: `layers.3.mlp` is `layers.*.mlp`."""
    return ".".join("*" if piece.isdigit() else piece for piece in name.split("."))


def cut(name: str, depth: int) -> str:
    """The first `depth` pieces of a name; a number belongs to the piece before it."""
    pieces = name.removeprefix("model.").split(".")
    starts = [place for place, piece in enumerate(pieces) if not piece.isdigit()]
    return ".".join(pieces[: starts[depth]] if depth < len(starts) else pieces)
