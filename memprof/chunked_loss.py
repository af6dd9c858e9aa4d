"""The language model's loss in pieces: of all the logits, those of one piece of the tokens are alive at a time.

Cross-entropy gives the gradient of a logit as soon as its token's logits are there. So forward takes the gradients of
the hidden states and of the head along, piece by piece, and backward only scales them: no logit is kept and none is
computed twice. What forward leaves is those two gradients, (N, C) and (V, C), in place of logits and hidden states.
The head's gradient is summed over the pieces in the weight's own dtype: in bf16 it is rounded once a piece.
fp16 has no room below 6e-8, and a loss scale comes too late for what forward has rounded: there the gradients wait
multiplied by `FP16_SCALE`. Letters as in llama.py; a piece has n tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from memprof.errors import MemprofError

IGNORED = -100
"""the label of a token that does not count, as in torch"""
FP16_SCALE = 2.0**12
"""a power of two, so that nothing is rounded by it; a gradient of the head overflows from 16 on"""


def chunked_cross_entropy(x_NC: Tensor, head_VC: Tensor, labels_N: Tensor, chunks: int) -> Tensor:
    """Mean cross-entropy of x W^T over the labels that count, in fp32 at least, in `chunks` pieces that differ by one
    token at most."""
    tokens = len(labels_N)
    if not 1 <= chunks <= tokens:
        raise MemprofError(f"loss_chunks {chunks} is out of range; {tokens} tokens make 1 to {tokens} pieces")
    trains = torch.is_grad_enabled()
    return ChunkedCrossEntropy.apply(x_NC, head_VC, labels_N[:, None], chunks, trains)  # type: ignore[no-any-return, no-untyped-call]


class ChunkedCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients, which `ctx` holds, backward multiplies them in place by that of the loss."""

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, head_VC: Tensor, labels_N1: Tensor, chunks: int, trains: bool) -> Tensor:
        count = (labels_N1 != IGNORED).sum(dtype=torch.promote_types(x_NC.dtype, torch.float32))
        grad_x = torch.empty_like(x_NC) if trains and ctx.needs_input_grad[0] else None
        grad_head = torch.zeros_like(head_VC) if trains and ctx.needs_input_grad[1] else None
        ctx.gradients = grad_x, grad_head
        ctx.scale = _scale(head_VC)
        loss = torch.zeros_like(count)
        into = [None] * chunks if grad_x is None else grad_x.tensor_split(chunks)
        pieces = zip(x_NC.tensor_split(chunks), labels_N1.tensor_split(chunks), into, strict=True)
        for x_nC, labels_n1, grad_nC in pieces:
            loss += _piece(x_nC, head_VC, labels_n1, count, grad_nC, grad_head)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise MemprofError("a loss in chunks goes backward once: its gradients are scaled in place")
        (grad_x, grad_head), ctx.gradients = ctx.gradients, None
        factor = grad if ctx.scale == 1 else grad / ctx.scale
        return _scaled(grad_x, factor), _scaled(grad_head, factor), None, None, None


def _scale(head_VC: Tensor) -> float:
    return FP16_SCALE if head_VC.dtype == torch.float16 else 1


def _scaled(gradient: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if gradient is None else gradient.mul_(factor)


def _piece(
    x_nC: Tensor, head_VC: Tensor, labels_n1: Tensor, count: Tensor, grad_nC: Tensor | None, grad_head: Tensor | None
) -> Tensor:
    """A piece's share of the mean over `count` labels. Its gradients go to `grad_nC` and are added to `grad_head`.

    One (n, V) buffer is in turn the logits, their exponentials and the gradient; beside it, in bf16 and fp16, stand the
    logits before they are widened and the gradient after it is narrowed.
    """
    p_nV = (x_nC @ head_VC.T).to(count.dtype)
    p_nV.sub_(p_nV.amax(-1, keepdim=True))
    share_n1 = (labels_n1 != IGNORED).to(count.dtype).div_(count)
    index_n1 = labels_n1.masked_fill(labels_n1 == IGNORED, 0)
    chosen_n1 = p_nV.gather(1, index_n1)
    total_n1 = p_nV.exp_().sum(-1, keepdim=True)
    loss = (total_n1.log() - chosen_n1).mul_(share_n1).sum()
    if grad_nC is None and grad_head is None:
        return loss
    share_n1.mul_(_scale(head_VC))
    p_nV.mul_(total_n1.reciprocal_().mul_(share_n1)).scatter_add_(1, index_n1, share_n1.neg_())
    grad_nV = p_nV.to(head_VC.dtype)
    del p_nV
    if grad_nC is not None:
        torch.mm(grad_nV, head_VC, out=grad_nC)
    if grad_head is not None:
        grad_head.addmm_(grad_nV.T, x_nC)
    return loss
