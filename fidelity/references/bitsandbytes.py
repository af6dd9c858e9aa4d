"""bitsandbytes' AdamW8bit on a CPU, with codes by its own exhaustive search.

Its CPU kernel for fp32 gives a few first moments in a thousand and second moments in a hundred a code that is not the
nearest (CUDA's does not); its search for other types, which fp64 takes, gives the nearest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot
from fidelity.twins.adamw_8bit import METHOD


@contextmanager
def nearest_codes() -> Iterator[None]:
    """While open, its optimizer quantises moments as it would fp64 ones."""
    from bitsandbytes.backends.cpu import ops

    fast = ops._quant_blockwise_fp32_direct

    def exact(moment: Tensor, numbers: Tensor, absmax: Tensor, codes: Tensor, blocksize: int) -> None:
        out, largest = torch.ops.bitsandbytes.quantize_blockwise(moment.double(), numbers, blocksize)
        codes.copy_(out)
        absmax.copy_(largest)

    ops._quant_blockwise_fp32_direct = exact
    try:
        yield
    finally:
        ops._quant_blockwise_fp32_direct = fast


def start() -> tuple[Weights, Trainer, Trainer]:
    import bitsandbytes

    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    reference = bitsandbytes.optim.AdamW8bit(theirs.parameters(), **METHOD.hyperparameters())
    return snapshot(ours), fed(ours, METHOD.prepare(ours)), fed(theirs, reference, nearest_codes)


COMPARISONS = (
    Comparison(method="adamw-8bit", oracle="bitsandbytes", start=start, steps=12, dtype="fp32",
               limit=1e-3, note="codes by its exhaustive search; by its CPU kernel, whose are not the nearest, 5e-3"),
)  # fmt: skip
