"""LoQT: quantised weights, and beside each a product of a fixed, quantised projection with one trained thin factor.

Loeschcke et al. 2024, arXiv:2405.16528; follows sebulo/LoQT (375b41a) with --quantize_w 4bit and
--quantize_projection_matrix 4bit, as its scripts run it. Shapes: a weight is (M, N); S and L are its shorter and longer
side; R is the rank.
y = q(W) x + alpha B A x, alpha not divided by R. Where M >= N the projection is A (R, N) and B (M, R) is trained; where
M < N it is B (M, R), and A (R, N) is trained. Weight and projection are NF4 in blocks of 64 (see `parts.nf4`).

Updates, at steps 0, gap, then each later by gap + int(psi^k), k = 1, 2, ...: in such a step
* the layer computes with the merged weight, quantised again, q(q(W) + alpha B A), and without the product; its gradient
  is the full-rank one, G (M, N);
* the projection is the top R singular vectors of G's shorter side, quantised: P;
* weight and factor are made together. V = q(W) + alpha B A; F = V; `iterations` times: Q = q(F),
  factor = P^+ (V - Q) / alpha, F = V - alpha P factor. Kept is the pair whose |V - Q - alpha P factor| was least;
* the factor is not updated. Its moments go on in the new subspace; embeddings, head and norms are trained as ever.

What differs, and what to know:
* The repository sets the factor's gradient to zero so that the step "has no effect"; Adam's momentum moves it all the
  same, by old moments in a new subspace. A defect: ours has no gradient there, and is left as it was made.
* It keeps V and a buffer for G of all layers from forward on, 2 (M, N) each; ours makes V anew from what it still has,
  so that G alone, (M, N) for each layer, stands beside the quantised weights.
* Its singular vectors are an SVD's or an eigendecomposition's; ours are the latter, by the sign rule of `galore`. Its
  P^+ is torch.pinverse with SVD, P^T with eigh although P is quantised; ours is the former, by Cholesky.
* It saves h = A x (R,) of a token where B is trained, and x only where A is or in an update step. Ours saves x alone,
  which q, k, v and gate, up share, and makes h again.
* bitsandbytes dequantises in one kernel; ours in plain torch, in pieces: up to 24 MiB of scratch.
* The learning rate is 0.01 in its scripts, with alpha 0.5; Adam with 8-bit states, optional there, is not built.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Method, Weight, bound_rank, known_rank, named_weights, replace_matrices
from memprof.methods.adamw import STEP_BYTES, AdamW, FusedAdamW
from memprof.methods.parts import nf4
from memprof.methods.parts.anchor import AnchoredLinear, anchor
from memprof.methods.parts.projection import (
    basis_shape,
    is_tall,
    low_rank_shape,
    refresh_bytes,
    top_subspace,
    wide_itemsize,
)
from memprof.methods.sltrain import scaled_product
from memprof.optimizer import Periodic
from memprof.setting import setting
from memprof.walk import LinearWalk

INT32, BOOL = 4, 1
RIDGE = 1e-30
"""added to the diagonal of P P^T, so that a projection of zeros has the pseudoinverse zero"""


class QuantisedProduct(torch.autograd.Function):
    """The layer's output; backward gives the factor its gradient, or in an update step the anchor the full-rank one."""

    @staticmethod
    def forward(ctx: Any, x_TN: Tensor, factor: Tensor, anchor_MN: Tensor, layer: LoQTLinear, full_rank: bool) -> Tensor:  # fmt: skip  # noqa: E501
        ctx.save_for_backward(x_TN, factor)
        ctx.layer, ctx.full_rank = layer, full_rank
        if full_rank:
            return x_TN @ layer.requantised().T
        y_TM = x_TN @ layer.weight().T
        a_RN, b_MR = layer.pair(layer.projection())
        return y_TM.addmm_(x_TN @ a_RN.T, b_MR.T, alpha=layer.alpha)

    @staticmethod
    def backward(ctx: Any, grad_TM: Tensor) -> tuple[Tensor | None, ...]:
        x_TN, factor = ctx.saved_tensors
        layer: LoQTLinear = ctx.layer
        if ctx.full_rank:
            grad_x = grad_TM @ layer.requantised()
            return grad_x, None, grad_TM.T @ x_TN, None, None
        grad_x = grad_TM @ layer.weight()
        projection = layer.projection()
        if layer.tall:
            grad_x.addmm_(grad_TM @ factor, projection, alpha=layer.alpha)
            h_TR = x_TN @ projection.T
            del projection
            return grad_x, scaled_product(grad_TM.T, h_TR, layer.alpha), None, None, None
        grad_h = grad_TM @ projection
        del projection
        grad_x.addmm_(grad_h, factor, alpha=layer.alpha)
        return grad_x, scaled_product(grad_h.T, x_TN, layer.alpha), None, None, None


