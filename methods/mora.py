"""MoRA: the weight is frozen and beside it a square matrix is trained, between two fixed maps that have no parameters.

Jiang et al. 2024, arXiv:2405.12130; follows kongds/MoRA (de5df31). y = W x + decompress(S compress(x)), S zero at
first. Shapes: a weight is (M, N); R is the rank of a LoRA with as many parameters, and S is (Q, Q) with
Q = int(sqrt((M + N) R) + 1/2), so its update may have rank Q, not R. Scale 1: the authors use no alpha.

`grouping` says what compress and decompress do (square_compression.py; the layer is in mora_linear.py):
* "rotation" (equation 9; type 6 in the code): x, continued from its own start to a multiple of Q, is cut into P pieces;
  piece i is turned by i as RoPE turns position i, with base 10000; S maps each; the P outputs, end to end and repeated
  or cut to M, are the update. Q is rounded down to an even number.
* "sharing": Q groups of inputs are summed, and each output of S goes to a group of outputs. Groups are cyclic (input j
  to group j mod Q; x is continued as above where Q does not divide N) or contiguous. The code's types: 1 cyclic in and
  out, 2 contiguous in and out, 3 contiguous in, cyclic out, 4 the reverse. `mora` stays with type 1, the code's
  default, which its README advises for large ranks; for small ones, rotation.

What differs in the repository: PEFT 0.9 with its fp32 adapters and dropout; and each layer keeps its own compressed
input for backward, the rotated copy (P Q) or the groups' sums (Q) of each token. Ours keeps x, which q, k, v and gate,
up share, and compresses it again in backward. Its tables of cosines and sines are (P, Q) each, ours (P, Q / 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from memprof.method import STEP, Footprint, RankedMethod, Weight, known_rank, named_weights, replace_matrices
from memprof.methods.adamw import STEP_BYTES, AdamW
from memprof.methods.parts.fused_adamw import FusedAdamW
from memprof.methods.parts.mora_linear import MoRALinear, SquareBackward
from memprof.methods.parts.square_compression import ROTATION, SHARING, round_up, square_side
from memprof.setting import setting


@dataclass(frozen=True, slots=True)
class MoRA(RankedMethod):
    """Frozen weights with a trained square matrix between fixed maps; AdamW over that, embeddings, head and norms."""

    name: ClassVar[str] = "mora"
    paper: ClassVar[str] = "arXiv:2405.12130"
    treats: ClassVar[str] = "attention and MLP matrices; the rest is trained by AdamW"

    rank: int | None = setting(
        None,
        "R of the LoRA that has as many parameters; default a quarter of the smallest side, <= 256",
        least=1,
        papers="128 in pre-training; 8, 256",
    )
    grouping: str = setting(
        ROTATION,
        "how inputs become the square's: pieces turned as by RoPE, or shared by groups",
        choices=(ROTATION, SHARING),
        papers="rotation for small ranks, sharing for large ones",
    )
    lr: float = setting(1e-3, "learning rate", above=0, papers="5e-4 in pre-training")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, on what is trained", least=0)

    def adapt(self, model: nn.Module) -> list[MoRALinear]:
        """Give every attention and MLP layer its adapter, and return the new layers."""
        rank = known_rank(self.name, self.bind(weight for weight, _ in named_weights(model)).rank)
        replace_matrices(model, lambda _, linear: MoRALinear(linear, rank, self.grouping))
        return [module for module in model.modules() if isinstance(module, MoRALinear)]

    def prepare(self, model: nn.Module) -> FusedAdamW:
        self.adapt(model)
        return FusedAdamW.of(model, self)

    def sides(self, weight: Weight) -> tuple[int, int]:
        """Q, and how wide a token is when compressed: P Q pieces that are turned, or Q sums."""
        side = square_side(weight.shape, known_rank(self.name, self.rank), self.grouping)
        return side, round_up(weight.shape[1], side) if self.grouping == ROTATION else side

    def formula(self, weight: Weight) -> Footprint:
        """Of a treated matrix: W (M, N) frozen + S (Q, Q) + with rotation two tables (P, Q / 2); gradient of S; step ()
        fp32 + exp_avg + exp_avg_sq of S. All but the step in the parameter dtype. Nothing is saved: the input is
        compressed again in backward, (P Q,) or (Q,) a token, as are the gradients on both sides of S.
        """
        if not weight.is_matrix:
            return AdamW().formula(weight)
        (rows, columns), e = weight.shape, weight.itemsize
        side, width = self.sides(weight)
        square = side**2 * e
        turns = self.grouping == ROTATION
        return Footprint(
            param=weight.nbytes + square + (width * e if turns else 0),
            frozen=weight.nbytes + (width * e if turns else 0),
            grad=square,
            optimizer_state=2 * square + STEP_BYTES,
            parts={STEP: STEP_BYTES},
            backward=SquareBackward(
                grad_v=0 if rows == width else width * e,
                copy=width * e if turns and width != columns else 0,
                u=0 if not turns and columns == side else width * e,
                grad_u=width * e,
                turned=width * e if turns else 0,
            ),
        )
