"""Defaults that are published values: each is what its paper or its authors' code runs with.

Where a default departs from its source on purpose (a learning rate, LoRA's alpha per size) it has no row here.
"""

from __future__ import annotations

import pytest

from memprof.catalogue import METHODS
from memprof.llama import build_model
from memprof.methods.muon import Muon

PUBLISHED: list[tuple[str, str, object, str]] = [
    ("adamw", "betas", (0.9, 0.999), "torch.optim.AdamW"),
    ("adamw", "eps", 1e-8, "torch.optim.AdamW"),
    ("adamw", "weight_decay", 0.01, "torch.optim.AdamW"),
    ("adafactor", "beta1", None, "transformers 5.23.0, Adafactor"),
    ("adafactor", "decay_rate", -0.8, "transformers 5.23.0, Adafactor"),
    ("adafactor", "eps1", 1e-30, "transformers 5.23.0, Adafactor: eps[0]"),
    ("adafactor", "eps2", 1e-3, "transformers 5.23.0, Adafactor: eps[1]"),
    ("adafactor", "clip_threshold", 1.0, "transformers 5.23.0, Adafactor"),
    ("adafactor", "scale_parameter", False, "GaLore's torchrun_main.py"),
    ("came", "betas", (0.9, 0.999, 0.9999), "came_pytorch 0.1.3"),
    ("came", "eps1", 1e-30, "came_pytorch 0.1.3: eps[0]"),
    ("came", "eps2", 1e-16, "came_pytorch 0.1.3: eps[1]"),
    ("came", "clip_threshold", 1.0, "came_pytorch 0.1.3"),
    ("adam-mini", "lr", 1e-3, "adam_mini 1.1.1"),
    ("adam-mini", "betas", (0.9, 0.999), "adam_mini 1.1.1"),
    ("adam-mini", "eps", 1e-8, "adam_mini 1.1.1"),
    ("adam-mini", "weight_decay", 0.0, "adam_mini 1.1.1"),
    ("galore", "scale", 0.25, "arXiv:2403.03507, C4 runs"),
    ("galore", "update_gap", 200, "arXiv:2403.03507, C4 runs"),
    ("galore", "lr", 0.01, "arXiv:2403.03507, C4 runs"),
    ("galore", "side", "std", "galore_torch 1.0: proj_type"),
    ("galore", "betas", (0.9, 0.999), "galore_torch 1.0, AdamW"),
    ("galore", "eps", 1e-6, "galore_torch 1.0, AdamW"),
    ("galore", "weight_decay", 0.0, "galore_torch 1.0, AdamW"),
    ("galore-dynamics", "update_gap", 200, "Approximations may be all you need: first gap"),
    ("galore-dynamics", "gap_growth", 1.5, "Approximations may be all you need"),
    ("galore-dynamics", "largest_gap", 2500, "Approximations may be all you need"),
    ("galore-ef", "feedback", 0.1, "Approximations may be all you need: best alone"),
    ("galore-dynamics-ef", "feedback", 0.2, "Approximations may be all you need: best together"),
    ("galore-mini", "approach", 3, "GaLore-mini, Approach 3"),
    ("galore-mini", "scale", 0.25, "GaLore-mini: the rest follows GaLore, C4 runs"),
    ("galore-mini", "lr", 0.01, "GaLore-mini: the rest follows GaLore, C4 runs"),
    ("galore-mini", "eps", 1e-6, "GaLore-mini: the rest follows GaLore, galore_torch 1.0"),
    ("galore-mini", "cos_threshold", 0.4, "GaLore-mini: Q-GaLore's rule, q_galore_torch 1.0"),
    ("galore-mini", "gamma", 2.0, "GaLore-mini: Q-GaLore's rule, q_galore_torch 1.0"),
    ("galore-mini", "queue_size", 5, "GaLore-mini: Q-GaLore's rule, q_galore_torch 1.0"),
    ("q-galore", "cos_threshold", 0.4, "q_galore_torch 1.0, run_pretrain.py"),
    ("q-galore", "gamma", 2.0, "q_galore_torch 1.0, run_pretrain.py: gamma_proj"),
    ("q-galore", "queue_size", 5, "q_galore_torch 1.0, run_pretrain.py"),
    ("q-galore", "proj_bits", 4, "q_galore_torch 1.0, run_pretrain.py"),
    ("q-galore", "weight_bits", 8, "q_galore_torch 1.0, run_pretrain.py"),
    ("q-galore", "group_size", 256, "q_galore_torch 1.0, run_pretrain.py: proj_group_size, weight_group_size"),
    ("q-galore", "update_gap", 200, "q_galore_torch 1.0, C4 scripts"),
    ("q-galore", "scale", 0.25, "q_galore_torch 1.0, C4 scripts"),
    ("q-galore", "inner", "adamw-8bit", "q_galore_torch 1.0, C4 scripts"),
    ("q-galore", "betas", (0.9, 0.999), "bitsandbytes, Adam8bit"),
    ("flora", "update_gap", 1000, "flora_opt 0.0.3: kappa"),
    ("flora", "eps1", 1e-30, "flora_opt 0.0.3: eps[0]"),
    ("flora", "eps2", 1e-3, "flora_opt 0.0.3: eps[1]"),
    ("flora", "decay_rate", -0.8, "flora_opt 0.0.3"),
    ("flora", "scale_parameter", True, "flora_opt 0.0.3"),
    ("lora", "alpha", 32.0, "arXiv:2403.03507, its LoRA"),
    ("relora", "alpha", 32.0, "Guitaricet/relora, torchrun_main.py"),
    ("relora", "lr", 1e-3, "Guitaricet/relora, README"),
    ("relora", "reset_every", 5000, "Guitaricet/relora, README"),
    ("relora", "restart_warmup", 100, "Guitaricet/relora, README"),
    ("relora", "prune", 0.999, "Guitaricet/relora, training_utils.py: full reset"),
    ("redora", "restart_warmup", 100, "Approximations may be all you need"),
    ("redora", "reset_every", 2500, "Approximations may be all you need"),
    ("repissa", "reset_every", 2500, "Approximations may be all you need"),
    ("reloqra", "reset_every", 10_000, "Approximations may be all you need: its best"),
    ("sltrain", "density", 0.03, "andyjm3/SLTrain"),
    ("sltrain", "lr", 3e-3, "andyjm3/SLTrain"),
    ("sltrain", "alpha", 32.0, "andyjm3/SLTrain, 60m"),
    ("loqt", "alpha", 0.5, "LoQT's repository"),
    ("loqt", "psi", 1.2, "LoQT's repository"),
    ("loqt", "update_gap", 100, "LoQT's repository"),
    ("loqt", "iterations", 5, "LoQT's repository: rounds of compensation"),
    ("microadam", "density", 0.01, "ista_daslab_optimizers 1.1.15"),
    ("microadam", "window", 10, "arXiv:2405.15593"),
    ("apollo", "scale", 1.0, "apollo_torch 1.0.3"),
    ("apollo", "scale_type", "channel", "apollo_torch 1.0.3"),
    ("apollo", "update_gap", 200, "apollo_torch 1.0.3"),
    ("apollo", "growth", 1.01, "apollo_torch 1.0.3: the norm limiter"),
    ("apollo", "lr", 0.01, "apollo_torch 1.0.3"),
    ("apollo", "eps", 1e-6, "apollo_torch 1.0.3"),
    ("apollo", "weight_decay", 0.0, "apollo_torch 1.0.3"),
    ("apollo-mini", "scale", 128.0, "apollo_torch 1.0.3"),
    ("apollo-mini", "scale_type", "tensor", "apollo_torch 1.0.3"),
    ("apollo-mini", "rank", 1, "apollo_torch 1.0.3"),
    ("fira", "scale", 1.0, "fira 1.0.2: alpha"),
    ("fira", "update_gap", 200, "fira 1.0.2"),
    ("fira", "lr", 1e-3, "fira 1.0.2"),
    ("fira", "eps", 1e-6, "fira 1.0.2"),
    ("fira", "growth", 1.01, "fira 1.0.2: the norm limiter"),
    ("lion", "lr", 1e-4, "lion_pytorch 0.2.5"),
    ("lion", "betas", (0.9, 0.99), "lion_pytorch 0.2.5"),
    ("lion", "weight_decay", 0.0, "lion_pytorch 0.2.5"),
    ("muon", "lr", 0.02, "KellerJordan, muon.py"),
    ("muon", "momentum", 0.95, "KellerJordan, muon.py"),
    ("muon", "nesterov", True, "KellerJordan, muon.py"),
    ("muon", "ns_steps", 5, "KellerJordan, muon.py"),
    ("muon", "betas", (0.9, 0.95), "KellerJordan, muon.py: the auxiliary Adam"),
    ("muon", "eps", 1e-10, "KellerJordan, muon.py: the auxiliary Adam"),
]


@pytest.mark.parametrize(("method", "field", "published", "source"), PUBLISHED, ids=lambda value: str(value))
def test_default_is_the_published_value(method: str, field: str, published: object, source: str) -> None:
    default = getattr(METHODS[method](), field)
    assert default == published, source


def test_no_default_has_two_rows() -> None:
    assert len({(method, field) for method, field, _, _ in PUBLISHED}) == len(PUBLISHED)


def test_muon_trains_what_is_no_matrix_at_the_auxiliary_rate() -> None:
    """KellerJordan, muon.py: 3e-4 for the auxiliary Adam beside 0.02, a share of 0.015."""
    model = build_model("9m", num_layers=1, vocab_size=64)
    for lr, auxiliary in ((0.02, 3e-4), (0.04, 6e-4)):
        groups = Muon(lr=lr).prepare(model).param_groups
        assert {group["matrices"]: group["lr"] for group in groups} == {True: lr, False: pytest.approx(auxiliary)}
