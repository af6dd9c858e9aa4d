"""ReLoRA: oracles are the dense W + s B A with its merges written out, the model's own loss, and counted storages."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from memprof.errors import MemprofError
from memprof.method import named_weights
from memprof.methods.lora import LoRA, LoRALinear
from memprof.methods.parts.restart import prune_, restart_factor
from memprof.methods.relora import ReLoRA
from tests.methods.adapters import bytes_of
from tests.methods.models import tiny, train

SHAPES = [{}, {"tie_word_embeddings": True, "num_key_value_heads": 2}]
DTYPES = [torch.float32, torch.bfloat16]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class Single(nn.Module):
    """One layer under LLaMA's name and a base parameter, in fp64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q_proj = nn.Linear(7, 12, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.q_proj(x) - 1).square().mean()


@pytest.mark.parametrize("prune", [0.0, 1.0])
def test_steps_and_merges_match_dense_weight_fp64(prune: float) -> None:
    """Eight steps with a merge after every third. The twin takes our random A, and nothing else."""
    model = Single()
    weight, scaling = model.q_proj.weight.detach().clone(), 5 / 3
    method = ReLoRA(rank=3, alpha=5.0, lr=0.01, weight_decay=0.1, reset_every=3, restart_warmup=2, prune=prune)
    optimizer = method.prepare(model)
    (layer,) = optimizer.layers
    assert isinstance(layer, LoRALinear)
    twins = [layer.bias, layer.lora_A.weight, layer.lora_B.weight]
    bias, a, b = (p.detach().clone().requires_grad_() for p in twins)
    reference = torch.optim.AdamW([bias, a, b], weight_decay=0.1)
    rates = [0.01, 0.01, 0.01, 0.005, 0.01, 0.01, 0.005, 0.01]
    for step, rate in enumerate(rates):
        x = torch.randn(9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).backward()
        optimizer.step()
        reference.zero_grad()
        torch.tanh(x @ (weight + scaling * b @ a).T + bias - 1).square().mean().backward()
        reference.param_groups[0]["lr"] = rate
        reference.step()
        if step in method.refresh_steps(len(rates)):
            with torch.no_grad():
                weight += scaling * b @ a
                a.copy_(layer.lora_A.weight)
                b.zero_()
                for key in ("exp_avg", "exp_avg_sq"):
                    reference.state[a][key] *= 1 - prune
                    reference.state[b][key] *= 1 - prune
    pairs = zip([layer.weight, *twins], [weight, bias, a, b], strict=True)
    drift = max(float((p - t).detach().abs().max()) for p, t in pairs)
    assert drift < 1e-13, f"drift {drift:.3e} > 1e-13 (fp64, step {len(rates)})"


def test_merge_does_not_change_the_loss() -> None:
    model = tiny()
    optimizer = ReLoRA(rank=8, lr=1e-2).prepare(model)
    train(model, optimizer, 5)
    ids = torch.randint(0, 64, (2, 16))
    before = model(ids, ids).item()
    for layer in optimizer.layers:
        layer.merge_()
    after = model(ids, ids).item()
    assert abs(after - before) < 2e-6, f"loss drift {abs(after - before):.3e} > 2e-6 (fp32)"


def test_merge_moves_the_adapter_into_the_weight() -> None:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(20, 30, bias=False), 4, 8.0)
    nn.init.normal_(layer.lora_B.weight)
    old = copy.deepcopy(layer)
    layer.merge_()
    torch.testing.assert_close(layer.weight, old.weight + 2 * (old.lora_B.weight @ old.lora_A.weight).detach())
    assert not layer.lora_B.weight.any() and not torch.equal(layer.lora_A.weight, old.lora_A.weight)
    assert layer.lora_A.weight.abs().max() <= 20**-0.5
    assert [layer.weight.requires_grad, layer.lora_A.weight.requires_grad] == [False, True]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ratio", [0.0, 0.9, 0.999, 1.0])
