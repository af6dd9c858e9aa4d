"""The attention that runs, by the names that torch gives its backward's nodes (derivatives.yaml)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import memprof.attention
from memprof.api import plan
from memprof.attention import attention_node
from memprof.device import get_device
from memprof.kernels import KERNELS, Kernels
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


def test_an_attention_of_plain_products_has_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return q * k + v

    plain = Kernels("cpu", KERNELS["cpu"].rms_norm, products, expands_kv=False, lse_multiple=1, rng_bytes=0)
    monkeypatch.setattr(memprof.attention, "KERNELS", {"cpu": plain})
    assert attention_node(scenario_of(kernels="cpu"), CPU) is None


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "node"), [("bf16", FLASH), ("fp32", EFFICIENT)])
def test_on_a_gpu(dtype: str, node: str) -> None:
    assert attention_node(scenario_of(dtype=dtype, device="cuda"), get_device("cuda").torch_device) == node
