"""RePiSSA, section 4.1 of "Approximations may be all you need": PiSSA merged, then decomposed again."""

from __future__ import annotations

from fidelity.compare import TWIN, Comparison
from fidelity.twins.pissa import principal
from fidelity.twins.relora import SCALE, SETTINGS, beside
from memprof.methods.repissa import RePiSSA

METHOD = RePiSSA(**SETTINGS)

COMPARISONS = (
    Comparison(
        method="repissa:rank=8,alpha=16,reset_every=3,prune=1",
        oracle=TWIN,
        start=lambda: beside(METHOD, lambda w, _: principal(w, 8, SCALE)),
        steps=8,
        refreshes=2,
        limit=1e-9,
    ),
)
