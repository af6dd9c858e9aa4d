"""DoRA: a weight's direction is trained through a low-rank adapter, the length of each of its rows on its own.

Liu et al. 2024, arXiv:2402.09353; follows PEFT 0.21 (use_dora=True): y = m V x / ||V||, V = W + s B A, s = alpha / R,
with one magnitude m and one norm for each output row, m = ||W|| at the start, and the norm taken as a constant in
backward (section 4.3). A, B and AdamW as in `lora`.
Shapes: a weight is (M, N); R is the rank, A is (R, N) and B is (M, R), m and the norms are (M,); T tokens.

No (M, N) tensor is made in a step. With ||W_i||^2 kept (it changes at a merge alone), row i of V has
    ||V_i||^2 = ||W_i||^2 + (2 s W A^T + s^2 B A A^T)_i . B_i
which takes (M, R) and (R, R): R (M N + R (M + N)) multiply-adds a forward, R / T of the plain layer's. The products are
rounded to the parameter dtype, their sum is fp32 (fp64 for fp64 weights), and the norm is rounded to the parameter
dtype as PEFT's is, so that m / ||V|| is exactly 1 at the start.

What differs, and what to know:
* PEFT makes eye(N) (N, N), from it B A (M, N), and W + s B A (M, N), in every forward; computes m / ||V|| - 1 times
  the base layer's output and adds; and keeps the adapters of a bf16 model in fp32 (see `lora`).
* The gradient of m needs V x, so y before its scaling is saved as well, as PEFT's autograd does: M elements a token
  beside LoRA's R, 1.0 GiB of a 350m model at 2048 tokens in bf16. The papers' tables do not count it.
* "Approximations may be all you need" writes the norm "across each column" and m (1, M); PEFT's rows are those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memprof.method import STEP, Footprint, Weight, known_rank
from memprof.methods.adamw import STEP_BYTES, AdamW
from memprof.methods.lora import LoRA, LoRALinear
from memprof.methods.low_rank import factor_bytes
from memprof.walk import LinearWalk

NORM_ITEMSIZE = 4
"""bytes: squared norms are kept in fp32, in fp64 for fp64 weights"""


def row_norms(weight_MN: Tensor, norm_sq_M: Tensor, a_RN: Tensor, b_MR: Tensor, scaling: float) -> Tensor:
    """||W_i + s (B A)_i|| of every row i, (M,), from ||W_i||^2 (M,). Scratch: (M, R) and (R, R)."""
    inner_MR = weight_MN @ a_RN.T
    inner_MR.addmm_(b_MR, a_RN @ a_RN.T, beta=2 * scaling, alpha=scaling**2)
    change_M = inner_MR.mul_(b_MR).sum(dim=1, dtype=norm_sq_M.dtype)
    tiny = torch.finfo(norm_sq_M.dtype).tiny  # a row of zeros has a magnitude of zero and may be divided by this
    return change_M.add_(norm_sq_M).clamp_min_(tiny).sqrt_()


class ScaledProduct(torch.autograd.Function):
    """y = c * (W x + s B (A x)), c = m / norm; gradients of x, A, B and m. The norm is a constant, W is frozen.

    Saves h = A x (T, R), the unscaled y (T, M) and the norm (M,), besides x and parameters.
    """

    @staticmethod
    def forward(ctx: Any, x_TN: Tensor, weight_MN: Tensor, a_RN: Tensor, b_MR: Tensor, magnitude_M: Tensor,
                norm_M: Tensor, scaling: float) -> Tensor:  # fmt: skip
        h_TR = x_TN @ a_RN.T
        y_TM = (x_TN @ weight_MN.T).addmm_(h_TR, b_MR.T, alpha=scaling)
        ctx.save_for_backward(x_TN, weight_MN, a_RN, b_MR, magnitude_M, norm_M, h_TR, y_TM)
        ctx.scaling = scaling
        return y_TM * (magnitude_M / norm_M).to(y_TM.dtype)

    @staticmethod
    def backward(ctx: Any, grad_TM: Tensor) -> tuple[Tensor | None, ...]:
        x_TN, weight_MN, a_RN, b_MR, magnitude_M, norm_M, h_TR, y_TM = ctx.saved_tensors
        scaled_TM = grad_TM * y_TM
        grad_m = scaled_TM.sum(dim=0).to(magnitude_M.dtype).div_(norm_M)
        torch.mul(grad_TM, (magnitude_M / norm_M).to(grad_TM.dtype), out=scaled_TM)
        grad_h = (scaled_TM @ b_MR).mul_(ctx.scaling)
        grad_b = (scaled_TM.T @ h_TR).mul_(ctx.scaling)
        grad_a = grad_h.T @ x_TN
        grad_x = (scaled_TM @ weight_MN).addmm_(grad_h, a_RN) if ctx.needs_input_grad[0] else None
        return grad_x, None, grad_a, grad_b, grad_m, None, None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledProductBackward:
    """How autograd goes back through `ScaledProduct`: one node, all of whose gradients are there when it returns."""

    output: int
    """bytes of the output for one token"""
    hidden: int
    """bytes of h = A x for one token"""

    def __call__(self, layer: LinearWalk) -> None:
        scaled = layer.tokens * (self.output + self.hidden)
        pending = layer.grad if layer.walk.accumulating or layer.walk.updating else 0
        layer.at("gradients of y and h", extra=scaled)
        layer.at("gradients of x, A, B, m", grad=layer.grad - pending, extra=layer.grad_input + pending)
        layer.at("freed", extra=-scaled - layer.grad_output, activation=-layer.saved - layer.frees)
        layer.join()
        layer.at("gradients added", extra=-pending)


class DoRALinear(LoRALinear):
    """y = m (W x + scaling B (A x)) / ||W + scaling B A||, in the place of a linear layer whose W it keeps, frozen."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(linear, rank, alpha)
        self.magnitude = nn.Parameter(linear.weight.new_empty(self.out_features))
        dtype = torch.promote_types(linear.weight.dtype, torch.float32)
        self.register_buffer("norm_sq", linear.weight.new_empty(self.out_features, dtype=dtype))
        self.norm_sq: Tensor
        self.reset_magnitude()

    @torch.no_grad()
    def reset_magnitude(self) -> None:
        """m is the length of W's rows. On a CPU the norm of a bf16 W makes an fp32 copy of it inside its kernel."""
        norm_M = torch.linalg.vector_norm(self.weight, dim=1, dtype=self.norm_sq.dtype)
        self.magnitude.copy_(norm_M)
        self.norm_sq.copy_(norm_M.square_())

    @torch.no_grad()
    def norms(self, weight_MN: Tensor, a_RN: Tensor, b_MR: Tensor) -> Tensor:
        """||V|| by rows, rounded as m is, so that m / ||V|| is 1 at the start."""
        return row_norms(weight_MN, self.norm_sq, a_RN, b_MR, self.scaling).to(self.magnitude.dtype)

    def adapter(self) -> list[Tensor]:
        return [*super().adapter(), self.magnitude]

    @torch.no_grad()
    def merge_(self) -> None:
        """W = m V / ||V|| in place, m the length of its rows, A and B afresh: the same function, up to rounding."""
        a_RN, b_MR = self.lora_A.weight, self.lora_B.weight
        scale_M = self.magnitude / self.norms(self.weight, a_RN, b_MR)
        self.weight.addmm_(b_MR, a_RN, alpha=self.scaling).mul_(scale_M[:, None])
        del scale_M
        self.reset_adapter()
        self.reset_magnitude()

    def forward(self, x: Tensor) -> Tensor:
        tensors = [x.flatten(end_dim=-2), self.weight, self.lora_A.weight, self.lora_B.weight]
        device = x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            # Backward runs outside autocast: all that it reads must have one dtype.
            tensors = [t.to(torch.get_autocast_dtype(device)) for t in tensors]
        tokens, weight_MN, a_RN, b_MR = tensors
        norm_M = self.norms(weight_MN, a_RN, b_MR)
        y: Tensor = ScaledProduct.apply(tokens, weight_MN, a_RN, b_MR, self.magnitude, norm_M, self.scaling)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class DoRA(LoRA):
    """LoRA on the direction of every attention and MLP matrix, and a trained magnitude for each of its rows."""

    name: ClassVar[str] = "dora"
    paper: ClassVar[str] = "arXiv:2402.09353"

    def layer(self, linear: nn.Linear, rank: int) -> LoRALinear:
        return DoRALinear(linear, rank, self.alpha)

    def formula(self, weight: Weight) -> Footprint:
        """Of a treated matrix: W (M, N) frozen + A (R, N) + B (M, R) + m (M,) + squared norms of W's rows (M,) fp32;
        gradients of A, B and m; for each of the three step () fp32 + exp_avg + exp_avg_sq, of its shape. All but
        steps and squared norms in the parameter dtype. Saved per token: h (R,) + y before its scaling (M,); once:
        the norms (M,). No scratch.
        """
        if not weight.is_matrix:
            return AdamW().formula(weight)
        rank, (rows, _), e = known_rank(self.name, self.rank), weight.shape, weight.itemsize
        trained = factor_bytes(weight, rank) + rows * e
        return Footprint(
            param=weight.nbytes + trained + rows * max(NORM_ITEMSIZE, e),
            frozen=weight.nbytes + rows * max(NORM_ITEMSIZE, e),
            grad=trained,
            optimizer_state=2 * trained + 3 * STEP_BYTES,
            trained=3,
            parts={STEP: 3 * STEP_BYTES},
            saved_per_token=(rank + rows) * e,
            saved=rows * e,
            backward=ScaledProductBackward(output=rows * e, hidden=rank * e),
        )


def merge_bytes(weight: Weight, rank: int) -> int:
    """The worst of two instants of `row_norms` in a merge, e the itemsize and w = 4 bytes (8 for fp64):

    W A^T (M, R) e + A A^T (R, R) e
    W A^T (M, R) e + norms (M,) w

    In bf16 on a CPU the norm of a row, too, is computed from a copy of W inside its kernel.
    """
    rows, e = weight.shape[0], weight.itemsize
    return e * rank * rows + max(e * rank**2, rows * max(NORM_ITEMSIZE, e))
