"""The colours of every chart, on paper, on a screen and in the page, and what a category is called beside them."""

from __future__ import annotations

from memprof.timeline import ACTIVATION, EXTRA, GRAD, OPTIMIZER_STATE, PARAM

# Each colour is lighter than the one before, so that grey prints and colour-blind readers keep the order.
PALETTE = {PARAM: "#1f2f5f", GRAD: "#a0415a", OPTIMIZER_STATE: "#3f93c6", ACTIVATION: "#efae3c", EXTRA: "#d3d6dc"}
NAMES = {
    PARAM: "parameters", GRAD: "gradients", OPTIMIZER_STATE: "optimizer state", ACTIVATION: "activations",
    EXTRA: "extra (temporaries)",
}  # fmt: skip
# The same hues where the page is dark, in the same order of lightness and none lost in the ground.
DARK = {PARAM: "#4058b0", GRAD: "#c25f7b", OPTIMIZER_STATE: "#57abe0", ACTIVATION: "#f2b950", EXTRA: "#eceef1"}

# Okabe and Ito's colours, which colour-blind readers tell apart; with a marker of its own each line reads in grey too.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5c5c5c", "#8a6d00")
MARKERS = "os^vPX*<"
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 2), (1, 1.5), (6, 2, 1, 2))
"""in widths of the line: of a method's first line, second, ...; AdamW, in ink with a diamond, begins with the second"""
