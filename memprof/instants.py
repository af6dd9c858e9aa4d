"""The worst instant of a step, in closed form: bytes alive at each point of loss, backward and update.

A step's memory rises and falls at known points. This module writes them down in the order in which autograd runs
them, one line an operation: what it allocates, then what it lets go. Only shapes enter, no tensor is made.
Letters as in llama.py: N tokens, C hidden size, A and K widths of query and key-value heads, F MLP size,
V vocabulary; e bytes an element. A trailing `_bytes` is left out of local names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memprof.method import Footprint, Role
from memprof.scenario import Scenario
from memprof.sizes import FP32, Sizes
from memprof.timeline import ACTIVATION, BACKWARD, EXTRA, FORWARD, GRAD, OPTIMIZER_STATE, PARAM
from memprof.walk import Forward, LinearWalk, Walk

LayerCosts = dict[Role, Footprint]


def activation_bytes(scenario: Scenario, costs: ModelCosts, first: bool = False) -> int:
    """Bytes saved at the end of forward: all layers, the head, the rotary tables, what the loop holds, adapters.

    Of a checkpointed layer its input alone. Of the last micro-batch or the `first`.
    """
    sizes = Sizes.of(scenario)
    if scenario.checkpointing:
        inner = len(costs.layers) * sizes.hidden
    else:
        inner = sum(_layer_bytes(sizes, layer) for layer in costs.layers)
    _, to_pass_on = _head_gradient(scenario, costs, first)
    return inner + sizes.head + sizes.rotary + sizes.step + to_pass_on


def _head_gradient(scenario: Scenario, costs: ModelCosts, first: bool) -> tuple[int, int]:
    """The head's gradient, which a loss in pieces makes in forward: as the gradient that it is, or as an activation
    where backward adds it to another one or is done with it before the step."""
    if scenario.loss_chunks == 1:
        return 0, 0
    added = costs.head is None or (scenario.accumulation > 1 and not first)
    used_up = scenario.method.updates == "backward"
    return (0, costs.output.grad) if added or used_up else (costs.output.grad, 0)


def _layer_bytes(sizes: Sizes, costs: LayerCosts) -> int:
    return sizes.layer + sum(_saved(sizes, cost) for cost in costs.values())


def _saved(sizes: Sizes, cost: Footprint) -> int:
    return cost.saved_per_token * sizes.tokens + cost.saved


@dataclass(slots=True)
class Backward:
    """Loss and backward of one micro-batch, point by point.

    A checkpointed layer is run again when the first of its operations asks for what it saved.
    """

    walk: Walk
    sizes: Sizes
    update_scalars: int
    """bytes that stand beside the scratch of every update"""
    checkpointing: bool

    def run(self, layers: list[LayerCosts], embed: Footprint, head: Footprint | None, norm: Footprint) -> None:
        output, tied = embed if head is None else head, head is None
        if self.sizes.piece:
            self.loss_in_pieces(output, tied)
            self.norm("model.norm", norm, extra=0, saved=self.sizes.norm, kept=self.sizes.hidden)
        else:
            self.loss()
            self.output(output, tied)
            self.norm("model.norm", norm, extra=self.sizes.hidden, saved=self.sizes.norm)
        for index in reversed(range(len(layers))):
            if self.checkpointing:
                self.recompute(f"layer {index} recomputed", layers[index])
            self.mlp(f"layer {index} mlp", layers[index])
            self.attention(f"layer {index} attention", layers[index], first=index == 0)
        self.embedding(embed, tied)

    def loss(self) -> None:
        s, at = self.sizes, self.walk.at
        at("loss", extra=FP32)
        at("loss gradient", extra=s.log_softmax, activation=-FP32)
        at("log-softmax gradient", extra=s.log_softmax)
        at("log-softmax freed", extra=-s.log_softmax, activation=-s.log_softmax)
        if s.logits != s.log_softmax:
            at("logits gradient, cast", extra=s.logits)
            at("logits gradient in fp32 freed", extra=-s.log_softmax)

    def loss_in_pieces(self, cost: Footprint, tied: bool) -> None:
        """The worst instant of the first piece, in forward. Backward passes on the gradients that forward left."""
        s, walk = self.sizes, self.walk
        before = FP32 if walk.accumulating else 0  # the last micro-batch's loss, until the loop has this one's
        walk.phase = FORWARD
        walk.passing("loss of a piece", s.hidden + s.piece + before)
        walk.phase = BACKWARD
        walk.at("loss", extra=FP32)
        if walk.updating and not tied:
            walk.passing("lm_head update", self.update(cost))
        if (walk.updating or walk.accumulating) and not tied:
            walk.at("lm_head gradient freed", kept=-cost.grad)

    def output(self, cost: Footprint, tied: bool) -> None:
        s, at = self.sizes, self.walk.at
        if tied:
            at("lm_head, gradient of a tied weight", extra=cost.grad + s.hidden)
        else:
            self.gradients("lm_head", cost, s.hidden)
        at("lm_head freed", extra=-s.logits, activation=-s.hidden)

    def recompute(self, name: str, costs: LayerCosts) -> None:
        """A layer's forward again, up to the last tensor that it saves. Its input is there; the rest is extra.

        Between its linear layers it holds less than the backward that follows, and so do they, but for a method's own.
        """
        s, at = self.sizes, self.walk.at
        self.walk.saved_as = EXTRA
        copied = 0 if s.expanded == s.key else 2 * s.key  # attention has copies; the layer's own k and v go with it
        at(f"{name} norm", activation=s.rstd + s.hidden)
        for role, size in ((Role.Q, s.query), (Role.K, s.key), (Role.V, s.key)):
            self.run_again(name, role, costs, size, size)
        at(f"{name} attention", activation=s.query + s.lse + 2 * (s.expanded - s.key) + copied)
        self.run_again(name, Role.O, costs, s.hidden, s.hidden - copied)
        at(f"{name} mlp norm", activation=s.rstd + s.hidden)
        for role in (Role.GATE, Role.UP):
            self.run_again(name, role, costs, s.mlp, 2 * s.mlp)
        self.run_again(name, Role.DOWN, costs, s.hidden, 0)

    def run_again(self, name: str, role: Role, costs: LayerCosts, output: int, saved: int) -> None:
        """A linear layer's forward; `saved` is of its output and what follows from it up to the next one."""
        cost = costs[role]
        if isinstance(cost.backward, Forward):
            cost.backward.forward(self.layer(f"{name} {role}_proj", cost, output, 0))
        self.walk.at(f"{name} {role}_proj", activation=saved + _saved(self.sizes, cost))

    def norm(self, name: str, cost: Footprint, extra: int, saved: int, kept: int = 0) -> None:
        """Afterwards go its output's gradient, of which `extra` was made in backward, what it `saved`, and `kept`."""
        s = self.sizes
        if s.norm_scratch:  # of a norm made of plain operators, at its worst
            self.walk.scratch(f"{name} scratch", s.norm_scratch, cost.grad)
        self.gradients(name, cost, s.hidden)
        self.walk.at(f"{name} freed", extra=-extra, activation=-saved, kept=-kept)

    def mlp(self, name: str, costs: LayerCosts) -> None:
        s, at = self.sizes, self.walk.at
        self.linear(f"{name} down_proj", costs[Role.DOWN], 0, s.mlp, frees=s.mlp)
        at(f"{name} product", extra=2 * s.mlp)
        at(f"{name} product freed", extra=-s.mlp, activation=-2 * s.mlp)
        self.linear(f"{name} up_proj", costs[Role.UP], s.mlp, s.hidden)
        at(f"{name} silu", extra=s.mlp)
        at(f"{name} silu freed", extra=-s.mlp, activation=-s.mlp)
        self.linear(f"{name} gate_proj", costs[Role.GATE], s.mlp, s.hidden, frees=s.hidden, joins=True)
        self.norm(f"{name} norm", costs[Role.NORM], extra=s.hidden, saved=s.norm)
        self.walk.add(f"{name} residual", s.hidden)

    def attention(self, name: str, costs: LayerCosts, first: bool) -> None:
        s, at = self.sizes, self.walk.at
        self.linear(f"{name} o_proj", costs[Role.O], 0, s.query)
        at(f"{name} kernel", extra=s.query + 2 * s.expanded)
        at(f"{name} kernel freed", extra=-s.query, activation=-(2 * s.query + 2 * s.expanded + s.lse))
        if s.expanded != s.key:
            at(f"{name} keys folded", extra=s.key - s.expanded)
            at(f"{name} values folded", extra=s.key - s.expanded)
        self.linear(f"{name} v_proj", costs[Role.V], s.key, s.hidden)
        self.rotary(f"{name} k rotary", s.key)
        self.linear(f"{name} k_proj", costs[Role.K], s.key, s.hidden, joins=True)
        self.rotary(f"{name} q rotary", s.query)
        if first and not self.checkpointing:
            at("rotary tables freed", activation=-s.rotary)
        self.linear(f"{name} q_proj", costs[Role.Q], s.query, s.hidden, frees=s.hidden, joins=True)
        if self.checkpointing:  # the layer's arguments go when nothing is left to be asked for
            kept = s.hidden + (s.rotary if first else 0)
            self.norm(f"{name} norm", costs[Role.NORM], extra=s.hidden, saved=s.rstd, kept=kept)
        else:
            self.norm(f"{name} norm", costs[Role.NORM], extra=s.hidden, saved=s.norm)
        self.walk.add(f"{name} residual", s.hidden)

    def linear(
        self, name: str, cost: Footprint, grad_output: int, grad_input: int, frees: int = 0, joins: bool = False
    ) -> None:
        """Backward of a linear layer, plain or a method's own: see `LinearWalk` for what the numbers are."""
        layer = self.layer(name, cost, grad_output, grad_input, frees, joins)
        (cost.backward or LinearWalk.plain)(layer)

    def layer(
        self, name: str, cost: Footprint, grad_output: int, grad_input: int, frees: int = 0, joins: bool = False
    ) -> LinearWalk:
        return LinearWalk(
            walk=self.walk,
            name=name,
            tokens=self.sizes.tokens,
            saved=_saved(self.sizes, cost),
            grad=_grad(cost, self.walk.refreshing),
            update=self.update(cost),
            grad_output=grad_output,
            grad_input=grad_input,
            frees=frees,
            joins=joins,
        )

    def rotary(self, name: str, size: int) -> None:
        """Beside the incoming gradient: its two products and half of it negated, then their sum in its place."""
        self.walk.passing(name, size + size // 2 + size)

    def embedding(self, cost: Footprint, tied: bool) -> None:
        """The dense gradient of the embedding; under a tied head the head's gradient and their sum beside it."""
        s = self.sizes
        if tied:
            self.walk.at("embed_tokens gradient", extra=cost.grad)
            self.walk.at("embed_tokens input freed", extra=-s.hidden)
            self.gradients("embed_tokens and lm_head gradients added", cost, 0)
            kept = cost.grad if s.piece else 0
            self.walk.at("tied gradients freed", extra=kept - 2 * cost.grad, kept=-kept)
        else:
            self.gradients("embed_tokens", cost, 0)
            self.walk.at("embed_tokens input freed", extra=-s.hidden)
        self.walk.at("loss gradient freed", extra=-FP32)

    def gradients(self, name: str, cost: Footprint, grad_input: int) -> None:
        self.walk.gradients(name, cost.grad, grad_input, self.update(cost))

    def update(self, cost: Footprint) -> int:
        """The scratch of one weight's refresh and update, where they happen inside backward, one after the other."""
        scratch = cost.transient + self.update_scalars
        return max(scratch, cost.refresh) if self.walk.refreshing else scratch


def backward_walk(
    scenario: Scenario, held: dict[str, int], costs: ModelCosts, refreshing: bool, first: bool = False
) -> Walk:
    """The walk after the backward of the last micro-batch, or the `first`. `held`: in parameters and state."""
    accumulating = scenario.accumulation > 1 and not first
    alive = {
        PARAM: held[PARAM],
        GRAD: costs.grad(refreshing) if accumulating else _head_gradient(scenario, costs, first)[0],
        OPTIMIZER_STATE: held[OPTIMIZER_STATE],
        ACTIVATION: activation_bytes(scenario, costs, first),
        EXTRA: 0,
    }
    updating = scenario.method.updates == "backward"
    walk = Walk(alive, accumulating=accumulating, updating=updating, refreshing=refreshing)
    backward = Backward(walk, Sizes.of(scenario), scenario.method.update_scalars, scenario.checkpointing)
    backward.run(costs.layers, costs.embed, costs.head, costs.norm)
    return walk


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """A method's footprints laid out as the model is: embedding, layers, final norm, head (None when tied)."""

    embed: Footprint
    layers: list[LayerCosts]
    norm: Footprint
    head: Footprint | None

    @property
    def output(self) -> Footprint:
        """Of the weight that makes the logits."""
        return self.embed if self.head is None else self.head

    def weights(self) -> Iterator[Footprint]:
        """Every weight's; a layer has two norms of one cost."""
        yield from (self.embed, self.norm) if self.head is None else (self.embed, self.norm, self.head)
        for layer in self.layers:
            yield from (*layer.values(), layer[Role.NORM])

    def grad(self, refreshing: bool) -> int:
        return sum(_grad(cost, refreshing) for cost in self.weights())

    @property
    def gradients(self) -> int:
        """How many there are."""
        return sum(cost.trained for cost in self.weights())


def _grad(cost: Footprint, refreshing: bool) -> int:
    return cost.grad if cost.refresh_grad is None or not refreshing else cost.refresh_grad
