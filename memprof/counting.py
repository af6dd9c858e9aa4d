"""What counts as memory: memprof's own way, and those of the papers, as options of one and the same formula.

memprof counts every byte that the implementation keeps and asks for the worst instant. Papers sum categories, leave
things out, and seldom say which. Each convention here is what the printed figures of a paper turn out to obey; the
tables in memprof/papers/ hold them against every printed cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from memprof.errors import MemprofError, shown
from memprof.method import BASIS, BLOCK_MEANS, STEP
from memprof.shapes import LlamaShape

PARTS = {
    BASIS: "the projector between a gradient and its subspace",
    BLOCK_MEANS: "second moments that a whole block shares",
    STEP: "step counts",
}
"""the parts of an optimizer's state that papers count in different ways, and what they are"""
PARAMS = ("stored", "trainable", "model and trainable")
ACTIVATIONS = ("kept", "one sequence", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """One convention. The defaults are memprof's."""

    vocab_size: int | None = None
    """the vocabulary of the paper's models, where it is not that of the named shapes"""
    params: str = "stored"
    """stored: all; trainable: what has a gradient; model and trainable: where weights are frozen, those of the plain
    model and all that has a gradient, so that trained embeddings, head and norms count twice"""
    parts: Mapping[str, float] = field(default_factory=dict)
    """the share at which a part of the optimizer state is counted: 0 leaves it out, 0.5 counts bf16 at 8 bits"""
    activation: str = "kept"
    """kept: what this model saves for backward; one sequence: L s h (32 + 5 a s / h) bytes for one sequence of s
    tokens, L layers, hidden size h, a heads (Korthikanti et al. 2022, arXiv:2205.05198, without its dropout masks)"""
    largest_tensor: bool = False
    """the extra memory is that of the largest weight, and not what the worst instant has"""

    def __post_init__(self) -> None:
        for name, allowed in (("params", PARAMS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in allowed:
                raise MemprofError(
                    f"counting: {name} {getattr(self, name)!r} is unknown; choose from {', '.join(allowed)}"
                )
        for part, share in self.parts.items():
            if part not in PARTS:
                raise MemprofError(f"counting: part {shown(part)!r} is unknown; choose from {', '.join(PARTS)}")
            if not 0 <= share <= 1:
                raise MemprofError(f"counting: {part} at {share} is out of range; a share lies between 0 and 1")

    @property
    def is_a_sum(self) -> bool:
        """Whether this convention sums categories, and so knows no instants."""
        return self != MEMPROF

    def left_out(self, parts: Mapping[str, int]) -> int:
        """Bytes of the parts of an optimizer state that are not counted."""
        return sum(nbytes - round(nbytes * self.parts.get(part, 1)) for part, nbytes in parts.items())

    def param(self, stored: int, plain: int, trainable: int) -> int:
        """Bytes of parameters: of all that are stored, of the plain model's, of those that have a gradient."""
        freezes = trainable < stored
        return {
            "stored": stored,
            "trainable": trainable,
            "model and trainable": plain + trainable if freezes else stored,
        }[self.params]


def sequence_activation(shape: LlamaShape, seq_len: int) -> int:
    """Bytes that the closed form of `one sequence` gives: 2-byte activations, attention's scores not recomputed."""
    per_layer = seq_len * (32 * shape.hidden_size + 5 * shape.num_attention_heads * seq_len)
    return shape.num_hidden_layers * per_layer


MEMPROF = Counting()
APPROXIMATIONS = Counting(
    vocab_size=32_100, parts={BASIS: 0.0, STEP: 0.0}, activation="one sequence", largest_tensor=True
)
GALORE = Counting(params="model and trainable", parts={STEP: 0.0}, activation="none")
GALORE_MINI = Counting(params="model and trainable", parts={BLOCK_MEANS: 0.0, STEP: 0.0}, activation="none")
COUNTINGS: dict[str, Counting] = {
    "memprof": MEMPROF,
    "paper:approximations": APPROXIMATIONS,
    "paper:galore": GALORE,
    "paper:galore-mini": GALORE_MINI,
}


def get_counting(name: str) -> Counting:
    """A convention by its name."""
    if not isinstance(name, str) or name not in COUNTINGS:
        raise MemprofError(f"unknown counting {shown(repr(name))}; choose from {', '.join(COUNTINGS)}")
    return COUNTINGS[name]
