"""ReDoRA, section 4.1 of "Approximations may be all you need": DoRA merged, then decomposed again."""

from __future__ import annotations

from fidelity.compare import TWIN, Comparison
from fidelity.twins.dora import decomposed, dense
from fidelity.twins.relora import SETTINGS, beside
from memprof.methods.redora import ReDoRA

METHOD = ReDoRA(**SETTINGS)

COMPARISONS = (
    Comparison(
        method="redora:rank=8,alpha=16,reset_every=3,prune=1",
        oracle=TWIN,
        start=lambda: beside(METHOD, decomposed, dense),
        steps=8,
        refreshes=2,
        limit=1e-9,
    ),
)
