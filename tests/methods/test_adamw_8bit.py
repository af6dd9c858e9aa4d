"""8-bit AdamW: bytes by hand and on tensors, close to AdamW, few calls and no host read; codes: test_blockwise.py."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.llama import build_model
from memprof.method import Role, Weight, named_weights
from memprof.methods.adamw import AdamW
from memprof.methods.adamw_8bit import AdamW8bit
from tests.methods.models import set_normal_gradients, tiny

METHOD = AdamW8bit(lr=3e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
DTYPES = [torch.float32, torch.bfloat16]


def test_state_of_llama_7bs_mlp_by_hand() -> None:
    """11008 x 4096 = 45,088,768 elements: two codes each, and 176,128 blocks of two fp32 magnitudes."""
    weight = Weight("model.layers.0.mlp.up_proj.weight", Role.UP, (11008, 4096), 1, 2)
    assert METHOD.formula(weight).optimizer_state == 2 * 45_088_768 + 8 * 176_128 == 91_586_560
    assert METHOD.formula(Weight("model.norm.weight", Role.NORM, (2048,), 1, 2)).optimizer_state == 8 * 2048
    assert METHOD.shared() == 2048


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_are_codes_and_magnitudes_and_of_norms_fp32(dtype: torch.dtype) -> None:
    model = tiny(dtype)
    optimizer = METHOD.prepare(model)
    set_normal_gradients(model, 0)
    optimizer.step()
    for weight, p in named_weights(model):
        state = optimizer.state[p]
        norm = weight.role is Role.NORM
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == (torch.float32 if norm else torch.uint8)
        assert state["exp_avg"].shape == p.shape and ("exp_avg_absmax" in state) != norm
        assert sum(t.nbytes for t in state.values()) == METHOD.formula(weight).optimizer_state


def test_the_first_step_is_adamws_and_later_ones_stay_near() -> None:
    """Moments are rounded after their use: the first step sees none that was."""
    ours, theirs = tiny(), tiny()
    start = [p.detach().clone() for p in ours.parameters()]
    optimizer, exact = METHOD.prepare(ours), AdamW(**METHOD.hyperparameters()).prepare(theirs)  # type: ignore[arg-type]
    for step in range(8):
        for model, each in ((ours, optimizer), (theirs, exact)):
            set_normal_gradients(model, step)
            each.step()
        for (name, p), q, origin in zip(ours.named_parameters(), theirs.parameters(), start, strict=True):
            drift = ((p - q).norm() / (q - origin).norm()).item()
            assert drift < (1e-6 if step == 0 or "norm" in name else 0.05), f"{name} {drift:.1e} after {step + 1} steps"
            assert step == 0 or "norm" in name or drift > 1e-4, f"{name} {drift:.1e}: were the moments rounded?"


class Calls(TorchDispatchMode):
    """Counts aten calls, views left out, and refuses to read anything back to the host."""

    seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a host read"
        self.seen += not func.is_view and func.namespace == "aten"
        return func(*args, **(kwargs or {}))


def test_a_step_of_a_24_layer_model_makes_as_many_calls_as_its_pieces_need_and_reads_nothing_back() -> None:
    """20 calls for every group of up to 1.97 million elements, of which 367 million are 187 at least."""
    model = build_model("350m", dtype=torch.bfloat16, device="meta", kernels="cuda")
    optimizer = METHOD.prepare(model)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    with Calls() as calls:  # type: ignore[no-untyped-call]
        optimizer.step()
    elements = sum(p.numel() for p in model.parameters())
    assert calls.seen < 20 * 1.5 * elements / (7680 * 256)


def test_a_loaded_state_keeps_its_codes_and_fp32_magnitudes_under_bf16_weights() -> None:
    model, other = tiny(torch.bfloat16), tiny(torch.bfloat16)
    optimizer, resumed = METHOD.prepare(model), METHOD.prepare(other)
    set_normal_gradients(model, 0)
    optimizer.step()
    resumed.load_state_dict(optimizer.state_dict())
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[p].items():
            loaded: Tensor = resumed.state[q][key]
            assert loaded.dtype == value.dtype and torch.equal(loaded, value)
            assert loaded.data_ptr() != value.data_ptr()
