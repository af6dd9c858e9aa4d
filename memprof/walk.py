"""Bytes alive while a step goes on, written down point by point: what closed forms of a step are made of.

`Walk` is the step as a whole, `LinearWalk` the place of one linear layer in its backward: where a method puts a layer
of its own there, it tells with it how autograd goes back through that layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from memprof.timeline import ACTIVATION, BACKWARD, EXTRA, GRAD


@dataclass(frozen=True, slots=True)
class Instant:
    """A point of the step and what is alive there."""

    name: str
    phase: str
    by_category: dict[str, int]

    @property
    def nbytes(self) -> int:
        return sum(self.by_category.values())


@dataclass(slots=True)
class Walk:
    """Bytes alive while a step goes on, and the worst instant so far."""

    alive: dict[str, int]
    accumulating: bool = False
    """whether gradients are there already, so that each new one is added and dropped"""
    updating: bool = False
    """whether each weight is updated inside backward, as soon as its gradient is there, which goes then"""
    refreshing: bool = False
    """whether this is a step with periodic work"""
    phase: str = BACKWARD
    saved_as: str = ACTIVATION
    """the category of what layers saved: extra where backward made it, running a layer once more"""
    worst: Instant = field(default_factory=lambda: Instant("", "", {}))
    _to_update: tuple[str, int, int] | None = None
    """of a weight that is updated inside backward: its name, the bytes of its gradient, and the update's scratch"""

    def at(self, name: str, *, grad: int = 0, extra: int = 0, activation: int = 0, kept: int = 0) -> None:
        """At a point called `name`, so many bytes of each kind come (positive) or go (negative).

        `kept` is activation which forward left, however `activation`, what layers saved, is booked.

        A weight whose gradient is there is updated once the operation that made it has let go of what it held.
        """
        self.alive[GRAD] += grad
        self.alive[EXTRA] += extra
        self.alive[self.saved_as] += activation
        self.alive[ACTIVATION] += kept
        self._note(name)
        if self._to_update and max(grad, extra, activation, kept) <= 0:
            (weight, size, scratch), self._to_update = self._to_update, None
            self.passing(f"{weight} update", scratch)
            self.at(f"{weight} gradient freed", extra=-size)

    def _note(self, name: str) -> None:
        if sum(self.alive.values()) > self.worst.nbytes:
            self.worst = Instant(name, self.phase, dict(self.alive))

    def passing(self, name: str, extra: int, grad: int = 0) -> None:
        """Scratch that is gone right after, as is a gradient that comes again with its operation's others."""
        self.at(name, grad=grad, extra=extra)
        self.at(name, grad=-grad, extra=-extra)

    def scratch(self, name: str, extra: int, weight: int) -> None:
        """Scratch beside a weight's new gradient, which comes again with its operation's others."""
        if self.accumulating or self.updating:
            self.passing(name, extra + weight)
        else:
            self.passing(name, extra, weight)

    def gradients(self, name: str, weight: int, grad_input: int, update: int = 0) -> None:
        """An operation's gradients, of its weight and of its input, alive together.

        `update` is the scratch of the weight's update, where that happens inside backward.
        """
        if self.updating:
            self.at(f"{name} gradient", extra=weight + grad_input)
            self._to_update = name, weight, update
        elif self.accumulating:
            self.at(f"{name} gradient, to be added to the one there", extra=weight + grad_input)
            self.at(f"{name} gradient added", extra=-weight)
        else:
            self.at(f"{name} gradient", grad=weight, extra=grad_input)

    def add(self, name: str, size: int) -> None:
        """Two gradients of one tensor are added out of place."""
        self.at(f"{name} gradients added", extra=size)
        self.at(f"{name} addends freed", extra=-2 * size)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearWalk:
    """The backward of one linear layer: where it stands, what waits there, and what must be gone afterwards.

    A layer's `Footprint.backward` brings the gradient of its input (`grad_input` bytes of extra), lets go of its
    output's (`grad_output`), of what it saved (`saved`) and of its input (`frees`), and calls `join` after the
    gradient of its input is complete. Its parameters' gradients come by `walk.gradients`.
    """

    walk: Walk
    name: str
    tokens: int
    saved: int
    """bytes that the layer saved beyond the plain one"""
    grad: int
    """bytes of the gradients of what it trains, all together"""
    update: int
    """scratch of the weight's update, where that happens inside backward"""
    grad_output: int
    """bytes of the output's gradient; 0 where the residual stream holds it"""
    grad_input: int
    """bytes of the input's gradient"""
    frees: int
    """bytes of the input, at the last of the layers that saved it; else 0"""
    joins: bool
    """whether another layer has given that input a gradient already"""

    def at(self, point: str, *, grad: int = 0, extra: int = 0, activation: int = 0) -> None:
        self.walk.at(f"{self.name} {point}", grad=grad, extra=extra, activation=activation)

    def join(self, point: str = "") -> None:
        """Add the gradient of the input to the one that another layer gave it."""
        if self.joins:
            self.walk.add(f"{self.name} {point}".rstrip(), self.grad_input)

    def plain(self) -> None:
        """A plain layer: gradients of weight and input out of the output's, which goes then, as does the input."""
        self.walk.gradients(self.name, self.grad, self.grad_input, self.update)
        self.at("freed", extra=-self.grad_output, activation=-self.frees - self.saved)
        self.join()


@runtime_checkable
class Forward(Protocol):
    """The backward of a layer whose forward takes scratch: it counts where checkpointing runs the layer once more."""

    def forward(self, layer: LinearWalk) -> None:
        """Pass through the layer's forward; `layer.grad_output` bytes is also what its output takes."""
