"""GaLore-dynamics: the schedule, by the paper's counts and by hand."""

from __future__ import annotations

import pytest
import torch

from memprof.llama import build_model
from memprof.methods.galore import GaLore
from memprof.methods.galore_dynamics import GaLoreDynamics
from memprof.methods.galore_ef import GaLoreDynamicsEF

PAPERS = [0, 200, 300, 450, 675, 1012, 1518, 2277, 2500, 5000, 7500, 10_000, 12_500, 15_000, 17_500]


@pytest.mark.parametrize("method", [GaLoreDynamics(), GaLoreDynamicsEF()])
def test_15_refreshes_in_the_papers_20000_steps(method: GaLore) -> None:
    assert method.refresh_steps(20_000) == PAPERS
    assert method.refreshes_per_step == 15 / 20_000


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"update_gap": 2, "largest_gap": 4}, [0, 2, 3, 4, 8, 12]),  # gaps 2, 3, 4 and no more
        ({"update_gap": 4, "gap_growth": 1}, [0, 4, 8, 12]),
        ({"update_gap": 1, "gap_growth": 2}, [0, 1, 2, 4, 8]),
        ({"update_gap": 5, "largest_gap": 3}, [0, 5, 10]),  # a gap never shrinks
        ({"update_gap": 6, "gap_growth": 1.2}, [0, 6, 7, 8, 9, 10, 12]),  # rounded down
    ],
)
def test_schedule_by_hand(fields: dict[str, float], steps: list[int]) -> None:
    assert GaLoreDynamics(**fields).refresh_steps(13) == steps  # type: ignore[arg-type]


def test_the_optimizer_refreshes_by_the_schedule_whatever_is_asked_between() -> None:
    """A basis changes at steps 0, 2, 3, 4, 8, and at 6, where it is asked for."""
    torch.manual_seed(0)
    model = build_model("9m", num_layers=1, vocab_size=64)
    optimizer = GaLoreDynamics(rank=4, update_gap=2, largest_gap=4).prepare(model)
    p = optimizer.param_groups[1]["params"][0]
    seen, before = [], None
    for step in range(10):
        for q in model.parameters():
            q.grad = torch.randn_like(q)
        if step == 6:
            optimizer.request_refresh()
        optimizer.step()
        basis = optimizer.state[p]["basis"].clone()
        if before is None or not torch.equal(basis, before):
            seen.append(step)
        before = basis
    assert seen == [0, 2, 3, 4, 6, 8]


def test_memory_is_galores() -> None:
    weights = build_model("9m", device="meta").config.weights(2)
    assert [GaLoreDynamics(rank=8).formula(w) for w in weights] == [GaLore(rank=8).formula(w) for w in weights]
