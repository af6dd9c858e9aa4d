"""Bytes of a step's activations, tensor by tensor, from shapes alone. Letters as in instants.py."""

from __future__ import annotations

from dataclasses import dataclass

from memprof.kernels import KERNELS, Kernels
from memprof.scenario import Scenario

FP32 = 4
INT64 = 8


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a scenario's activations, each named as the tensor it is."""

    tokens: int
    hidden: int
    """(N, C)"""
    rstd: int
    """(N, 1) fp32"""
    query: int
    """(N, A)"""
    key: int
    """(N, K)"""
    expanded: int
    """(N, K) or (N, A), as attention saves keys and values"""
    mlp: int
    """(N, F)"""
    lse: int
    """log-sum-exp of each query and head, fp32, and the random state beside it"""
    rotary: int
    """cos and sin, (T, 1, D) each"""
    logits: int
    """(N, V)"""
    log_softmax: int
    """(N, V) fp32"""
    norm_scratch: int
    piece: int
    """most that a piece of the loss takes beside what it reads and writes; 0 where the loss is taken at once"""

    @classmethod
    def of(cls, scenario: Scenario) -> Sizes:
        shape, e, n = scenario.shape, scenario.itemsize, scenario.tokens
        kernels = KERNELS[scenario.kernels]
        query, key = n * shape.attention_size * e, n * shape.kv_size * e
        return cls(
            tokens=n,
            hidden=n * shape.hidden_size * e,
            rstd=n * FP32,
            query=query,
            key=key,
            expanded=query if kernels.expands_kv else key,
            mlp=n * shape.intermediate_size * e,
            lse=_log_sum_exp(scenario, kernels),
            rotary=2 * scenario.seq_len * shape.head_dim * e,
            logits=n * shape.vocab_size * e,
            log_softmax=n * shape.vocab_size * FP32,
            norm_scratch=_norm_scratch(scenario, kernels),
            piece=_piece(scenario) if scenario.loss_chunks > 1 else 0,
        )

    @property
    def norm(self) -> int:
        """What a norm saves beyond its output: its input and the reciprocal."""
        return self.hidden + self.rstd

    @property
    def layer(self) -> int:
        """A layer's activations: two norms and their outputs, q k v, attention's output, four MLP tensors."""
        attention = self.query + 2 * self.expanded + self.query + self.lse
        return 2 * (self.norm + self.hidden) + attention + 4 * self.mlp

    @property
    def head(self) -> int:
        """Final norm, its output, the log-softmax, and the count of labels that the loss keeps.

        A loss in pieces keeps neither of the last two, and its output's gradient in place of the norm's output.
        """
        return self.norm + self.hidden + (0 if self.piece else self.log_softmax + FP32)

    @property
    def step(self) -> int:
        """What the loop itself holds: ids, labels, the loss."""
        return 2 * INT64 * self.tokens + FP32


def _log_sum_exp(scenario: Scenario, kernels: Kernels) -> int:
    positions = -(-scenario.seq_len // kernels.lse_multiple) * kernels.lse_multiple
    return FP32 * scenario.batch_size * scenario.shape.num_attention_heads * positions + kernels.rng_bytes


def _norm_scratch(scenario: Scenario, kernels: Kernels) -> int:
    """fp32 tensors (N, C), less one in fp32 where the gradient needs no copy; and the mean of each token, (N, 1)."""
    if not kernels.norm_scratch:
        return 0
    tensors = kernels.norm_scratch - (scenario.itemsize == FP32)
    return (tensors * scenario.shape.hidden_size + 1) * scenario.tokens * FP32


def _piece(scenario: Scenario) -> int:
    """The worst of two instants of the first piece's n tokens, none of which has more, beside the count () fp32:

    exponentials (n, V) fp32 + the label's logit, their sum, its logarithm, the loss of each token, (n, 1) fp32
    gradient (n, V) fp32 + the same, narrow + the label's logit, the sum, (n, 1) fp32 + loss of the piece () fp32

    and in both the labels as indices (n, 1) int64 + each one's share of the mean (n, 1) fp32.
    """
    n = -(-scenario.tokens // scenario.loss_chunks)
    logits = n * scenario.shape.vocab_size
    narrow = logits * scenario.itemsize + 2 * n * FP32 + FP32 if scenario.itemsize < FP32 else 0
    return FP32 + logits * FP32 + n * (INT64 + FP32) + max(4 * n * FP32, narrow)
