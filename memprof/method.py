"""The contract of a method: what it sees (`Weight`), what it costs (`Footprint`), what it does (`Method`).

Free of torch at import, so that shapes, scenarios and the command line's help stay instant.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Literal, Self, TypeVar

from memprof.errors import MemprofError
from memprof.setting import check_setting, field_types

if TYPE_CHECKING:
    import torch
    from torch import nn

    from memprof.walk import LinearWalk


T = TypeVar("T")
Module = TypeVar("Module", bound="nn.Module")
BASIS, BLOCK_MEANS, STEP = "basis", "block means", "step counts"
"""parts of an optimizer's state that papers count in different ways: what maps between a subspace and a weight, second
moments that a block shares, step counts"""
MAX_DEFAULT_RANK = 256
HORIZON = 20_000
"""steps of a training, over which schedules are counted: as in "Approximations may be all you need" """


class Role(StrEnum):
    """What a weight is in a LLaMA. OTHER is a weight of a user's own model that memprof cannot place."""

    EMBED = "embed"
    HEAD = "head"
    NORM = "norm"
    Q = "q"
    K = "k"
    V = "v"
    O = "o"  # noqa: E741
    GATE = "gate"
    UP = "up"
    DOWN = "down"
    OTHER = "other"


ATTENTION_AND_MLP = frozenset({Role.Q, Role.K, Role.V, Role.O, Role.GATE, Role.UP, Role.DOWN})

_ROLE_OF_MODULE = {
    "embed_tokens": Role.EMBED,
    "lm_head": Role.HEAD,
    "q_proj": Role.Q,
    "k_proj": Role.K,
    "v_proj": Role.V,
    "o_proj": Role.O,
    "gate_proj": Role.GATE,
    "up_proj": Role.UP,
    "down_proj": Role.DOWN,
}


@dataclass(frozen=True, slots=True)
class Weight:
    """One stored tensor of the plain model; a tied tensor appears once."""

    name: str
    """Hugging Face's name: model.layers.0.self_attn.q_proj.weight"""
    role: Role
    shape: tuple[int, ...]
    """(out, in), or (d,) for a norm"""
    heads: int
    """heads stacked along dim 0 (q: heads; k, v: key-value heads), else 1"""
    itemsize: int
    """bytes of one element in the parameter dtype"""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.itemsize

    @property
    def is_matrix(self) -> bool:
        """Whether low-rank methods treat it: attention and MLP matrices, as in the papers."""
        return self.role in ATTENTION_AND_MLP


def role_of(name: str, ndim: int) -> Role:
    """The role that Hugging Face's LLaMA names give a parameter; OTHER where they give none."""
    module = name.split(".")[-2] if "." in name else ""
    if ndim == 2:
        return _ROLE_OF_MODULE.get(module, Role.OTHER)
    return Role.NORM if ndim == 1 and module.endswith("norm") else Role.OTHER


def named_weights(model: nn.Module) -> list[tuple[Weight, nn.Parameter]]:
    """Every stored parameter of a plain model beside its `Weight`; a tied one once, under its first name."""
    config = getattr(model, "config", None)
    heads = getattr(config, "num_attention_heads", 1)
    kv_heads = getattr(config, "num_key_value_heads", heads)
    heads_of = {Role.Q: heads, Role.K: kv_heads, Role.V: kv_heads}
    pairs = []
    for name, parameter in model.named_parameters():
        role = role_of(name, parameter.ndim)
        weight = Weight(name, role, tuple(parameter.shape), heads_of.get(role, 1), parameter.element_size())
        pairs.append((weight, parameter))
    return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes one weight costs. Over a model the fields are summed, transient by group and refresh by max."""

    param: int
    grad: int
    """alive when backward returns, or, where the method updates inside backward, until the weight's update"""
    optimizer_state: int
    saved_per_token: int = 0
    """saved by autograd beyond the plain layer, per token (LoRA: rank * itemsize)"""
    saved: int = 0
    """the same, once (a materialised W)"""
    backward: Callable[[LinearWalk], None] | None = None
    """how autograd goes back through the layer that the method puts in a linear layer's place; None: a plain one"""
    transient: int = 0
    """most alive inside this weight's update, beyond the above"""
    refresh: int = 0
    """the same in a step that refreshes or merges"""
    trained: int = 1
    """tensors, each with a gradient, that are trained in the weight's place"""
    refresh_grad: int | None = None
    """`grad` in such a step, where it is another: a full-rank gradient, to take a new subspace from"""
    frozen: int = 0
    """bytes of `param` that no update ever changes: a plain weight beside its adapters, positions of sparse values"""
    read_only: int = 0
    """bytes of `optimizer_state`, beside a basis, that an ordinary step reads and does not write"""
    parts: Mapping[str, int] = field(default_factory=dict)
    """bytes of `optimizer_state` by name, of what papers count in different ways: BASIS, BLOCK_MEANS, STEP"""


