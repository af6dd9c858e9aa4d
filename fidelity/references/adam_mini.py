"""The Adam-mini authors' own adam_mini 1.1."""

from __future__ import annotations

import torch

from fidelity.compare import Comparison
from fidelity.problem import side_by_side
from fidelity.twins.adam_mini import METHOD
from memprof.llama import LlamaForCausalLM


def reference(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    import adam_mini

    optimizer: torch.optim.Optimizer = adam_mini.Adam_mini(
        model.named_parameters(),
        lr=METHOD.lr,
        betas=METHOD.betas,
        eps=METHOD.eps,
        weight_decay=METHOD.weight_decay,
        dim=model.config.hidden_size,
        n_heads=model.config.num_attention_heads,
        n_kv_heads=model.config.num_key_value_heads,
        verbose=False,
    )
    return optimizer


COMPARISONS = (
    Comparison(
        method="adam-mini",
        oracle="adam-mini",
        start=lambda: side_by_side(METHOD, reference),
        steps=12,
        dtype="fp32",
        limit=1e-4,
    ),
)
