"""The merging family: oracles are plain AdamW before the switch, storages and allocations counted, torch.quantile."""

from __future__ import annotations

import copy
import dataclasses
import io

import pytest
import torch
from torch import Tensor, nn

from memprof.api import plan
from memprof.catalogue import METHODS
from memprof.errors import MemprofError
from memprof.formula import formula
from memprof.ledger import Ledger
from memprof.method import named_weights
from memprof.methods.adamw import AdamW
from memprof.methods.lora import LoRALinear
from memprof.methods.parts.restart import RestartOptimizer, prune_by_magnitude_
from memprof.methods.reloqra import ReLoQRa
from memprof.methods.relora import ReLoRA, Restarting
from memprof.trace import trace
from tests.methods.models import tiny

FAMILY = [kind for kind in METHODS.values() if issubclass(kind, Restarting)]
every_member = pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.name)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    losses = []
    for _ in range(steps):
        ids, labels = torch.randint(0, 64, (2, 2, 16), generator=generator).to(device)
        loss = model(ids, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return losses


def layers_of(model: nn.Module) -> list[LoRALinear]:
    return [module for module in model.modules() if isinstance(module, LoRALinear)]


def test_the_family_is_whole() -> None:
    assert {kind.name for kind in FAMILY} >= {"relora", "redora", "repissa", "reloqra"}
    fields = {"reset_every", "restart_warmup", "prune", "prune_by", "warm_start"}
    assert all(fields <= {field.name for field in dataclasses.fields(kind)} for kind in FAMILY)


@every_member
def test_a_warm_start_is_adamw_to_the_bit(kind: type[Restarting]) -> None:
    plain, model = tiny(), tiny()
    expected = train(plain, AdamW(lr=1e-2, weight_decay=0.1).prepare(plain), 3)
    assert train(model, kind(lr=1e-2, weight_decay=0.1, warm_start=4).prepare(model), 3) == expected
    assert not layers_of(model)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)


@every_member
def test_the_switch_makes_adapters_and_drops_what_belonged_to_the_weights(kind: type[Restarting]) -> None:
    model = tiny()
    optimizer = kind(rank=8, warm_start=3, restart_warmup=4).prepare(model)
    weights = {weight.name: p for weight, p in named_weights(model)}
    matrices = {weight.name for weight, _ in named_weights(model) if weight.is_matrix}
    train(model, optimizer, 2)
    moment = optimizer.state[weights["lm_head.weight"]]["exp_avg"]
    ids = torch.randint(0, 64, (2, 16))
    model(ids, ids).backward()
    optimizer.step()
    kept = {id(p) for p in optimizer.state}
    for name, p in weights.items():
        assert p.requires_grad == (name not in matrices) == (id(p) in kept), name
        assert (p.grad is None) == (name in matrices), name
    assert optimizer.state[weights["lm_head.weight"]]["exp_avg"] is moment
    assert len(layers_of(model)) == 7 and set(optimizer.param_groups[0]["params"]) == {
        p for p in model.parameters() if p.requires_grad
    }
    assert [optimizer.param_groups[0][key] for key in ("updates", "begun", "since_merge")] == [3, 3, 0]


def test_the_switch_does_not_change_the_loss_where_the_reading_preserves() -> None:
    ids = torch.randint(0, 64, (2, 16))
    for kind in FAMILY:
        model = tiny()
        optimizer = kind(rank=8, warm_start=9).prepare(model)
        train(model, optimizer, 2)
        before = model(ids, ids).item()
        optimizer.switch()
        assert abs(model(ids, ids).item() - before) < 2e-6, kind.name
    literal = tiny()
    before = literal(ids, ids).item()
    ReLoQRa(rank=8, reading="literal").prepare(literal)
    assert abs(literal(ids, ids).item() - before) > 1e-3


def test_merges_are_counted_from_the_switch_and_a_request_brings_it_about() -> None:
    assert list(ReLoRA(warm_start=5, reset_every=3).refresh_steps(15)) == [7, 10, 13]
    model = tiny()
    optimizer = ReLoRA(rank=8, warm_start=2, reset_every=3).prepare(model)
    since = []
    for step in range(9):
        train(model, optimizer, 1, seed=step)
        since.append(optimizer.param_groups[0]["since_merge"])
    assert since[1:] == [0, 1, 2, 0, 1, 2, 0, 1]
    early = tiny()
    optimizer = ReLoRA(rank=8, warm_start=100).prepare(early)
    optimizer.request_refresh()
    train(early, optimizer, 1)
    assert len(layers_of(early)) == 7 and optimizer.param_groups[0]["begun"] == 1