class LoQTLinear(AnchoredLinear):
    """y = q(W) x + alpha B A x, in the place of a linear layer whose weight becomes NF4."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, table: Tensor) -> None:
        like = linear.weight
        super().__init__(linear.in_features, linear.out_features, anchor(like.shape, like.dtype, like.device))
        self.bias, self.alpha, self.table = linear.bias, alpha, table
        self.tall = is_tall(like.shape)
        self.shapes = basis_shape(like.shape, rank)
        self.factor = nn.Parameter(like.new_zeros(low_rank_shape(like.shape, rank)))
        self.updating = True
        for name, numel in (("weight", like.numel()), ("projection", math.prod(self.shapes))):
            codes, absmax = nf4.empty(numel, like.device)
            self.register_buffer(f"{name}_codes", codes)
            self.register_buffer(f"{name}_absmax", absmax)
        nf4.quantise_(*self._stored("weight"), like.detach(), table)

    def _stored(self, name: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"{name}_codes"), self.get_buffer(f"{name}_absmax")

    def weight(self) -> Tensor:
        """q(W), (M, N) in the parameter dtype."""
        out = torch.empty(self.out_features, self.in_features, dtype=self.factor.dtype, device=self.factor.device)
        return nf4.dequantise(*self._stored("weight"), self.table, out)

    def projection(self) -> Tensor:
        """A (R, N) or B (M, R) in the parameter dtype."""
        return nf4.dequantise(*self._stored("projection"), self.table, self.factor.new_empty(self.shapes))

    def pair(self, projection: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A and B, out of the projection and the trained factor, or another one."""
        factor = self.factor if factor is None else factor
        return (projection, factor) if self.tall else (factor, projection)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """V = q(W) + alpha B A."""
        weight_MN = self.weight()
        a_RN, b_MR = self.pair(self.projection())
        return weight_MN.addmm_(b_MR, a_RN, alpha=self.alpha)

    @torch.no_grad()
    def requantised(self) -> Tensor:
        """q(V), dequantised."""
        merged_MN = self.merged()
        codes, absmax = nf4.empty(merged_MN.numel(), merged_MN.device)
        nf4.quantise_(codes, absmax, merged_MN, self.table)
        return nf4.dequantise(codes, absmax, self.table, merged_MN)

    def forward(self, x: Tensor) -> Tensor:
        full_rank = self.updating and torch.is_grad_enabled()
        y: Tensor = QuantisedProduct.apply(x.flatten(end_dim=-2), self.factor, self.anchor, self, full_rank)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], -1)

    @torch.no_grad()
    def update(self, rank: int, iterations: int) -> None:
        """A new projection from the anchor's gradient, and weight and factor made for it. No host read."""
        assert self.anchor.grad is not None
        top, finite = top_subspace(self.anchor.grad, rank)
        merged_MN = self.merged()
        projection = self.projection()
        projection.copy_(torch.where(finite, top, projection))
        del top, finite
        nf4.quantise_(*self._stored("projection"), projection, self.table)
        nf4.dequantise(*self._stored("projection"), self.table, projection)
        if iterations:
            self._compensate(merged_MN, projection, iterations)
        else:
            nf4.quantise_(*self._stored("weight"), merged_MN, self.table)
            self.factor.zero_()

    def _compensate(self, merged_MN: Tensor, projection: Tensor, iterations: int) -> None:
        """Weight and factor by turns; each best pair so far is stored."""
        inverse_RS = pseudoinverse(projection if self.tall else projection.T)
        wide = torch.promote_types(merged_MN.dtype, torch.float32)
        least = torch.full((), math.inf, dtype=wide, device=merged_MN.device)
        work_MN = merged_MN.clone()
        codes, absmax = nf4.empty(merged_MN.numel(), merged_MN.device)
        for left in reversed(range(iterations)):
            nf4.quantise_(codes, absmax, work_MN, self.table)
            nf4.dequantise(codes, absmax, self.table, work_MN)
            torch.sub(merged_MN, work_MN, out=work_MN)
            sides = (work_MN, inverse_RS.T) if self.tall else (inverse_RS, work_MN)
            factor = scaled_product(*sides, 1 / self.alpha)
            a_RN, b_MR = self.pair(projection, factor)
            error = torch.linalg.vector_norm(work_MN.addmm_(b_MR, a_RN, alpha=-self.alpha), dtype=wide)
            self._keep(error < least, codes, absmax, factor)
            torch.minimum(least, error, out=least)
            if left:
                work_MN.copy_(merged_MN).addmm_(b_MR, a_RN, alpha=-self.alpha)
            del factor, a_RN, b_MR, sides, error

    def _keep(self, better: Tensor, *pair: Tensor) -> None:
        """Codes, magnitudes and factor in place of those that are stored, where they are better."""
        for kept, new in zip((*self._stored("weight"), self.factor), pair, strict=True):
            kept.copy_(torch.where(better, new, kept))


