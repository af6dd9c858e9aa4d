"""What holds for every method that trains: it learns, it repeats itself, its state can be stored and moved."""

from __future__ import annotations

import dataclasses
import io

import pytest
import torch
from torch import Tensor, nn

from memprof.batches import synthetic_batch
from memprof.catalogue import get_method
from memprof.ledger import state_tensors, tensors_in
from memprof.llama import LlamaForCausalLM, build_model
from memprof.methods.parts.anchor import AnchoredLinear, is_anchor
from tests.battery import CPU, every_method

LEARNING_RATE = {
    "adafactor": 1e-3,
    "came": 1e-3,
    "muon": 0.2,
    "flora": 0.05,
    "galore": 1e-2,
    "galore-mini": 1e-2,
    "galore-dynamics": 1e-2,
    "galore-ef": 1e-2,
    "galore-dynamics-ef": 1e-2,
    "microadam": 1e-2,
    "q-galore": 1e-2,
    "sgd": 0.1,
}
"""for the task below; 3e-3 for the others"""
VOCABULARY, STEPS = 64, 40
STEPS_OF = {"microadam": 60}
"""to learn the task, where a step moves a hundredth of the entries: most weights have seen no update after 40"""


def trained(name: str, steps: int = STEPS, **fields: object) -> tuple[LlamaForCausalLM, torch.optim.Optimizer, Tensor]:
    """A plain PyTorch loop on sequences that count up in strides; the losses of its steps."""
    torch.manual_seed(0)
    model = build_model("9m", num_layers=2, vocab_size=VOCABULARY)
    optimizer = get_method(name, lr=LEARNING_RATE.get(name.partition(":")[0], 3e-3), **fields).prepare(model)
    torch.manual_seed(1)
    return model, optimizer, run(model, optimizer, steps)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    losses = []
    for _ in range(steps):
        loss = model(*synthetic_batch(8, 16, VOCABULARY, CPU))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.fixture(scope="module")
def adamw_losses() -> Tensor:
    return trained("adamw")[2]


@every_method
def test_learns_beside_adamw(name: str, adamw_losses: Tensor) -> None:
    """From chance, ln 64 = 4.16, to below 0.5; and it has come nine tenths of the way that AdamW came."""
    steps = STEPS_OF.get(name.partition(":")[0], STEPS)
    losses = trained(name, steps)[2]
    first, last = losses[0].item(), losses[-3:].mean().item()
    came, adamw_came = first - last, (adamw_losses[0] - adamw_losses[-3:].mean()).item()
    assert first == pytest.approx(4.16, abs=0.1)
    assert last < 0.5, f"{name}: loss {first:.3f} -> {last:.3f} in {steps} steps"
    assert came > 0.9 * adamw_came, f"{name}: loss fell by {came:.3f}, AdamW's by {adamw_came:.3f}"


MOVING_RATE = {"muon": 0.5, "sgd": 1.0}
"""at which a norm's first steps are above half an ulp of 1 in bf16; 0.01 for the others, whose steps are normalised"""


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_trained_parameter_moves_and_no_other(dtype: torch.dtype, name: str) -> None:
    torch.manual_seed(0)
    model = build_model("9m", num_layers=1, vocab_size=VOCABULARY, dtype=dtype)
    optimizer = get_method(name, lr=MOVING_RATE.get(name.partition(":")[0], 0.01)).prepare(model)
    before = {key: t.detach().clone() for key, t in stored(model).items()}
    run(model, optimizer, 5)
    for key, p in model.named_parameters():
        if is_anchor(p):
            continue
        moved = not torch.equal(p, before[key])
        assert moved == p.requires_grad, f"{key}: requires_grad {p.requires_grad}, moved {moved}"
        assert p.isfinite().all(), key
    for path, module in model.named_modules():
        if isinstance(module, AnchoredLinear):
            assert any(not torch.equal(t, before[f"{path}.{key}"]) for key, t in stored(module).items()), path


def stored(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())


@every_method
def test_the_optimizer_holds_every_trained_parameter_once(name: str) -> None:
    for tied in (False, True):
        model = build_model("9m", num_layers=1, vocab_size=VOCABULARY, tie_word_embeddings=tied)
        optimizer = get_method(name).prepare(model)
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert len(set(held)) == len(held)
        assert set(held) == {p for p in model.parameters() if p.requires_grad}


