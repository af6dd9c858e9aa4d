"""The attention that runs, by the names that torch gives its backward's nodes (derivatives.yaml)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import memprof.measure.attention
from memprof.api import plan
from memprof.device import get_device
from memprof.kernels import KERNELS, Kernels
from memprof.measure.attention import attention_node
from memprof.scenario import Scenario

CPU, META = torch.device("cpu"), torch.device("meta")
FLASH, EFFICIENT = "ScaledDotProductFlashAttentionBackward0", "ScaledDotProductEfficientAttentionBackward0"


def scenario_of(model: str = "9m", **fields: Any) -> Scenario:
    (scenario,) = plan([model], ["adamw"], num_layers=1, vocab_size=64, **fields)
    return scenario


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_on_a_processor(dtype: str) -> None:
    assert attention_node(scenario_of(dtype=dtype, kernels="cpu"), CPU) == (
        "ScaledDotProductFlashAttentionForCpuBackward0"
    )


@pytest.mark.parametrize(("dtype", "node"), [("bf16", FLASH), ("fp16", FLASH), ("fp32", EFFICIENT)])
@pytest.mark.parametrize("model", ["9m", "llama3.2-1b"])
def test_the_kernels_that_stand_for_cuda(model: str, dtype: str, node: str) -> None:
    """On shapes alone; keys and values of fewer heads, too."""
    assert attention_node(scenario_of(model, dtype=dtype), META) == node


def test_it_is_asked_with_the_scenarios_heads_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash attention takes heads of 256 at most, and another size may go to another kernel."""
    scenario = scenario_of("llama3.2-1b", dtype="bf16", kernels="cpu")
    given: list[torch.Tensor] = []

    def products(*heads: torch.Tensor) -> torch.Tensor:
        given.extend(heads)
        return heads[0] + 0

    plain = Kernels("cpu", KERNELS["cpu"].rms_norm, products, expands_kv=False, lse_multiple=1, rng_bytes=0)
    monkeypatch.setattr(memprof.measure.attention, "KERNELS", {"cpu": plain})
    attention_node(scenario, CPU)
    shape = scenario.shape
    heads = (shape.num_attention_heads, shape.num_key_value_heads, shape.num_key_value_heads)
    assert [tensor.shape[2:] for tensor in given] == [(number, shape.head_dim) for number in heads]
    assert {tensor.dtype for tensor in given} == {torch.bfloat16}


def test_an_attention_of_plain_products_has_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return q * k + v

    plain = Kernels("cpu", KERNELS["cpu"].rms_norm, products, expands_kv=False, lse_multiple=1, rng_bytes=0)
    monkeypatch.setattr(memprof.measure.attention, "KERNELS", {"cpu": plain})
    assert attention_node(scenario_of(kernels="cpu"), CPU) is None


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "node"), [("bf16", FLASH), ("fp32", EFFICIENT)])
def test_on_a_gpu(dtype: str, node: str) -> None:
    assert attention_node(scenario_of(dtype=dtype, device="cuda"), get_device("cuda").torch_device) == node