def pseudoinverse(p_RS: Tensor) -> Tensor:
    """(P P^T)^-1 P, (R, S): the transpose of P^+, of a P with full row rank. In fp32 at least."""
    wide_RS = p_RS.to(torch.promote_types(p_RS.dtype, torch.float32))
    gram_RR = wide_RS @ wide_RS.T
    gram_RR.diagonal().add_(RIDGE)
    lower_RR = torch.linalg.cholesky_ex(gram_RR).L
    del gram_RR
    return torch.cholesky_solve(wide_RS, lower_RR).to(p_RS.dtype)


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


class LoQTOptimizer(Periodic, FusedAdamW):
    """AdamW over factors, embeddings, head and norms; on schedule, or when asked, every layer's update."""

    def __init__(self, model: nn.Module, method: LoQT, layers: list[LoQTLinear], table: Tensor) -> None:
        anchors = [layer.anchor for layer in layers]
        apart = set(anchors)
        params = [p for p in model.parameters() if p.requires_grad and p not in apart]
        super().__init__(params, lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay)
        self.add_param_group({"params": anchors})
        self.method, self.layers, self.table = method, layers, table
        self.param_groups[0]["updates"] = 0  # in a parameter group, so that a state dict carries it

    def update(self) -> None:
        counters = self.param_groups[0]
        self.update_group(counters, counters["lr"])
        for layer in self.layers:
            if layer.anchor.grad is not None:
                layer.update(known_rank(self.method.name, self.method.rank), self.method.iterations)
                layer.updating = False
                self._state(layer.factor)  # from the first step on, as in the repository, although it is not updated
        counters["updates"] += 1
        if self.is_due(counters["updates"]):
            self.request_refresh()

    def is_due(self, step: int) -> bool:
        return step in self.method.refresh_steps(step + 1)

    def request_refresh(self) -> None:
        """Make the next forward, and with it the next step, one that updates: its gradients are of full rank."""
        for layer in self.layers:
            layer.updating = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        due = self.is_due(self.param_groups[0]["updates"])
        for layer in self.layers:
            layer.updating = due


