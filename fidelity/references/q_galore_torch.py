"""The Q-GaLore authors' own q_galore_torch, in pieces: projector, laziness and quantisers.

Their optimizer is bitsandbytes' and waits for a GPU in every step; around the pieces here stands torch's AdamW, as
their step has its own: it projects, steps on zeros, projects back, adds, decays, and rounds to integers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, gradients, one_sign_rule, small_model, snapshot
from fidelity.twins.q_galore import GROUP, METHOD, REFRESHES, STEPS, fed_integers
from memprof.method import named_weights
from memprof.methods.parts.q_galore_optimizer import step_seed
from memprof.methods.q_galore import QGaLore


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """While open, their random numbers are those of ours: of one generator."""
    draws = torch.Generator().manual_seed(seed)
    with mock.patch.object(torch, "rand_like", lambda x: torch.rand(x.shape, dtype=x.dtype, generator=draws)):
        yield


class Reference:
    """One matrix: its projector, its integers, and AdamW on zeros of the low-rank gradient's shape."""

    def __init__(self, method: QGaLore, weight: Tensor) -> None:
        from q_galore_torch.q_galore_adamw8bit import AdamW8bit
        from q_galore_torch.q_galore_projector import GaLoreProjector

        self.method, self.quantisers = method, AdamW8bit.__new__(AdamW8bit)
        self.projector = GaLoreProjector(
            method.rank,
            update_proj_gap=method.update_gap,
            scale=method.scale,
            quant=method.proj_bits < 16,
            group_size=GROUP,
            n_bit=method.proj_bits,
            cos_threshold=method.cos_threshold,
            gamma_proj=method.gamma,
            queue_size=method.queue_size,
        )
        self.weight = weight
        if method.weight_bits < 16:
            self._keep(self.quantisers._quantize(weight, q_group_size=GROUP))
        self.zeros: Tensor | None = None

    def step(self, grad: Tensor, number: int, around: Callable[[], AbstractContextManager[None]]) -> Tensor:
        with around():
            low = self.projector.project(grad, number)
        if self.zeros is None:
            self.zeros = torch.zeros_like(low)
            rates: dict[str, Any] = {"betas": self.method.betas, "eps": self.method.eps, "weight_decay": 0.0}
            self.inner = torch.optim.AdamW([self.zeros], lr=self.method.lr, **rates)
        self.zeros.zero_().grad = low
        self.inner.step()
        stepped = self.weight + self.projector.project_back(self.zeros)
        self.weight = stepped - self.method.lr * self.method.weight_decay * stepped
        if self.method.weight_bits < 16:
            self._keep(self.quantisers._quantize_stochastic_round(self.weight, q_group_size=GROUP))
        return self.weight

    def _keep(self, packed: tuple[Tensor, Tensor, Tensor]) -> None:
        codes, scales, zeros = packed
        self.weight = self.quantisers._dequantize(codes, scales.dtype, GROUP, scales, zeros)


def trainer(method: QGaLore, model: nn.Module, around: Callable[[], AbstractContextManager[None]]) -> Trainer:
    pairs = named_weights(model)
    references = {w.name: Reference(method, p.detach().clone()) for w, p in pairs if w.is_matrix}
    others = {w.name: p.detach().clone() for w, p in pairs if not w.is_matrix}
    adamw = torch.optim.AdamW(others.values(), lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=0.0)

    def step(number: int) -> Weights:
        given = gradients(model, number)
        for name, p in others.items():
            p.grad = given[name]
        adamw.step()
        for p in others.values():
            p.mul_(1 - method.lr * method.weight_decay)
        with drawing_from(step_seed(method.seed, number)):
            matrices = {name: each.step(given[name], number, around) for name, each in references.items()}
        return {name: p.clone() for name, p in {**others, **matrices}.items()}

    return step


def comparison(limit: float, note: str, **fields: Any) -> Comparison:
    method = dataclasses.replace(METHOD, **fields)

    def beside(around: Callable[[], AbstractContextManager[None]]) -> tuple[Weights, Trainer, Trainer]:
        model = small_model(torch.float32)
        before = snapshot(model)
        ours = fed_integers(model, method.prepare(model))
        return before, ours, trainer(method, small_model(torch.float32), around)

    spec = ",".join(f"{key}={value}" for key, value in fields.items())
    return Comparison(
        method=f"q-galore:rank=8,update_gap=2,queue_size=2,cos_threshold=-1,inner=adamw,{spec}",
        oracle="q-galore-torch",
        start=lambda: beside(one_sign_rule),
        without_sign_rule=lambda: beside(nullcontext),
        steps=STEPS,
        refreshes=REFRESHES,
        dtype="fp32",
        limit=limit,
        note=f"its projector and quantisers with torch's AdamW, sign rule around its SVD{note}",
    )


COMPARISONS = (
    comparison(1e-4, "", weight_bits=16, proj_bits=16),
    comparison(1e-4, "", weight_bits=16, proj_bits=4),
    comparison(
        1e-2,
        ", our random numbers; 3 of 200,704 codes round the other way in fp32, by one each (fp64 twin: none)",
        weight_bits=8,
        proj_bits=4,
    ),
)
