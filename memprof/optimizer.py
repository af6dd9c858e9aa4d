"""What the methods' optimizers share: fused AdamW, and a step that treats matrices apart and may do periodic work."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from memprof.errors import MemprofError
from memprof.method import Footprint, Weight, groups, named_weights

Group = dict[str, Any]
PIECE = 7680 * 256
"""elements of a large tensor that are updated at once where an update needs scratch: few calls, and little scratch"""


def fused_adamw_(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """One AdamW step on lists of tensors of one dtype, in place and without temporaries: torch's own kernel.

    `steps` are fp32 scalars on the parameters' device, this step counted already. Works on meta tensors, which
    torch.optim.AdamW(fused=True) refuses.
    """
    if params:
        torch._fused_adamw_(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            [],
            steps,
            lr=lr,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=weight_decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )


def room(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Uninitialised fp32 scratch for `widen`, flat pieces of one buffer: 4 bytes an element of what is not fp32."""
    sizes = [0 if tensor.dtype == torch.float32 else tensor.numel() for tensor in tensors]
    device = tensors[0].device if tensors else None
    return list(torch.empty(sum(sizes), dtype=torch.float32, device=device).split(sizes)) if tensors else []


def widen(tensors: Sequence[Tensor], into: Sequence[Tensor]) -> list[Tensor]:
    """Flat tensors in fp32: themselves where that is what they are, else copied `into` fp32 ones of their sizes."""
    wide = [t if t.dtype == torch.float32 else copy for t, copy in zip(tensors, into, strict=True)]
    _copy_where_apart(wide, tensors)
    return wide


def narrow_(tensors: Sequence[Tensor], wide: Sequence[Tensor]) -> None:
    """Round what `widen` copied back into where it came from."""
    _copy_where_apart(tensors, wide)


def _copy_where_apart(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    pairs = [(target, source) for target, source in zip(targets, sources, strict=True) if target is not source]
    if pairs:
        torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])


def mixed_adamw_(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    **hyperparameters: Any,
) -> None:
    """`fused_adamw_` for moments whose dtype may differ from their parameter's: one of the two is fp32.

    What is not fp32 goes through fp32 copies, 8 bytes an element, of `PIECE` elements at most at a time.
    """
    rows = list(zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True))
    for dtype in dict.fromkeys(p.dtype for p in params):
        alike = [row for row in rows if row[0].dtype == row[2].dtype == dtype]
        if alike:
            fused_adamw_(*map(list, zip(*alike, strict=True)), **hyperparameters)
    pieces = [piece for row in rows if row[0].dtype != row[2].dtype for piece in _cut(*row)]
    for group in groups(pieces, lambda piece: 2 * 4 * piece[0].numel(), 2 * 4 * PIECE):
        _adamw_in_fp32_(group, hyperparameters)


def _cut(*row: Tensor) -> list[tuple[Tensor, ...]]:
    """Parameter, gradient and moments as flat pieces, each with the step."""
    *tensors, step = row
    return [(*parts, step) for parts in zip(*(t.reshape(-1).split(PIECE) for t in tensors), strict=True)]


def _adamw_in_fp32_(pieces: list[tuple[Tensor, ...]], hyperparameters: dict[str, Any]) -> None:
    """A function of its own, so that its scratch is gone before the next."""
    params, grads, exp_avgs, exp_avg_sqs, steps = map(list, zip(*pieces, strict=True))
    tensors = [*params, *exp_avgs, *exp_avg_sqs, *grads]
    wide = widen(tensors, room(tensors))
    n = len(pieces)
    fused_adamw_(wide[:n], wide[3 * n :], wide[n : 2 * n], wide[2 * n : 3 * n], steps, **hyperparameters)
    narrow_(tensors[: 3 * n], wide[: 3 * n])


def adamw_footprint(weight: Weight) -> Footprint:
    """Parameter, gradient, exp_avg and exp_avg_sq, each of the weight's shape and dtype."""
    return Footprint(param=weight.nbytes, grad=weight.nbytes, optimizer_state=2 * weight.nbytes)


def with_grad(group: Group) -> list[Tensor]:
    """The parameters of a group that have a gradient."""
    return [p for p in group["params"] if p.grad is not None]


def make_gradients_contiguous(groups: list[Group]) -> None:
    """Autograd's gradients are; a hook's need not be, and torch's fused kernels ignore strides."""
    for group in groups:
        for p in group["params"]:
            if p.grad is not None and not p.grad.is_contiguous():
                p.grad = p.grad.contiguous()