@dataclass(frozen=True, slots=True)
class LoQT(Method):
    """Quantised weights with one trained thin factor each, and a new subspace at ever longer intervals."""

    name: ClassVar[str] = "loqt"
    paper: ClassVar[str] = "arXiv:2405.16528"

    rank: int | None = setting(
        None,
        "rank R of the projections; default a quarter of the smallest side, <= 256",
        least=1,
        papers="128/256/256/512 for 60m/130m/350m/1b; 1024 for 7b",
    )
    update_gap: int = setting(100, "shortest gap between updates", least=1, papers="100")
    psi: float = setting(1.2, "gap number k grows by int(psi^k)", least=1, papers="1.2; 1.15 for 7b")
    alpha: float = setting(0.5, "factor on the product, not divided by the rank", above=0, papers="0.5")
    iterations: int = setting(5, "rounds of compensating the quantisation's error; 0: none", least=0, papers="5")
    lr: float = setting(0.01, "learning rate", above=0, papers="0.01")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-6, "added to the root of the second moment", above=0, papers="1e-6")
    weight_decay: float = setting(0.0, "decoupled weight decay, on what is trained", least=0, papers="0")

    def bind(self, weights: Iterable[Weight]) -> Self:
        return dataclasses.replace(self, rank=bound_rank(self.name, self.rank, weights))

    def prepare(self, model: nn.Module) -> LoQTOptimizer:
        method = self.bind(weight for weight, _ in named_weights(model))
        rank = known_rank(self.name, method.rank)
        table = nf4.pairs(next(model.parameters()).device)
        replace_matrices(model, lambda _, linear: LoQTLinear(linear, rank, self.alpha, table))
        layers = [module for module in model.modules() if isinstance(module, LoQTLinear)]
        return LoQTOptimizer(model, method, layers, table)

    def shared(self) -> int:
        """The table of NF4, (256, 2) fp32."""
        return nf4.PAIRS_BYTES

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        steps: list[int] = []
        step = 0
        while step < horizon:
            growth = int(self.psi ** len(steps)) if steps else 0
            steps.append(step)
            step += self.update_gap + growth
        return steps

    def formula(self, weight: Weight) -> Footprint:
        """Of a treated matrix, S and L its shorter and longer side: q(W), 36 bytes for each 64 of M N elements + q(P),
        the same of R S + the factor (R, L) + one element that anchors the full-rank gradient; gradient of the factor,
        or in an update step of W (M, N); step () fp32 + exp_avg + exp_avg_sq of the factor. Nothing is saved. In
        forward and backward W (M, N) in passing, and scratch of dequantising it: 6 bytes an element, of at most 2^22
        at once. Once for all layers: the table of NF4, (256, 2) fp32. The repository's double quantisation (off) would
        make q(W) 33 bytes for each 64 elements.
        """
        if not weight.is_matrix:
            return AdamW().formula(weight)
        rank, e, numel = known_rank(self.name, self.rank), weight.itemsize, weight.numel
        low, factor = rank * min(weight.shape), rank * max(weight.shape) * e
        return Footprint(
            param=nf4.nbytes(numel) + nf4.nbytes(low) + factor + e,
            grad=factor,
            refresh_grad=weight.nbytes,
            optimizer_state=2 * factor + STEP_BYTES,
            refresh=update_bytes(weight, rank, self.iterations),
            backward=QuantisedBackward(
                weight=weight.nbytes,
                projection=low * e,
                stored=nf4.nbytes(numel),
                hidden=rank * e,
                from_weight=nf4.dequantise_scratch(numel),
                from_projection=nf4.dequantise_scratch(low),
                to_weight=nf4.quantise_scratch(numel),
            ),
        )
