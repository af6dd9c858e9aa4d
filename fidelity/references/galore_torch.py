"""The GaLore authors' own galore_torch: GaLoreAdamW with each of its projection types, and GaLoreAdafactor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fidelity.compare import Comparison
from fidelity.problem import matrices_apart, one_sign_rule, side_by_side, signed
from fidelity.twins.galore import METHOD
from fidelity.twins.galore_sides import ADAFACTOR
from memprof.methods.galore import GaLore


def reference(method: GaLore, model: nn.Module) -> torch.optim.Optimizer:
    import galore_torch

    groups = matrices_apart(
        model, rank=method.rank, update_proj_gap=method.update_gap, scale=method.scale, proj_type=method.side
    )
    settings: dict[str, Any] = {"lr": method.lr, "weight_decay": method.weight_decay}
    if method.inner == "adafactor":
        settings |= {"beta1": method.beta1, "relative_step": False, "scale_parameter": False}
        return galore_torch.GaLoreAdafactor(groups, **settings)  # type: ignore[no-any-return]
    settings |= {"betas": method.betas, "eps": method.eps, "no_deprecation_warning": True}
    return galore_torch.GaLoreAdamW(groups, **settings)  # type: ignore[no-any-return]


@contextmanager
def signs_on_both_sides() -> Iterator[None]:
    """While open, torch.linalg.svd gives the vectors of either side by the sign rule, each on its own."""
    svd = torch.linalg.svd

    def ruled(a: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = svd(a, full_matrices=full_matrices)
        return signed(u), s, signed(vh.T).T

    torch.linalg.svd = ruled
    try:
        yield
    finally:
        torch.linalg.svd = svd


def comparison(settings: str, method: GaLore, sign_rule: Callable[[], AbstractContextManager[None]]) -> Comparison:
    return Comparison(
        method=f"galore:{settings}rank=8,update_gap=3",
        oracle="galore-torch",
        start=lambda: side_by_side(method, partial(reference, method), sign_rule),
        without_sign_rule=lambda: side_by_side(method, partial(reference, method), nullcontext),
        steps=12,
        refreshes=4,
        dtype="fp32",
        limit=1e-4,
        note="sign rule around its SVD",
    )


COMPARISONS = (
    comparison("", METHOD, one_sign_rule),
    *(
        comparison(f"side={side},", dataclasses.replace(METHOD, side=side), signs_on_both_sides)
        for side in ("reverse_std", "left", "right")
    ),
    # At a refresh P^T G Q^T is diagonal but for rounding, which Adam would make as large as the rest: a large eps
    comparison("side=full,eps=1e-2,", dataclasses.replace(METHOD, side="full", eps=1e-2), signs_on_both_sides),
    comparison("inner=adafactor,", ADAFACTOR, one_sign_rule),
    comparison("inner=adafactor,beta1=0.9,", dataclasses.replace(ADAFACTOR, beta1=0.9), one_sign_rule),
)
