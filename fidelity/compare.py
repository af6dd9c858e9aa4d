"""One comparison: a method and its oracle, step by step, and how far they came apart."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from torch import Tensor

from fidelity.problem import Trainer, Weights

TWIN = "twin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A method beside an oracle."""

    method: str
    """as the command line writes it: "galore:rank=8,update_gap=3" """
    oracle: str
    """"twin", or the distribution that holds the public implementation: "galore-torch" """
    start: Callable[[], tuple[Weights, Trainer, Trainer]]
    """the weights before the first step, then ours and the oracle, each ready to make step 0, 1, 2 ..."""
    steps: int
    refreshes: int = 0
    """how many of the steps refresh, merge or reset"""
    dtype: str = "fp64"
    limit: float
    """the largest drift at which they agree"""
    note: str = ""
    """what was put around the oracle (a sign rule), or how and why they differ"""
    without_sign_rule: Callable[[], tuple[Weights, Trainer, Trainer]] | None = None
    """the same with the implementation's own signs, whose drift is printed beside"""
    agrees: bool = True
    """False where the two are known to differ, and `note` says why: then the drift must stay above the limit"""

    @property
    def name(self) -> str:
        return f"{self.method}-{self.oracle}"

    @property
    def version(self) -> str | None:
        """The oracle's version; None where it is not installed."""
        if self.oracle == TWIN:
            return ""
        try:
            return version(self.oracle)
        except PackageNotFoundError:
            return None


@dataclass(frozen=True, slots=True)
class Drift:
    """The largest distance between ours and the oracle's weights, relative to how far the oracle's had moved."""

    relative: float
    weight: str
    step: int
    shapes: str

    def agrees(self, comparison: Comparison) -> bool:
        return (self.relative <= comparison.limit) == comparison.agrees


def run(comparison: Comparison, start: Callable[[], tuple[Weights, Trainer, Trainer]] | None = None) -> Drift:
    """Both sides' whole trajectories, from the comparison's own start unless another is given."""
    before, ours, oracle = (start or comparison.start)()
    shapes = ", ".join(dict.fromkeys("x".join(map(str, w.shape)) for w in before.values() if w.ndim == 2))
    worst = Drift(0.0, "", 0, shapes)
    for step in range(comparison.steps):
        mine, theirs = ours(step), oracle(step)
        for name, origin in before.items():
            drift = _relative(mine[name], theirs[name], origin)
            if not drift <= worst.relative:  # a NaN counts as worst
                worst = Drift(drift, name, step, shapes)
    return worst


def _relative(mine: Tensor, theirs: Tensor, start: Tensor) -> float:
    mine, theirs, start = mine.double(), theirs.double(), start.double()
    return float((mine - theirs).norm() / (theirs - start).norm())


def comparisons() -> Iterator[Comparison]:
    """Every comparison of every file in `twins` and `references`."""
    for folder in ("twins", "references"):
        package = importlib.import_module(f"fidelity.{folder}")
        for module in pkgutil.iter_modules(package.__path__):
            yield from importlib.import_module(f"fidelity.{folder}.{module.name}").COMPARISONS
