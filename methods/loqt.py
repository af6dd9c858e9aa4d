"""LoQT: quantised weights, and beside each a product of a fixed, quantised projection with one trained thin factor.

Loeschcke et al. 2024, arXiv:2405.16528; follows sebulo/LoQT (375b41a) with --quantize_w 4bit and
--quantize_projection_matrix 4bit, as its scripts run it. Shapes: a weight is (M, N); S and L are its shorter and longer
side; R is the rank.
y = q(W) x + alpha B A x, alpha not divided by R. Where M >= N the projection is A (R, N) and B (M, R) is trained; where
M < N it is B (M, R), and A (R, N) is trained. Weight and projection are NF4 in blocks of 64 (nf4.py). The layer is
in loqt_linear.py, the bytes that it takes in passing in loqt_bytes.py.

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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from memprof.method import STEP, Footprint, RankedMethod, Weight, known_rank, named_weights, replace_matrices
from memprof.methods.adamw import STEP_BYTES, AdamW
from memprof.methods.parts import nf4
from memprof.methods.parts.fused_adamw import FusedAdamW
from memprof.methods.parts.loqt_bytes import QuantisedBackward, update_bytes
from memprof.methods.parts.loqt_linear import LoQTLinear
from memprof.optimizer import Periodic
from memprof.setting import setting


class LoQTOptimizer(Periodic, FusedAdamW):
    """AdamW over factors, embeddings, head and norms; on schedule, or when asked, every layer's update."""

    takes_groups = False

    def __init__(self, model: nn.Module, method: LoQT, layers: list[LoQTLinear], table: Tensor) -> None:
        anchors = [layer.anchor for layer in layers]
        apart = set(anchors)
        params = [p for p in model.parameters() if p.requires_grad and p not in apart]
        groups = [{"params": params}, {"params": anchors}]
        super().__init__(groups, lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay)
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
class LoQT(RankedMethod):
    """Quantised weights with one trained thin factor each, and a new subspace at ever longer intervals."""

    name: ClassVar[str] = "loqt"
    paper: ClassVar[str] = "arXiv:2405.16528"
    treats: ClassVar[str] = "attention and MLP matrices; the rest is trained by AdamW"

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
            frozen=nf4.nbytes(numel) + nf4.nbytes(low) + e,
            grad=factor,
            refresh_grad=weight.nbytes,
            optimizer_state=2 * factor + STEP_BYTES,
            parts={STEP: STEP_BYTES},
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
