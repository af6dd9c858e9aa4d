"""ReMoRA: what changes at a merge beyond MoRA's: groups, moments, step counts, learning rate."""

from __future__ import annotations

import copy

import torch

from memprof.llama import LlamaForCausalLM
from memprof.method import named_weights
from memprof.methods.parts.mora_linear import MoRALinear
from memprof.methods.remora import ReMoRA, ReMoRAOptimizer
from tests.methods.models import tiny


def train(model: LlamaForCausalLM, optimizer: ReMoRAOptimizer, steps: int) -> None:
    for _ in range(steps):
        ids = torch.randint(0, 64, (2, 16))
        optimizer.zero_grad()
        model(ids, ids).backward()
        optimizer.step()


def kinds(model: LlamaForCausalLM) -> set[int]:
    return {module.kind for module in model.modules() if isinstance(module, MoRALinear)}


def test_groups_go_round_and_a_stored_run_knows_where_it_is() -> None:
    model, other = tiny(), tiny()
    method = ReMoRA(rank=8, reset_every=2)
    optimizer, resumed = method.prepare(model), method.prepare(other)
    seen = []
    for _ in range(5):
        seen += [kinds(model)]
        train(model, optimizer, 2)
    assert seen == [{1}, {2}, {3}, {4}, {1}]
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert kinds(other) == kinds(model) == {2}


def test_a_merge_begins_the_squares_moments_and_steps_anew_and_no_others() -> None:
    model = tiny()
    optimizer = ReMoRA(rank=8, reset_every=3).prepare(model)
    train(model, optimizer, 3)
    for key, p in model.named_parameters():
        if p.requires_grad:
            state = optimizer.state[p]
            anew = key.endswith("lora_S")
            assert float(state["step"]) == (0 if anew else 3), key
            assert bool(state["exp_avg"].any() or state["exp_avg_sq"].any()) != anew, key


def test_with_less_pruning_step_counts_stay() -> None:
    model = tiny()
    optimizer = ReMoRA(rank=8, reset_every=3, prune=0.9).prepare(model)
    train(model, optimizer, 3)
    assert {float(optimizer.state[layer.adapter()[0]]["step"]) for layer in optimizer.layers} == {3.0}


def test_a_warm_start_trains_the_plain_model_first() -> None:
    model = tiny()
    optimizer = ReMoRA(rank=8, warm_start=2, reset_every=3).prepare(model)
    assert not kinds(model)
    train(model, optimizer, 2)
    assert kinds(model) == {1}
    assert list(ReMoRA(warm_start=2, reset_every=3).refresh_steps(10)) == [4, 7]
    train(model, optimizer, 3)
    assert kinds(model) == {2}


def test_formula_says_the_most_that_a_merge_takes() -> None:
    """128 unit vectors (128, 128), their sums (128, Q) and what S makes of them (128, Q), fp32, Q = 45 at rank 8."""
    weights = [weight for weight, _ in named_weights(tiny())]
    query = next(weight for weight in weights if weight.name.endswith("q_proj.weight"))
    assert ReMoRA(rank=8).formula(query).refresh == 4 * 128 * (128 + 45 + 45)
