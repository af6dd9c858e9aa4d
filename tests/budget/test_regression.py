"""The regression that budgets are for: AdamW with foreach temporaries in the place of the fused kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from memprof import catalogue, profile
from memprof.budget.baseline import Baseline
from memprof.budget.check import Verdict, check_records
from memprof.budget.run import check_file
from memprof.methods.adamw import AdamW
from tests.budget.conftest import WriteBudgets

SMALL = 'model = "9m"\nbatch_size = 1\nseq_len = 32\nmax_increase = "1%"\n'


@dataclass(frozen=True, slots=True)
class ForeachAdamW(AdamW):
    """The same update by torch's foreach implementation, which makes a temporary for every weight at once."""

    def prepare(self, model: nn.Module) -> torch.optim.Optimizer:  # type: ignore[override]
        return torch.optim.AdamW(
            model.parameters(), self.lr, self.betas, self.eps, self.weight_decay, foreach=True, fused=False
        )


def test_foreach_temporaries_break_the_budget_of_fused_adamw(budgets: WriteBudgets) -> None:
    scenario: dict[str, Any] = {"model": "9m", "batch_size": 1, "seq_len": 32}
    fused, foreach = (profile(method=method, **scenario) for method in ("adamw", ForeachAdamW()))
    assert fused.trace and foreach.trace and fused.id == foreach.id
    base = Baseline("memprof-baseline.json", {fused.id: fused})
    (passed,) = check_records(budgets(SMALL).budgets, [fused], base)
    (failed,) = check_records(budgets(SMALL).budgets, [foreach], base)
    assert (passed.verdict, failed.verdict) == (Verdict.PASS, Verdict.FAIL)
    model = foreach.trace.param
    growth = foreach.trace.peak_by_category["extra"] - fused.trace.peak_by_category["extra"]
    assert growth == pytest.approx(model, rel=0.01)
    assert failed.why == (
        "since memprof-baseline.json peak grew by 17.15 MiB (+25.0%): "
        "extra +17.15 MiB (1.00 x param), optimizer_state -156 B",
        "the peak is in optimizer; it was in backward",
        "extra grew in aten::_foreach_sqrt +17.16 MiB",
    )


def test_a_whole_check_finds_it(budgets: WriteBudgets, monkeypatch: pytest.MonkeyPatch) -> None:
    file = budgets(SMALL)
    assert check_file(file, update=True).exit_code == 0
    assert check_file(file).exit_code == 0
    monkeypatch.setitem(catalogue.METHODS, "adamw", ForeachAdamW)
    outcome = check_file(file)
    assert outcome.exit_code == 1 and outcome.checks[0].limit.line == 6