@every_member
@pytest.mark.parametrize("stored_after", [1, 3, 6])
@pytest.mark.parametrize("model_first", [True, False])
def test_a_run_stored_before_or_after_the_switch_goes_on_bitwise(
    kind: type[Restarting], stored_after: int, model_first: bool
) -> None:
    method = kind(rank=8, warm_start=2, reset_every=3, restart_warmup=2)
    model = tiny()
    optimizer = method.prepare(model)
    train(model, optimizer, stored_after)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    other = tiny()
    resumed = method.prepare(other)
    for part in (other, resumed) if model_first else (resumed, other):
        part.load_state_dict(stored["model" if part is other else "optimizer"])
    runs = []
    for each, its_optimizer in ((model, optimizer), (other, resumed)):
        torch.manual_seed(2)
        runs.append(train(each, its_optimizer, 5, seed=3))
    assert runs[0] == runs[1]
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_scheduler_of_the_users_goes_on_over_the_switch() -> None:
    model = tiny()
    optimizer = ReLoRA(rank=8, lr=1e-2, warm_start=2, reset_every=3).prepare(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for _ in range(4):
        train(model, optimizer, 1)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 / 16)


def test_a_copy_of_a_model_in_its_warm_start_leaves_the_optimizers_model_alone() -> None:
    model, switched = tiny(), tiny()
    ReLoRA(rank=8, warm_start=2).prepare(model)
    stored = ReLoRA(rank=8).prepare(switched).model.state_dict()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        copy.deepcopy(model).load_state_dict(stored)
    assert not layers_of(model)
    model.load_state_dict(stored)
    assert len(layers_of(model)) == 7


@every_member
def test_figures_are_those_of_the_steps_after_the_switch(kind: type[Restarting]) -> None:
    warm, plain = (plan(["9m"], [kind(rank=8, warm_start=n)], num_layers=1, vocab_size=64)[0] for n in (5000, 0))
    assert trace(warm) == trace(plain) and formula(warm) == formula(plain)


@every_member
@pytest.mark.parametrize("prune_by", ["random", "magnitude"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 24, 64])
def test_refresh_is_the_most_that_is_booked_while_one_layer_restarts(
    kind: type[Restarting], prune_by: str, dtype: torch.dtype, rank: int
) -> None:
    model = tiny(dtype, "meta")
    weights = {weight.name: weight for weight, _ in named_weights(model)}
    method = kind(rank=rank, prune_by=prune_by)
    optimizer = method.prepare(model)
    assert isinstance(optimizer, RestartOptimizer)
    train(model, optimizer, 1)
    for name, layer in model.named_modules():
        if isinstance(layer, LoRALinear):
            with torch.no_grad(), Ledger(model, optimizer) as ledger:
                held = sum(ledger.timeline.totals().values())
                optimizer._restart(layer)
            weight = weights[f"{name}.weight"]
            assert ledger.peak - held == method.formula(weight).refresh > 0, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.8, 0.9, 1.0])
def test_magnitude_pruning_is_the_repositorys(dtype: torch.dtype, ratio: float) -> None:
    torch.manual_seed(0)
    moment = torch.randn(30, 41).to(dtype)
    size = moment.abs()
    threshold = size.flatten().float().quantile(ratio).to(dtype)
    expected = moment * (size > threshold)
    prune_by_magnitude_(moment, ratio)
    assert torch.equal(moment, expected)


def test_bad_settings_are_errors() -> None:
    with pytest.raises(MemprofError, match="redora: prune_by='all' is unknown; choose from random, magnitude"):
        METHODS["redora"](**{"prune_by": "all"})
    with pytest.raises(MemprofError, match="reloqra: reading='other' is unknown; choose from preserving, literal"):
        ReLoQRa(reading="other")
    with pytest.raises(MemprofError, match="relora: rank 500 is larger"):
        ReLoRA(rank=500, warm_start=5).prepare(tiny())