def test_prune_zeroes_about_its_ratio(dtype: torch.dtype, ratio: float) -> None:
    torch.manual_seed(0)
    moment = torch.ones(400, 500, dtype=dtype)
    prune_(moment, ratio)
    kept = moment.float().mean().item()
    bound = 5 * (ratio * (1 - ratio) / moment.numel()) ** 0.5  # five standard deviations
    assert abs(kept - (1 - ratio)) <= bound
    assert set(moment.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_restart_touches_the_adapters_alone(dtype: torch.dtype) -> None:
    model = tiny(dtype)
    optimizer = ReLoRA(rank=8, lr=1e-2, prune=0.9).prepare(model)
    train(model, optimizer, 3)
    params = snapshot(model)
    states = {p: {key: t.clone() for key, t in state.items()} for p, state in optimizer.state.items()}
    for layer in optimizer.layers:
        optimizer._restart(layer)
    zeros = []
    for name, p in model.named_parameters():
        changed = not torch.equal(p, params[name])
        assert changed == (name.endswith("_proj.weight") or ".lora_" in name), name
        if p.requires_grad:
            assert torch.equal(optimizer.state[p]["step"], states[p]["step"])
        for key in ("exp_avg", "exp_avg_sq") if p.requires_grad else ():
            now, then = optimizer.state[p][key], states[p][key]
            if ".lora_" in name:
                zeros.append((now == 0).float().mean().item())
                assert torch.equal(now[now != 0], then[now != 0])
            else:
                assert torch.equal(now, then), name
        if ".lora_B" in name:
            assert not p.any()
    assert sum(zeros) / len(zeros) == pytest.approx(0.9, abs=0.02)


def test_learning_rate_climbs_back() -> None:
    assert [restart_factor(i, 4) for i in range(1, 7)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert restart_factor(1, 0) == 1
    model = Single()
    method = ReLoRA(rank=3, lr=0.01, betas=(0.0, 0.0), reset_every=3, restart_warmup=4)
    optimizer = method.prepare(model)
    moved = []
    for _ in range(8):  # without memory Adam moves by the learning rate: what the bias moves is the rate
        old = model.q_proj.bias.detach().clone()
        optimizer.zero_grad()
        (1e3 * model(torch.ones(2, 7, dtype=torch.float64))).backward()
        optimizer.step()
        moved.append(round((model.q_proj.bias - old).abs().max().item(), 6))
    assert moved == [0.01, 0.01, 0.01, 0.0025, 0.005, 0.0075, 0.0025, 0.005]
    assert all(group["lr"] == 0.01 for group in optimizer.param_groups)


def test_merges_follow_the_schedule_and_requests() -> None:
    method = ReLoRA(rank=8, reset_every=3)
    assert list(method.refresh_steps(10)) == [2, 5, 8]
    assert list(ReLoRA().refresh_steps(5000)) == [4999]
    model = tiny()
    optimizer = method.prepare(model)
    merged = []
    for step in range(8):
        if step == 3:
            optimizer.request_refresh()
        layer = optimizer.layers[0]
        assert isinstance(layer, LoRALinear)
        old = layer.weight.detach().clone()
        train(model, optimizer, 1)
        merged += [step] * (not torch.equal(old, layer.weight))
    assert merged == [2, 3, 5]


def test_until_the_first_merge_it_is_lora() -> None:
    plain = tiny()
    expected = train(plain, LoRA(rank=8).prepare(plain), 3)
    model = tiny()
    assert train(model, ReLoRA(rank=8).prepare(model), 3) == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_formula_is_the_bytes_of_every_weight(dtype: torch.dtype, shape: dict[str, Any]) -> None:
    model = tiny(dtype, **shape)
    weights = [weight for weight, _ in named_weights(model)]
    method = ReLoRA(rank=24, reset_every=2)
    optimizer = method.prepare(model)
    train(model, optimizer, 5)
    for weight in weights:
        footprint = method.formula(weight)
        expected = (footprint.param, footprint.grad, footprint.optimizer_state)
        assert bytes_of(model, optimizer, weight) == expected, weight.name


@pytest.mark.filterwarnings("default")
def test_refresh_is_the_most_that_torch_allocates_in_a_merge() -> None:
    model = tiny()
    weights = {weight.name: weight for weight, _ in named_weights(model)}
    method = ReLoRA(rank=24)
    optimizer = method.prepare(model)
    train(model, optimizer, 1)
    for name, layer in model.named_modules():
        if isinstance(layer, LoRALinear):
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
                optimizer._restart(layer)
            kineto = prof.profiler.kineto_results.events()
            events = sorted((e for e in kineto if e.name() == "[memory]"), key=lambda e: e.start_ns())
            alive = torch.tensor([e.nbytes() for e in events]).cumsum(0)
            weight = weights[f"{name}.weight"]
            assert int(alive.max()) == method.formula(weight).refresh == 24 * max(weight.shape), name


def test_runs_on_meta() -> None:
    model = tiny(torch.bfloat16, "meta")
    optimizer = ReLoRA(reset_every=2).prepare(model)
    train(model, optimizer, 3, "meta")
    assert optimizer.param_groups[0]["since_merge"] == 1


def test_state_dict_round_trips_with_its_schedule() -> None:
    method = ReLoRA(rank=8, reset_every=3, restart_warmup=4)
    model, other = tiny(), tiny()
    optimizer, resumed = method.prepare(model), method.prepare(other)
    train(model, optimizer, 4)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    runs = []
    for each, opt in ((model, optimizer), (other, resumed)):
        torch.manual_seed(2)
        runs.append(train(each, opt, 4))
    assert runs[0] == runs[1]


def test_two_seeded_runs_are_bitwise_equal() -> None:
    runs = []
    for _ in range(2):
        model = tiny()
        runs.append(train(model, ReLoRA(rank=8, reset_every=2).prepare(model), 5))
    assert runs[0] == runs[1]


def test_unbound_formula_and_bad_settings_are_errors() -> None:
    weights = [weight for weight, _ in named_weights(tiny(num_key_value_heads=2))]
    assert ReLoRA().bind(weights).rank == 64 // 4
    with pytest.raises(MemprofError, match="relora: .*call bind"):
        ReLoRA().formula(weights[2])
    with pytest.raises(MemprofError, match="k_proj"):
        ReLoRA(rank=65).bind(weights)
    with pytest.raises(MemprofError, match="prune=1.5"):
        ReLoRA(prune=1.5)
    with pytest.raises(MemprofError, match="reset_every=0"):
        ReLoRA(reset_every=0)
