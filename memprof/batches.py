"""Where a step's tokens come from: a stream of its own for each method, the same for all of them.

A method that draws random numbers must not change the data of the next step, so a stream has its own generator.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from memprof.scenario import Scenario

Batches = Iterator[tuple[Tensor, Tensor]]
"""ids and labels (B, T) on the device, micro-batch by micro-batch, without end"""
STRIDE = 17
"""labels are ids plus this, modulo the vocabulary: random-looking, and learnable"""


def batches(scenario: Scenario, device: torch.device) -> Batches:
    """The scenario's stream of micro-batches: the same tokens for every method with its seed."""
    generator = torch.Generator(device).manual_seed(scenario.seed)
    return synthetic_batches(scenario, device, generator)


def synthetic_batches(scenario: Scenario, device: torch.device, generator: torch.Generator | None = None) -> Batches:
    """Without end; from torch's own generator of the device where none is given."""
    while True:
        yield synthetic_batch(scenario.batch_size, scenario.seq_len, scenario.shape.vocab_size, device, generator)


def synthetic_batch(
    batch: int, seq_len: int, vocab: int, device: torch.device, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Ids and labels (B, T) of a sequence task that a model can learn: each token is the one before it plus STRIDE."""
    start_B1 = torch.randint(vocab, (batch, 1), device=device, generator=generator)
    ids_BT = start_B1 + torch.arange(seq_len, device=device).mul_(STRIDE)
    ids_BT.remainder_(vocab)
    return ids_BT, torch.add(ids_BT, STRIDE).remainder_(vocab)
