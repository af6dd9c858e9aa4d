"""Hugging Face's PEFT: LoRA, DoRA, PiSSA, and OLoRA, which ReLoQRa's preserving reading is before its first merge.

PEFT's layers in the same model under torch's own AdamW; embeddings, head and norms are trained as well.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, effective_weights, small_model, trained
from memprof.method import named_weights
from memprof.methods.dora import DoRA
from memprof.methods.lora import LoRA
from memprof.methods.pissa import PiSSA
from memprof.methods.reloqra import ReLoQRa

METHODS: dict[str, LoRA] = {
    method.name: method
    for method in (
        LoRA(rank=8, lr=1e-3),
        DoRA(rank=8, lr=1e-3),
        PiSSA(rank=8, lr=1e-3),
        ReLoQRa(rank=8, lr=1e-3, reading="preserving"),
    )
}
CONFIG: dict[str, dict[str, object]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "reloqra": {"init_lora_weights": "olora"},
}


def adapted(model: nn.Module, method: LoRA) -> None:
    """Give `model` PEFT's adapters, in its own dtype, and train all else but the base layers' weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what importing its dependencies says
        import peft

        names = sorted({w.name.split(".")[-2] for w, _ in named_weights(model) if w.is_matrix})
        config = peft.LoraConfig(
            r=method.rank, lora_alpha=method.alpha, lora_dropout=0.0, target_modules=names, **CONFIG[method.name]
        )
        peft.inject_adapter_in_model(config, model)
    for name, p in model.named_parameters():
        p.requires_grad_(".base_layer." not in name)


@torch.no_grad()
def copy_random(ours: nn.Module, theirs: nn.Module) -> None:
    """The A that ours has drawn."""
    for name, p in theirs.named_parameters():
        if ".lora_A." in name:
            p.copy_(ours.get_parameter(name.replace(".default.", ".")))


def beside(method: LoRA) -> tuple[Weights, Trainer, Trainer]:
    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    names = [weight.name for weight, _ in named_weights(ours)]
    optimizer = method.prepare(ours)
    adapted(theirs, method)
    if "init_lora_weights" not in CONFIG[method.name]:
        copy_random(ours, theirs)
    reference = torch.optim.AdamW(
        [p for p in theirs.parameters() if p.requires_grad],
        lr=method.lr,
        betas=method.betas,
        eps=method.eps,
        weight_decay=method.weight_decay,
    )
    before = effective_weights(theirs, names)
    return before, trained(ours, optimizer, names), trained(theirs, reference, names)


COMPARISONS = tuple(
    Comparison(
        method=f"{name}:rank=8",
        oracle="peft",
        start=lambda method=method: beside(method),  # type: ignore[misc]
        steps=12,
        dtype="fp32",
        limit=1e-4,
        note="its OLoRA: the preserving reading, before the first merge" if name == "reloqra" else "",
    )
    for name, method in METHODS.items()
)
