"""What LoQT's layer takes in passing: instant by instant of its backward, and the worst instant of its update.

Letters are those of loqt.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from memprof.method import Weight
from memprof.methods.parts import nf4
from memprof.methods.parts.projection import refresh_bytes, wide_itemsize
from memprof.walk import LinearWalk

INT32, BOOL = 4, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisedBackward:
    """How autograd goes back through `QuantisedProduct`; sizes in bytes."""

    weight: int
    """W, dequantised"""
    projection: int
    stored: int
    """W, quantised"""
    hidden: int
    """h = A x of a token"""
    from_weight: int
    """scratch of dequantising W"""
    from_projection: int
    to_weight: int
    """scratch of quantising W"""

    def __call__(self, layer: LinearWalk) -> None:
        hidden, name, walk = layer.tokens * self.hidden, layer.name, layer.walk
        pending = layer.grad if walk.accumulating else 0
        walk.passing(f"{name} W dequantised", self.weight + self.from_weight)
        if walk.refreshing:
            hidden = 0
            walk.passing(f"{name} projection dequantised", self.weight + self.projection + self.from_projection)
            walk.passing(f"{name} merged W quantised", self.weight + self.stored + self.to_weight)
        layer.at("W", extra=self.weight)
        layer.at("gradient of x", extra=layer.grad_input)
        layer.at("W freed", extra=-self.weight)
        if not walk.refreshing:
            walk.passing(f"{name} projection dequantised", self.projection + self.from_projection)
            walk.passing(f"{name} product with the projection", self.projection + hidden)
        layer.at("gradient", grad=layer.grad - pending, extra=hidden + pending)
        layer.at("freed", extra=-hidden - layer.grad_output, activation=-layer.frees)
        layer.join()
        layer.at("gradients added", extra=-pending)

    def forward(self, layer: LinearWalk) -> None:
        name, output, walk = layer.name, layer.grad_output, layer.walk
        walk.passing(f"{name} W dequantised", self.weight + self.from_weight)
        if walk.refreshing:
            walk.passing(f"{name} projection dequantised", self.weight + self.projection + self.from_projection)
            walk.passing(f"{name} merged W quantised", self.weight + self.stored + self.to_weight)
        walk.passing(name, self.weight + output)
        if not walk.refreshing:
            hidden = layer.tokens * self.hidden
            walk.passing(f"{name} projection", output + self.projection + max(self.from_projection, hidden))


def update_bytes(weight: Weight, rank: int, iterations: int) -> int:
    """The worst instant of `LoQTLinear.update`; e is the itemsize, w = 4 bytes (8 for fp64), f = e R L the factor,
    P = e R S the projection, V = e M N:

    what finding the subspace takes (see `galore`)
    top vectors w R S + finite () bool + V + scratch of dequantising V, or + V + P + scratch of dequantising P
    top vectors w R S + finite () bool + V + P + their choice w R S
    V + P + scratch of quantising or dequantising P
    V + P + P fp32 + Gram w R^2 + its factor w R^2 + info () int32; without the Gram: + P^+ w R S (+ P^+ in bf16, fp16)
    2 V + P + P^+ (R, S) e + least () w + q(V) and either scratch of quantising V, or
    f + error () w + better () bool + the longest of codes, magnitudes and factor once more
    """
    (rows, columns), e, w = weight.shape, weight.itemsize, wide_itemsize(weight.itemsize)
    short, long = min(rows, columns), max(rows, columns)
    low, full, numel = rank * short, weight.nbytes, weight.numel
    projection, factor, top = e * low, e * rank * long, w * low + 1
    narrow = e < w
    held = full + projection
    inverse = held + narrow * w * low + w * rank**2
    instants = [
        refresh_bytes(weight, rank),
        top + full + nf4.dequantise_scratch(numel),
        top + held + max(nf4.dequantise_scratch(low), w * low),
        held + nf4.quantise_scratch(low),
    ]
    if not iterations:
        return max(*instants, held + nf4.quantise_scratch(numel))
    best = factor + w + BOOL + max(nf4.blocks_of(numel) * nf4.BLOCK // 2, factor)
    instants += [
        inverse + w * rank**2 + INT32,
        inverse + w * low + narrow * projection,
        held + projection + full + w + nf4.nbytes(numel) + max(nf4.quantise_scratch(numel), best),
    ]
    return max(instants)