class MethodOptimizer(torch.optim.Optimizer):
    """The frame of every method's step: PyTorch's optional closure, then `update` without gradient tracking."""

    takes_groups: ClassVar[bool] = False
    """whether parameters that come after construction are trained as the first ones are"""
    _prepared = False

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self._prepared = True

    def add_param_group(self, param_group: Group) -> None:
        if self._prepared and not self.takes_groups:
            raise MemprofError(
                "the optimizer belongs to the model it was prepared for; prepare a new one to train other parameters"
            )
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        make_gradients_contiguous(self.param_groups)
        self.update()
        return loss

    @abstractmethod
    def update(self) -> None:
        """Update every weight that has a gradient."""


class KeepsDtypes(torch.optim.Optimizer):
    """States keep their dtypes through a state dict and follow their parameter's device, step counts too.

    torch rounds them to the parameter's dtype on the way in, and leaves a `step` where it was stored.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(ids, params, strict=True):
            if index in state_dict["state"]:
                self.state[p] = _copied(state_dict["state"][index], p.device)


def _copied(value: Any, device: torch.device) -> Any:
    """A copy on `device`, of tensors within dicts and lists too."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {key: _copied(item, device) for key, item in value.items()}
    return type(value)(_copied(item, device) for item in value) if isinstance(value, list | tuple) else value


class Periodic:
    """Periodic work on request. `request_refresh()` asks for it, `take_request()` in the next step answers."""

    _refresh_requested = False

    def request_refresh(self) -> None:
        """Make the next step do the periodic work, whatever the schedule says."""
        self._refresh_requested = True

    def take_request(self) -> bool:
        asked, self._refresh_requested = self._refresh_requested, False
        return asked


class MatrixOptimizer(Periodic, MethodOptimizer):
    """AdamW for embeddings, head and norms; a method's own update for attention and MLP matrices.

    Steps are counted from 0 in the parameter groups, for all weights together: one whose first gradient comes later
    than the others' is bias-corrected as if it had been there, where the public implementations count for each weight.
    A step refreshes when `is_due(step)` says so or when `request_refresh()` was called before it.
    """

    def __init__(
        self, model: nn.Module, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        pairs = named_weights(model)
        self.weight_of = {parameter: weight for weight, parameter in pairs}
        matrices = [parameter for weight, parameter in pairs if weight.is_matrix]
        others = [parameter for weight, parameter in pairs if not weight.is_matrix]
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0}
        super().__init__([{"params": others, "matrices": False}, {"params": matrices, "matrices": True}], defaults)

    def update(self) -> None:
        for group in self.param_groups:
            self._update_weights(with_grad(group), group)
            group["step"] += 1
        self.take_request()

    def _update_weights(self, params: list[Tensor], group: Group) -> None:
        if not group["matrices"]:
            self.update_others(params, group)
        elif params:
            self.update_matrices(params, group, self._refresh_requested or self.is_due(group["step"]))

    def update_in_backward(self) -> None:
        """From now on a weight is updated as soon as backward has its gradient, and the gradient goes right after.

        `step` then finds none left and counts the step; a gradient that somebody sets by hand is its to use. Two
        backward passes before it would be two updates: gradients cannot be accumulated.
        """
        this = weakref.ref(self)  # so that a model outlives the optimizers it has had, and they do not follow it

        def updater(index: int) -> Callable[[Tensor], None]:
            def hook(p: Tensor) -> None:
                optimizer = this()
                if optimizer is not None:
                    with torch.no_grad():
                        optimizer._update_weights([p], optimizer.param_groups[index])
                    p.grad = None

            return hook

        for index, group in enumerate(self.param_groups):
            for p in group["params"]:
                p.register_post_accumulate_grad_hook(updater(index))

    @abstractmethod
    def is_due(self, step: int) -> bool:
        """Whether the schedule refreshes at `step` (the first step is 0)."""

    @abstractmethod
    def update_matrices(self, params: Sequence[Tensor], group: Group, refresh: bool) -> None:
        """Update attention and MLP matrices; `group["step"]` is the number of steps before this one."""

    def update_others(self, params: list[Tensor], group: Group) -> None:
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if not state:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        fused_adamw_(
            params,
            [p.grad for p in params],  # type: ignore[misc]
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [step_tensor(group["step"] + 1, params[0].device)] * len(params) if params else [],
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )


def step_tensor(step: int, device: torch.device) -> Tensor:
    """The step count as the fused kernel wants it: made by a fill, so that the host never waits."""
    return torch.full((), float(step), dtype=torch.float32, device=device)
