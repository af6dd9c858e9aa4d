"""Adam-mini: Adam with one second moment per block of a weight instead of one per element.

Zhang et al. 2024, arXiv:2406.16793; blocks and order of operations follow the authors' adam-mini. A block is what
shares a learning rate. The authors' code has had two partitions:
1.1 (default): a head of q and k; an output row of v, o, gate, up, down and any other matrix; a token's row of embedding
    and head; a norm as a whole. States have the parameter's dtype.
1.0: an element of embedding and head (which is Adam); a head of q and k; any other weight as a whole. fp32 states (but
    in 1.0.1 the one number of a whole weight is of the weight's dtype; here it is fp32 too).
With `state_dtype` either partition has either precision: "Approximations may be all you need" counts the partition of
1.0 with bf16 states, which no version of the code has.
Shapes: a weight of n elements has B blocks of n / B elements each, seen as (B, n / B) (block_means.py). G weights are
updated together.

Paper and code: with 1.1 in bf16 and beta2 = 0.999, vmean * beta2 mostly rounds back to vmean, there and here. The
authors' code knows blocks by substrings of names and takes dim * dim / n_heads elements for a head, silently wrong
where dim and n_heads were left at their defaults; here roles and head counts decide. 1.1 gives a "bias" plain Adam; a
1-D tensor is one block here, and is not decayed. Per weight it makes g * g, m * stepsize and their negation, all
full-size. Here the mean of g^2 is a norm squared, accumulated in fp32. A division that broadcasts takes no list of
tensors in one launch, so weights of up to `TOGETHER` elements are divided by denominators of their own size, many in
one call; a larger one, for which that traffic would cost more than a launch, by a broadcast of its own. Under fp32
states, gradients and then weights below fp32 go through fp32 copies, and a weight is rounded once; the authors' 1.0
decays and updates it apart. In pure fp16 the block means and eps underflow and the weights become NaN within a few
steps, as with the authors' code.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from memprof.method import BLOCK_MEANS, Footprint, Method, Role, Weight, largest_nbytes, named_weights
from memprof.methods.parts.batches import Batches
from memprof.methods.parts.block_means import add_mean_squares_, divide_
from memprof.optimizer import PIECE, Group, KeepsDtypes, MethodOptimizer, mixed_adamw_, step_tensor, with_grad
from memprof.setting import setting

PER_HEAD = frozenset({Role.Q, Role.K})
PER_ELEMENT = frozenset({Role.EMBED, Role.HEAD})
"""with the partition of 1.0"""
TOGETHER = 2**22
"""elements: in bf16 the denominators are 8 MiB of traffic back and forth, some 4 microseconds on a data-centre GPU,
which is what a launch takes"""
FP32_BYTES = 4


def is_elementwise(weight: Weight, partition: str) -> bool:
    """Whether every element has a second moment of its own."""
    return partition == "1.0" and weight.role in PER_ELEMENT


def num_blocks(weight: Weight, partition: str = "1.1") -> int:
    """How many second moments a weight has."""
    if is_elementwise(weight, partition):
        return weight.numel
    if weight.role in PER_HEAD:
        return weight.heads
    return 1 if len(weight.shape) < 2 or partition == "1.0" else weight.shape[0]


class AdamMiniOptimizer(KeepsDtypes, MethodOptimizer):
    """Adam-mini over a model's weights: a norm per matrix, all else in a handful of calls for each shape.

    state[p]: m of the weight's shape; vmean (B, 1), or () where the weight is one block and no head; or v elementwise.
    """

    def __init__(self, model: nn.Module, method: AdamMini) -> None:
        pairs = [(weight, parameter) for weight, parameter in named_weights(model) if parameter.requires_grad]
        self.method = method
        self.weight_of: dict[Tensor, Weight] = {parameter: weight for weight, parameter in pairs}
        self.batches = Batches(method, self.weight_of)
        names = ("lr", "betas", "eps", "weight_decay")
        defaults = {name: getattr(method, name) for name in names}
        super().__init__([parameter for _, parameter in pairs], {**defaults, "step": 0})

    def update(self) -> None:
        for group in self.param_groups:
            params = with_grad(group)
            if params:
                group["step"] += 1
                self._update(params, group)

    def _update(self, params: list[Tensor], group: Group) -> None:
        vmeans = [state["vmean"] for state in map(self._state, params) if "vmean" in state]
        torch._foreach_mul_(vmeans, group["betas"][1])
        for batch in self.batches.of(params):
            if "v" in self.state[batch[0]]:
                self._adam(batch, group)
            else:
                self._update_batch(batch, group)

    def _update_batch(self, ps: list[Tensor], group: Group) -> None:
        """Weights of one shape and partition; a function of its own, so that its scratch is gone before the next."""
        beta1, beta2 = group["betas"]
        ms, vmeans = ([self.state[p][key] for p in ps] for key in ("m", "vmean"))
        grads: list[Tensor] = [p.grad for p in ps]  # type: ignore[misc]
        wide = list(ms[0].new_empty(len(ps), *ps[0].shape).unbind()) if ms[0].dtype != ps[0].dtype else None
        if wide is not None:
            torch._foreach_copy_(wide, grads)
            grads = wide
        add_mean_squares_(vmeans, grads, 1 - beta2)
        torch._foreach_lerp_(ms, grads, 1 - beta1)
        if wide is not None:
            torch._foreach_copy_(wide, ps)
        targets = ps if wide is None else wide
        if group["weight_decay"] and ps[0].ndim > 1:
            torch._foreach_mul_(targets, 1 - group["lr"] * group["weight_decay"])
        # m_hat / (sqrt(v_hat) + eps), with the bias of v taken to eps and the step size
        bias2 = (1 - beta2 ** group["step"]) ** 0.5
        roots_GB = torch.stack([vmean.view(-1) for vmean in vmeans]).sqrt_().add_(group["eps"] * bias2)
        together = wide is None and ps[0].numel() <= TOGETHER
        divide_(targets, ms, roots_GB, -group["lr"] * bias2 / (1 - beta1 ** group["step"]), together)
        if wide is not None:
            torch._foreach_copy_(ps, wide)

    def _adam(self, ps: list[Tensor], group: Group) -> None:
        for p in ps:
            assert p.grad is not None
            state, step = self.state[p], step_tensor(group["step"], p.device)
            rates = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
            mixed_adamw_([p], [p.grad], [state["m"]], [state["v"]], [step], **rates)

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            weight, partition = self.weight_of[p], self.method.partition
            dtype = torch.promote_types(p.dtype, torch.float32) if self.method.keeps_fp32 else p.dtype
            state["m"] = torch.zeros_like(p, dtype=dtype)
            if is_elementwise(weight, partition):
                state["v"] = torch.zeros_like(p, dtype=dtype)
            else:
                blocks = num_blocks(weight, partition)
                whole = p.ndim < 2 or partition == "1.0" and weight.role not in PER_HEAD
                state["vmean"] = p.new_zeros(() if whole else (blocks, 1), dtype=dtype)
        return state


@dataclass(frozen=True, slots=True)
class AdamMini(Method):
    """Adam-mini, with the partition of version 1.1 or of 1.0."""

    name: ClassVar[str] = "adam-mini"
    paper: ClassVar[str] = "arXiv:2406.16793"
    treats: ClassVar[str] = "every weight"

    partition: str = setting(
        "1.1",
        "what shares a learning rate; 1.1: rows and heads; 1.0: tensors, heads and each element of embedding and head",
        choices=("1.1", "1.0"),
        papers='"Approximations may be all you need": 1.0',
    )
    lr: float = setting(1e-3, "learning rate", above=0, papers='"Approximations may be all you need": 5e-4')
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, of matrices only", least=0)
    state_dtype: str | None = setting(
        None,
        "precision of the states: the weights' own, or fp32; none: weights with partition 1.1, fp32 with 1.0",
        choices=("weights", "fp32"),
        papers='"Approximations may be all you need": weights',
    )

    def prepare(self, model: nn.Module) -> AdamMiniOptimizer:
        return AdamMiniOptimizer(model, self)

    @property
    def keeps_fp32(self) -> bool:
        """Whether states are fp32 where the weights are less."""
        return self.partition == "1.0" if self.state_dtype is None else self.state_dtype == "fp32"

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        return largest_nbytes(weights)

    def update_kind(self, weight: Weight) -> Hashable:
        """Shape and partition; weights with a second moment for each element go one by one."""
        if is_elementwise(weight, self.partition):
            return weight.name
        return weight.shape, num_blocks(weight, self.partition), weight.role in PER_HEAD

    def formula(self, weight: Weight) -> Footprint:
        """State: m (n,) + vmean (B, 1), or () of one block; of embedding and head with 1.0: m (n,) + v (n,). All in the
        parameter's dtype or, with state_dtype fp32, the default of 1.0, in fp32.

        Transient: denominators (B, 1) beside, up to 2^22 elements, themselves for every element, (n,). Where states are
        wider than the weights: gradient, then weight (n,) in fp32, beside denominators (B, 1). Embedding and head with
        1.0: step () fp32, and under wider states weight and gradient in fp32, of at most 7680 * 256 elements at a time.
        """
        blocks, n = num_blocks(weight, self.partition), weight.numel
        width = max(weight.itemsize, FP32_BYTES) if self.keeps_fp32 else weight.itemsize
        if is_elementwise(weight, self.partition):
            transient = FP32_BYTES + (2 * FP32_BYTES * min(n, PIECE) if width > weight.itemsize else 0)
        else:
            transient = width * (blocks + (n if n <= TOGETHER or width > weight.itemsize else 0))
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=width * (n + blocks),
            parts={} if is_elementwise(weight, self.partition) else {BLOCK_MEANS: width * blocks},
            transient=transient,
        )
