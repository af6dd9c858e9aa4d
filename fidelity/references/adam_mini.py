"""The Adam-mini authors' own adam_mini 1.1."""

from __future__ import annotations

import torch

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot
from fidelity.twins.adam_mini import METHOD


def start() -> tuple[Weights, Trainer, Trainer]:
    import adam_mini

    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    reference = adam_mini.Adam_mini(
        theirs.named_parameters(),
        lr=METHOD.lr,
        betas=METHOD.betas,
        eps=METHOD.eps,
        weight_decay=METHOD.weight_decay,
        dim=theirs.config.hidden_size,
        n_heads=theirs.config.num_attention_heads,
        n_kv_heads=theirs.config.num_key_value_heads,
        verbose=False,
    )
    return snapshot(ours), fed(ours, METHOD.prepare(ours)), fed(theirs, reference)


COMPARISONS = (Comparison(method="adam-mini", oracle="adam-mini", start=start, steps=12, dtype="fp32", limit=1e-4),)