@dataclass(frozen=True, slots=True)
class Method(ABC):
    """A way of training: a frozen dataclass of its paper's hyperparameters, with two verbs.

    `prepare` adapts a model in place and returns the optimizer that trains it; `formula` says what one weight
    costs in bytes. Both must tell the same story: tests hold them together to the byte.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    treats: ClassVar[str] = ""
    """which weights it treats its own way, in words"""

    def __post_init__(self) -> None:
        if not isinstance(getattr(self, "name", None), str):
            raise MemprofError(f"{type(self).__name__} has no name; write name: ClassVar[str] = ... in the class")
        types = field_types(type(self))
        for spec in dataclasses.fields(self):
            check_setting(self.name, spec, getattr(self, spec.name), types[spec.name])

    @abstractmethod
    def prepare(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adapt `model` in place and return an optimizer over what it trains."""

    @abstractmethod
    def formula(self, weight: Weight) -> Footprint:
        """Bytes that one weight of the plain model costs under this (bound) method."""

    def bind(self, weights: Iterable[Weight]) -> Self:
        """This method with everything filled in that depends on the model, such as a default rank."""
        return self

    def shared(self) -> int:
        """Bytes of optimizer state kept once per optimizer (quantisation maps)."""
        return 0

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        """How many bytes of scratch a group of weights that are updated together may take; 0: one at a time."""
        return 0

    @property
    def update_scalars(self) -> int:
        """Bytes of scalars that stand beside every group's scratch in its update: a step count for the kernel."""
        return 0

    def update_kind(self, weight: Weight) -> Hashable:
        """What weights that are updated together must have in common: a shape whose scratch is stacked, say."""
        return None

    def scratch_together(self, weights: Sequence[Weight]) -> int:
        """Bytes of scratch in the update of weights that form one group."""
        return sum(self.formula(weight).transient for weight in weights)

    @property
    def updates(self) -> Literal["step", "backward"]:
        """Where weights are updated: in the optimizer's step, or in backward as soon as a gradient is there."""
        return "step"

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        """The steps below `horizon`, counted from 0, with periodic work: a refresh, a merge."""
        return ()

    @property
    def is_periodic(self) -> bool:
        """Whether there is periodic work at all."""
        return len(self.refresh_steps(HORIZON)) > 0

    @property
    def refreshes_per_step(self) -> float:
        """How often, on average over a training as long as the papers'."""
        return len(self.refresh_steps(HORIZON)) / HORIZON

    def hyperparameters(self) -> dict[str, object]:
        return {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}

    def given(self) -> list[str]:
        """The hyperparameters that are not at their defaults. Not the rank, which depends on the model."""
        specs = (spec for spec in dataclasses.fields(self) if spec.name != "rank")
        return [spec.name for spec in specs if getattr(self, spec.name) != spec.default]


@dataclass(frozen=True, slots=True)
class RankedMethod(Method):
    """A method of low rank, whose default rank depends on the model."""

    @property
    @abstractmethod
    def rank(self) -> int | None:
        """A field of every such method, with a place and words of its own. None until the model is known."""

    def bind(self, weights: Iterable[Weight]) -> Self:
        rank = bound_rank(self.name, self.rank, weights)
        return dataclasses.replace(self, rank=rank)  # type: ignore[call-arg]  # the field is the subclass's


def bound_rank(method: str, rank: int | None, weights: Iterable[Weight]) -> int:
    """The rank a method uses on a model: the given one, checked against every treated side, or the default.

    Default: a quarter of the smallest treated side, at most 256, at least 1.
    """
    treated = [weight for weight in weights if weight.is_matrix]
    if not treated:
        raise MemprofError(f"{method}: the model has no attention or MLP matrices under Hugging Face's LLaMA names")
    smallest = min(treated, key=lambda weight: min(weight.shape))
    side = min(smallest.shape)
    if rank is None:
        return max(1, min(side // 4, MAX_DEFAULT_RANK))
    if rank > side:
        shape = " x ".join(map(str, smallest.shape))
        raise MemprofError(f"{method}: rank {rank} is larger than {smallest.name} ({shape}); use at most {side}")
    return rank


def known_rank(method: str, rank: int | None) -> int:
    """The rank of a bound method; an error where a formula is asked before the model is known."""
    if rank is None:
        raise MemprofError(f"{method}: the default rank depends on the model; call bind(weights) first, or set rank")
    return rank


def largest_nbytes(weights: Iterable[Weight]) -> int:
    """A limit for scratch: no more than the largest weight has bytes."""
    return max(weight.nbytes for weight in weights)


def groups(
    items: Sequence[T], scratch: Callable[[T], int], limit: int, kind: Callable[[T], Hashable] = lambda item: None
) -> list[list[T]]:
    """Cut items, in order, into groups whose scratch together is at most `limit`; a larger one stands alone.

    A group is of one kind. Kinds come one after the other, in the order in which each first appears.
    """
    cut: list[list[T]] = []
    for present in dict.fromkeys(map(kind, items)):
        used = limit + 1  # so that the first of a kind starts a group
        for item in items:
            if kind(item) == present:
                size = scratch(item)
                if used + size <= limit:
                    cut[-1].append(item)
                    used += size
                else:
                    cut.append([item])
                    used = size
    return cut


def replace_matrices(model: nn.Module, make: Callable[[Weight, nn.Linear], nn.Module]) -> None:
    """Put `make(weight, linear)` in the place of every attention and MLP linear layer of `model`."""
    for weight, _ in named_weights(model):
        if weight.is_matrix:
            path = weight.name.removesuffix(".weight")
            model.set_submodule(path, make(weight, typing.cast("nn.Linear", model.get_submodule(path))))


def room_for(layer: Module, device: torch.device) -> Module:
    """`layer`, which was made on meta so that nothing is drawn for it, uninitialised on `device`.

    On meta it stays as it is: a second storage beside the first would be a block that no GPU ever sees.
    """
    return layer if device.type == "meta" else layer.to_empty(device=device)
