"""A method of a user's own goes wherever a name does, and is checked as ours are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from memprof.api import plan
from memprof.catalogue import get_method
from memprof.errors import MemprofError
from memprof.formula import formula
from memprof.method import Footprint, Method, Weight
from memprof.trace import trace
from tests.battery import EXACT


@dataclass(frozen=True, slots=True)
class SignMomentum(Method):
    """A method of a user's own: one moment, its sign taken, and every seventh step the moment is halved."""

    name: ClassVar[str] = "sign-momentum"
    paper: ClassVar[str] = "none"

    lr: float = 1e-3
    beta: float = 0.9

    def prepare(self, model: nn.Module) -> SignOptimizer:
        return SignOptimizer(model.parameters(), self.lr, self.beta)

    def formula(self, weight: Weight) -> Footprint:
        """State: m in the parameter dtype. Transient: its sign. Refresh: the same, and an fp32 copy made before it."""
        wide = 4 * weight.numel
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=weight.nbytes,
            transient=weight.nbytes,
            refresh=wide,
        )

    def refresh_steps(self, horizon: int) -> range:
        return range(6, horizon, 7)


class SignOptimizer(torch.optim.Optimizer):
    def __init__(self, params: Any, lr: float, beta: float) -> None:
        super().__init__(params, {"lr": lr, "beta": beta})
        self.requested = False

    def request_refresh(self) -> None:
        self.requested = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.step_of(p, group["lr"], group["beta"])
        self.requested = False

    def step_of(self, p: Tensor, lr: float, beta: float) -> None:
        if "m" not in self.state[p]:
            self.state[p]["m"] = torch.zeros_like(p)
        m = self.state[p]["m"]
        if self.requested:
            m.copy_(torch.mul(m, torch.full((), 0.5, dtype=torch.float64)).to(torch.float32, copy=True))
        m.lerp_(p.grad, 1 - beta)
        p.sub_(m.sign(), alpha=lr)


def test_a_users_own_method_works_wherever_a_name_does() -> None:
    for dtype in ("bf16", "fp32"):
        case = plan(["9m"], [SignMomentum(lr=1e-2)], dtype=dtype, batch_size=1, seq_len=16)[0]
        predicted, seen = formula(case), trace(case)
        for key in (*EXACT, "peak", "peak_by_category"):
            assert getattr(predicted, key) == getattr(seen, key), key
        assert case.to_dict()["hyperparameters"] == {"lr": 1e-2, "beta": 0.9}
        assert predicted.optimizer_state == predicted.param == seen.param
    assert get_method(SignMomentum(), lr=0.5) == SignMomentum(lr=0.5)


def test_a_users_own_method_is_checked_as_ours_are() -> None:
    with pytest.raises(MemprofError, match="sign-momentum: lr=nan is out of range"):
        SignMomentum(lr=float("nan"))
