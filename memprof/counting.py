"""What counts as memory: memprof's own way, and those of the papers, as options of one and the same formula.

memprof counts every byte that the implementation keeps and asks for the worst instant. Papers sum categories, leave
things out, and seldom say which. Each convention here is what the printed figures of a paper turn out to obey; the
tables in memprof/papers/ hold them against every printed cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from memprof.errors import MemprofError, shown
from memprof.method import BASIS, BLOCK_MEANS, STEP, Footprint, Weight
from memprof.shapes import LlamaShape

PARTS = {
    BASIS: "the projector between a gradient and its subspace",
    BLOCK_MEANS: "second moments that a whole block shares",
    STEP: "step counts",
}
"""the parts of an optimizer's state that papers count in different ways, and what they are"""
PARAMS = ("stored", "trainable", "model and trainable")
ACTIVATIONS = ("kept", "one sequence", "none")
GRADS = ("kept", "none")
ZOO_VOCABULARY = 32_000
"""of the named shapes that stand for the papers' models"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """One convention. The defaults are memprof's."""

    vocab_size: int | None = None
    """the vocabulary of the paper's models, where it is not that of the named shapes"""
    params: str = "stored"
    """stored: all; trainable: all but what is frozen; model and trainable: where the plain weights are kept, frozen,
    beside adapters, the plain model and all that is trained, so that trained embeddings, head and norms count twice"""
    grads: str = "kept"
    """kept: those alive when backward returns; none: left out"""
    parts: Mapping[str, float] = field(default_factory=dict)
    """the share at which a part of the optimizer state is counted: 0 leaves it out, 0.5 counts bf16 at 8 bits"""
    activation: str = "kept"
    """kept: what this model saves for backward; one sequence: L s h (32 + 5 a s / h) bytes for one sequence of s
    tokens, L layers, hidden size h, a heads (Korthikanti et al. 2022, arXiv:2205.05198, without its dropout masks)"""
    largest_tensor: bool = False
    """the extra memory is that of the largest weight, and not what the worst instant has"""
    sums: bool = False
    """categories are added up, and there are no instants: the sum stands where a peak would"""

    def __post_init__(self) -> None:
        for name, allowed in (("params", PARAMS), ("grads", GRADS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in allowed:
                raise MemprofError(
                    f"counting: {name} {getattr(self, name)!r} is unknown; choose from {', '.join(allowed)}"
                )
        plain = (self.params, self.grads, self.activation, self.largest_tensor) == ("stored", "kept", "kept", False)
        if not (self.sums or plain):
            raise MemprofError("counting: only a sum leaves categories out or counts them otherwise; add sums = true")
        for part, share in self.parts.items():
            if part not in PARTS:
                raise MemprofError(f"counting: part {shown(part)!r} is unknown; choose from {', '.join(PARTS)}")
            if not 0 <= share <= 1:
                raise MemprofError(f"counting: {part} at {share} is out of range; a share lies between 0 and 1")

    def applied_to(self, shape: LlamaShape) -> LlamaShape:
        """The shape with this paper's vocabulary, where it has that of the papers' zoo and not one of its own."""
        if self.vocab_size is None or shape.vocab_size != ZOO_VOCABULARY:
            return shape
        return replace(shape, vocab_size=self.vocab_size)

    def state(self, cost: Footprint) -> int:
        """Bytes of a weight's optimizer state as they are counted."""
        return cost.optimizer_state - sum(n - round(n * self.parts.get(part, 1)) for part, n in cost.parts.items())

    def param(self, costs: Sequence[tuple[Weight, Footprint]]) -> int:
        """Bytes of parameters of weights that cost so much."""
        stored, frozen = sum(cost.param for _, cost in costs), sum(cost.frozen for _, cost in costs)
        if self.params == "trainable":
            return stored - frozen
        twice = self.params == "model and trainable" and any(cost.frozen >= weight.nbytes for weight, cost in costs)
        return stored + (sum(weight.nbytes for weight, cost in costs if not cost.frozen) if twice else 0)


def sequence_activation(shape: LlamaShape, seq_len: int, itemsize: int) -> int:
    """Bytes that the closed form of `one sequence` gives for 2-byte activations, attention's scores not recomputed;
    twice as many in fp32."""
    per_layer = seq_len * (32 * shape.hidden_size + 5 * shape.num_attention_heads * seq_len)
    return shape.num_hidden_layers * per_layer * itemsize // 2


MEMPROF = Counting()
APPROXIMATIONS = Counting(
    sums=True,
    vocab_size=32_100,
    parts={BASIS: 0.0, STEP: 0.0},
    activation="one sequence",
    largest_tensor=True,
)
GALORE = Counting(sums=True, params="model and trainable", grads="none", parts={STEP: 0.0}, activation="none")
GALORE_MINI = Counting(
    sums=True,
    params="model and trainable",
    grads="none",
    parts={BLOCK_MEANS: 0.0, STEP: 0.0},
    activation="none",
)
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
