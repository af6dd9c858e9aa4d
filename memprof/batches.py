"""Where a step's tokens come from: a stream of its own for each method, the same for all of them.

A method that draws random numbers must not change the data of the next step, so a stream has its own generator.
Shapes: a micro-batch is (B, T); W is the number of windows of T + 1 bytes in a text.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from memprof.scenario import Scenario
from memprof.text import Text

Batches = Iterator[tuple[Tensor, Tensor]]
"""ids and labels (B, T) on the device, micro-batch by micro-batch, without end"""
STRIDE = 17
"""labels are ids plus this, modulo the alphabet: random-looking, and learnable"""
ALPHABET = 256
"""distinct synthetic tokens, so that ten steps see each of them often and a loss can tell who learns"""


def batches(scenario: Scenario, device: torch.device) -> Batches:
    """The scenario's stream of micro-batches: the same tokens for every method with its seed."""
    if scenario.text is not None:
        return text_batches(scenario, scenario.text, device)
    generator = torch.Generator(device).manual_seed(scenario.seed)
    return synthetic_batches(scenario, device, generator)


def synthetic_batches(scenario: Scenario, device: torch.device, generator: torch.Generator | None = None) -> Batches:
    """Without end; from torch's own generator of the device where none is given."""
    known = min(scenario.shape.vocab_size, ALPHABET)
    while True:
        yield synthetic_batch(scenario.batch_size, scenario.seq_len, known, device, generator)


def synthetic_batch(
    batch: int, seq_len: int, vocab: int, device: torch.device, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Ids and labels (B, T) of a sequence task that a model can learn: each token is the one before it plus STRIDE."""
    start_B1 = torch.randint(vocab, (batch, 1), device=device, generator=generator)
    ids_BT = start_B1 + torch.arange(seq_len, device=device).mul_(STRIDE)
    ids_BT.remainder_(vocab)
    return ids_BT, torch.add(ids_BT, STRIDE).remainder_(vocab)


def text_batches(scenario: Scenario, text: Text, device: torch.device) -> Batches:
    """Without end: windows of the text at offsets that the scenario's seed draws, the same on every device."""
    generator = torch.Generator().manual_seed(scenario.seed)
    bytes_N = torch.frombuffer(text.content(), dtype=torch.uint8)
    return _windows(bytes_N.unfold(0, scenario.seq_len + 1, 1), scenario.batch_size, device, generator)


def _windows(windows_WT: Tensor, batch: int, device: torch.device, generator: torch.Generator) -> Batches:
    while True:
        yield text_batch(windows_WT, batch, device, generator)


def text_batch(
    windows_WT: Tensor, batch: int, device: torch.device, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Ids and labels (B, T) out of a text's windows (W, T + 1): the labels are the bytes one further.

    On the device they are two int64 storages and nothing beside, as the synthetic ones that stay alive.
    """
    start_B = torch.randint(len(windows_WT), (batch,), generator=generator)
    window_BT = windows_WT[start_B]
    return _onto(window_BT[:, :-1], device), _onto(window_BT[:, 1:], device)


def _onto(bytes_BT: Tensor, device: torch.device) -> Tensor:
    """As int64 on the device. A GPU copies from pinned memory while the host goes on to launch the step.

    torch gives a pinned block out again only when the copy from it is over.
    """
    tokens_BT = torch.empty(bytes_BT.shape, dtype=torch.int64, pin_memory=device.type == "cuda").copy_(bytes_BT)
    return tokens_BT.to(device, non_blocking=True)