def restart_of(name: str) -> dict[str, object]:
    """Periodic work within a few steps, for methods that have such."""
    known = {field.name for field in dataclasses.fields(get_method(name))}
    return {field: 3 for field in ("update_gap", "reset_every") if field in known}


@every_method
def test_two_seeded_runs_agree_bitwise(name: str) -> None:
    (one, _, first), (other, _, second) = (trained(name, 8, **restart_of(name)) for _ in range(2))
    assert torch.equal(first, second), f"{name}: losses differ by {(first - second).abs().max():.3e}"
    for (key, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), f"{key} differs by {(p - q).abs().max():.3e}"


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stored_run_goes_on_bitwise_the_same(dtype: torch.dtype, name: str) -> None:
    """Model and optimizer go through a file that holds tensors and numbers alone, and train on as if never stored."""

    def start() -> tuple[LlamaForCausalLM, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = build_model("9m", num_layers=1, vocab_size=VOCABULARY, dtype=dtype)
        return model, get_method(name, lr=3e-3, **restart_of(name)).prepare(model)

    model, optimizer = start()
    run(model, optimizer, 4)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    other, resumed = start()
    other.load_state_dict(stored["model"])
    resumed.load_state_dict(stored["optimizer"])
    sizes = [sorted(t.nbytes for t in state_tensors(each)) for each in (optimizer, resumed)]
    assert sizes[0] == sizes[1]
    runs = []
    for each, its_optimizer in ((model, optimizer), (other, resumed)):
        torch.manual_seed(2)
        runs.append(run(each, its_optimizer, 5))
    assert torch.equal(runs[0], runs[1]), f"{name}: losses differ by {(runs[0] - runs[1]).abs().max():.3e}"
    for (key, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), f"{key} differs by {(p - q).abs().max():.3e}"


@every_method
def test_a_closure_is_called_with_gradients_and_its_loss_comes_back(name: str) -> None:
    model = build_model("9m", num_layers=1, vocab_size=VOCABULARY)
    optimizer = get_method(name).prepare(model)
    batch = synthetic_batch(2, 8, VOCABULARY, CPU)

    def closure() -> float:
        optimizer.zero_grad()
        loss: Tensor = model(*batch)
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == model_loss_before(name, batch)


def model_loss_before(name: str, batch: tuple[Tensor, Tensor]) -> float:
    torch.manual_seed(0)
    model = build_model("9m", num_layers=1, vocab_size=VOCABULARY)
    get_method(name).prepare(model)
    return float(model(*batch).item())


@every_method
def test_a_parameter_without_a_gradient_is_left_alone(name: str) -> None:
    model = build_model("9m", num_layers=1, vocab_size=VOCABULARY)
    optimizer = get_method(name).prepare(model)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)


@every_method
def test_a_state_follows_its_parameter_to_another_device(name: str) -> None:
    """Stored on a CPU, loaded beside parameters on another device: no tensor stays behind, step counts neither."""
    stored_on_cpu = build_model("9m", num_layers=1, vocab_size=VOCABULARY)
    optimizer = get_method(name).prepare(stored_on_cpu)
    run(stored_on_cpu, optimizer, 1)
    elsewhere = get_method(name).prepare(build_model("9m", num_layers=1, vocab_size=VOCABULARY, device="meta"))
    elsewhere.load_state_dict(optimizer.state_dict())
    left = [key for key, state in elsewhere.state.items() for t in tensors_in(state) if t.device.type != "meta"]
    assert not left, f"{name}: {len(left)} tensors stayed on the CPU"


@every_method
def test_the_strides_of_a_gradient_do_not_matter(name: str) -> None:
    """A user's hook may leave a transposed gradient; torch's fused kernels would read it as contiguous."""
    ends = []
    for transposed in (False, True):
        torch.manual_seed(0)
        model = build_model("9m", num_layers=1, vocab_size=VOCABULARY)
        optimizer = get_method(name).prepare(model)
        if get_method(name).updates == "backward":
            return
        torch.manual_seed(1)
        model(*synthetic_batch(2, 8, VOCABULARY, CPU)).backward()
        for p in model.parameters():
            if transposed and p.grad is not None and p.ndim == 2:
                p.grad = p.grad.T.contiguous().T
        optimizer.step()
        ends.append(dict(stored(model)))
    for key, t in ends[0].items():
        assert torch.allclose(t, ends[1][key], rtol=1e-4, atol=1e-6), key
