"""What holds for every method: the formula is the trace, it learns, it repeats itself, its state can be stored.

A method enters by being in the catalogue, and what it needs differently is data: here, or on its class.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from memprof.api import plan
from memprof.catalogue import CORE, METHODS, get_method
from memprof.errors import MemprofError
from memprof.formula import formula
from memprof.ledger import state_tensors, tensors_in
from memprof.llama import LlamaForCausalLM, build_model
from memprof.method import Footprint, Method, Weight, named_weights
from memprof.methods.parts.anchor import AnchoredLinear, is_anchor
from memprof.record import Formula, Trace
from memprof.scenario import Scenario
from memprof.shapes import LlamaShape
from memprof.step import prepare, request_refresh, synthetic_batch, train_step
from memprof.timeline import CATEGORIES
from memprof.trace import booked_step, trace

EXACT = ("param", "grad", "optimizer_state", "activation", "steady", "peak_phase")
MODELS = ["9m", "60m", "350m", "1b", "7b", "llama3-8b", "llama3.2-1b"]
SOME_MODELS = ["9m", "350m", "llama3.2-1b"]
"""for the methods that `compare` does not show unless asked; `make slow` runs the other models too"""
SOME_GRID = ("one-token", "peak-inside-a-layer", "peak-at-a-weight's-gradient", "accumulating-at-a-weight's-gradient",
             "accumulating-3-odd", "tied-accumulating", "grouped-peak-inside-a-layer",
             "checkpointed-pieces-inside-a-layer", "clipped-one-token")  # fmt: skip
"""the same, for odd scenarios"""
SMALL: dict[str, Any] = {"vocab_size": 64, "num_layers": 1}
GRID: dict[str, dict[str, Any]] = {
    "one-short-sequence": {"batch_size": 1, "seq_len": 64},
    "one-long-sequence": {"batch_size": 1, "seq_len": 2048},
    "odd-batch": {"batch_size": 3, "seq_len": 50},
    "one-token": {"batch_size": 1, "seq_len": 1, **SMALL},
    "peak-inside-a-layer": {"vocab_size": 64},
    "peak-inside-the-only-layer": SMALL,
    "peak-at-a-weight's-gradient": {"batch_size": 1, "seq_len": 8, **SMALL},
    "accumulating-at-a-weight's-gradient": {"batch_size": 1, "seq_len": 8, "accumulation": 2, **SMALL},
    "accumulating-2": {"accumulation": 2},
    "accumulating-3-odd": {"accumulation": 3, "batch_size": 3, "seq_len": 50},
    "accumulating-inside-a-layer": {"accumulation": 2, "vocab_size": 64},
    "tied": {"model": "llama3.2-1b", "num_layers": 2},
    "tied-short": {"model": "llama3.2-1b", "num_layers": 2, "batch_size": 1, "seq_len": 64},
    "tied-accumulating": {"model": "llama3.2-1b", "num_layers": 2, "accumulation": 2},
    "tied-peak-inside-a-layer": {"model": "llama3.2-1b", "num_layers": 2, "vocab_size": 64, "batch_size": 3,
                                 "seq_len": 50},
    "grouped-peak-inside-a-layer": {"model": "llama3-8b", "num_layers": 2, "vocab_size": 64, "batch_size": 3,
                                    "seq_len": 50},
    "wide-vocabulary": {"vocab_size": 200_000, "num_layers": 2},
    "clipped-one-token": {"clip_grad_norm": 1.0, "batch_size": 1, "seq_len": 1, "vocab_size": 64},
    "clipped-tied-accumulating": {"clip_grad_norm": 1.0, "model": "llama3.2-1b", "num_layers": 2, "accumulation": 2},
    "pieces": {"loss_chunks": 4},
    "pieces-of-one-token": {"loss_chunks": 8, "batch_size": 1, "seq_len": 8, **SMALL},
    "pieces-accumulating-odd": {"loss_chunks": 7, "accumulation": 3, "batch_size": 3, "seq_len": 50},
    "pieces-tied": {"loss_chunks": 4, "model": "llama3.2-1b", "num_layers": 2},
    "pieces-tied-accumulating": {"loss_chunks": 5, "model": "llama3.2-1b", "num_layers": 2, "accumulation": 2},
    "checkpointed-pieces": {"checkpointing": True, "loss_chunks": 4},
    "checkpointed-pieces-inside-a-layer": {"checkpointing": True, "loss_chunks": 4, "vocab_size": 64, "batch_size": 3,
                                           "seq_len": 50},
    "checkpointed-pieces-tied-accumulating": {"checkpointing": True, "loss_chunks": 8, "model": "llama3.2-1b",
                                              "num_layers": 2, "accumulation": 2},
    "checkpointed": {"checkpointing": True, "vocab_size": 64},
    "checkpointed-one-token": {"checkpointing": True, "batch_size": 1, "seq_len": 1, **SMALL},
    "checkpointed-at-a-weight's-gradient": {"checkpointing": True, "batch_size": 1, "seq_len": 8, **SMALL},
    "checkpointed-accumulating-odd": {"checkpointing": True, "accumulation": 3, "batch_size": 3, "seq_len": 50,
                                      "vocab_size": 64},
    "checkpointed-grouped": {"checkpointing": True, "model": "llama3-8b", "num_layers": 2, "vocab_size": 64,
                             "batch_size": 3, "seq_len": 50},
    "checkpointed-tied-accumulating": {"checkpointing": True, "model": "llama3.2-1b", "num_layers": 2,
                                       "accumulation": 2},
}  # fmt: skip
VARIANTS = (
    "galore:side=reverse_std",
    "galore:side=left",
    "galore:side=right",
    "galore:side=full",
    "galore:inner=adafactor",
    "galore:inner=adafactor,beta1=0.9,side=full",
    "galore:inner=adamw-8bit",
    "galore:per_layer=true",
    "galore:per_layer=true,side=full,inner=adafactor",
    "galore:per_layer=true,inner=adamw-8bit",
    "galore-ef:side=full",
    "galore-dynamics-ef:inner=adafactor,per_layer=true",
    "adamw:state_dtype=fp32",
    "adam-mini:partition=1.0",
    "adam-mini:partition=1.0,state_dtype=weights",
    "adam-mini:state_dtype=fp32",
    "sgd:momentum=0",
    "sgd:nesterov=true,weight_decay=0.001",
    "mora:grouping=sharing",
    "remora:grouping=rotation,prune_by=magnitude,prune=0.9",
    "loqt:iterations=0",
    "galore-mini:approach=1",
    "galore-mini:approach=2",
    "q-galore:inner=adamw,proj_bits=8,group_size=100",
    "q-galore:weight_bits=16,proj_bits=16",
    "grass:choice=replacement,reset=false",
    "grass:choice=no-replacement",
    "microadam:density=0.3,block=512,quant_block=1024",
    "adamem:side=full",
)
"""settings that change what a method stores or does: each goes through the battery as a method of its own"""
NAMES = (*METHODS, *VARIANTS)
every_method = pytest.mark.parametrize("name", NAMES)
CPU = torch.device("cpu")


def scenario(name: str, model: str = "9m", **fields: Any) -> Scenario:
    return plan([model], [name], **fields)[0]


def assert_formula_is_trace(case: Scenario, seen: Trace | None = None) -> None:
    """Every key to the byte, and who owned the bytes of the peak."""
    predicted, seen = formula(case), seen or trace(case)
    drift = {key: (getattr(predicted, key), getattr(seen, key)) for key in EXACT}
    wrong = {key: pair for key, pair in drift.items() if pair[0] != pair[1]}
    assert not wrong, f"{case.method}: formula, trace: {wrong}; worst instant by formula: {predicted.peak_at}"
    assert predicted.peak == seen.peak, told(case, "peak", predicted.peak, seen.peak, predicted.peak_at)
    assert case.method.is_periodic == (predicted.refresh_peak is not None) == (seen.refresh_peak is not None)
    assert predicted.refresh_peak == seen.refresh_peak, told(
        case, "refresh_peak", predicted.refresh_peak or 0, seen.refresh_peak or 0, predicted.peak_at
    )
    assert_categories(predicted, seen)
    for key in CATEGORIES:
        pair = predicted.peak_by_category[key], seen.peak_by_category[key]
        assert pair[0] == pair[1], f"{case.method}: {key} at the peak: formula, trace: {pair}"


def told(case: Scenario, key: str, predicted: int, seen: int, instant: str) -> str:
    short = seen - predicted
    return (
        f"{case.method}: {key} by formula is {short} bytes ({short / seen:.1e}) below the trace's {seen}; "
        f"worst instant by formula: {instant}"
    )


def assert_categories(predicted: Formula, seen: Trace) -> None:
    for witness in (predicted, seen):
        assert tuple(witness.peak_by_category) == CATEGORIES
        assert sum(witness.peak_by_category.values()) == witness.peak, witness
        assert witness.peak_by_category["extra"] == witness.extra
        assert min(witness.peak_by_category.values()) >= 0, witness


def slow_unless(name: str, always: bool) -> Any:
    """The core is tried on everything each time, the rest of the catalogue on what it is `always` tried on."""
    return () if name in CORE or always else pytest.mark.slow


def models_of(name: str) -> Iterator[Any]:
    some = SOME_MODELS if name in METHODS else SOME_MODELS[:1]
    for model in MODELS:
        yield pytest.param(model, name, marks=slow_unless(name, model in some), id=f"{model}-{name}")


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(("model", "name"), [case for name in NAMES for case in models_of(name)])
def test_formula_is_the_trace_on_every_model(model: str, dtype: str, name: str) -> None:
    case = scenario(name, model, dtype=dtype)
    seen = trace(case)
    assert_formula_is_trace(case, seen)
    assert sum(seen.extra_by_maker.values()) == seen.extra


def accumulates(name: str) -> bool:
    """Whether gradients are there between backward and step, to be added to and to be clipped."""
    return get_method(name).updates == "step"


odd_scenarios = pytest.mark.parametrize(
    ("fields", "name"),
    [
        pytest.param(fields, name, marks=slow_unless(name, grid in SOME_GRID), id=f"{grid}-{name}")
        for grid, fields in GRID.items()
        for name in NAMES
        if not {"accumulation", "clip_grad_norm"} & fields.keys() or accumulates(name)
    ],
)


@odd_scenarios
def test_formula_is_the_trace_on_odd_scenarios(fields: dict[str, Any], name: str) -> None:
    for kernels, dtype in (("cpu", "bf16"), ("cuda", "fp32")):
        assert_formula_is_trace(scenario(name, kernels=kernels, dtype=dtype, **fields))


@pytest.mark.parametrize(
    ("kernels", "name"),
    [pytest.param(k, name, marks=slow_unless(name, k == "cuda")) for k in ("cpu", "cuda") for name in NAMES],
)
def test_fp16_costs_what_bf16_does(kernels: str, name: str) -> None:
    half = scenario(name, dtype="fp16", kernels=kernels)
    assert_formula_is_trace(half)
    assert formula(half) == formula(scenario(name, dtype="bf16", kernels=kernels))


@every_method
@pytest.mark.parametrize("rank", [1, 7, 128])
def test_formula_is_the_trace_at_any_rank(rank: int, name: str) -> None:
    for dtype in ("bf16", "fp32"):
        assert_formula_is_trace(scenario(name, rank=rank, dtype=dtype, **SMALL))


@pytest.mark.slow
@odd_scenarios
def test_formula_is_the_trace_on_odd_scenarios_with_the_other_kernels(fields: dict[str, Any], name: str) -> None:
    for kernels, dtype in (("cpu", "fp32"), ("cuda", "bf16")):
        assert_formula_is_trace(scenario(name, kernels=kernels, dtype=dtype, **fields))


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("model", ["60m", "130m", "250m", "1b", "llama3.2-3b"])
def test_formula_is_the_trace_with_cpu_kernels(model: str, dtype: str, name: str) -> None:
    for accumulation in (1, 2) if accumulates(name) else (1,):
        assert_formula_is_trace(scenario(name, model, dtype=dtype, kernels="cpu", accumulation=accumulation))


@every_method
def test_a_warm_step_repeats_itself(name: str) -> None:
    """The second booked step costs what the first did: nothing grows from step to step."""
    case = scenario(name, **SMALL)
    assert trace(case) == trace(case)
    model, optimizer = prepare(case, torch.device("meta"))
    train_step(model, optimizer, case)
    first, second, third = (booked_step(model, optimizer, case, "optimizer") for _ in range(3))
    assert first.peak == second.peak == third.peak
    assert first.timeline.totals() == second.timeline.totals() == third.timeline.totals()


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
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("kernels", ["cuda", "cpu"])
def test_runs_on_meta_with_its_periodic_work(kernels: str, dtype: str, name: str) -> None:
    case = scenario(name, dtype=dtype, kernels=kernels, **SMALL)
    model, optimizer = prepare(case, torch.device("meta"))
    for _ in range(2):
        assert train_step(model, optimizer, case).is_meta
    if case.method.is_periodic:
        request_refresh(optimizer)
        train_step(model, optimizer, case)
    assert all(t.is_meta for t in (*model.parameters(), *state_tensors(optimizer)))


@every_method
def test_schedule_counts_from_zero_and_grows_with_the_horizon(name: str) -> None:
    method = get_method(name)
    steps = list(method.refresh_steps(1000))
    assert steps == sorted(set(steps)) and all(0 <= step < 1000 for step in steps)
    assert list(method.refresh_steps(500)) == [step for step in steps if step < 500]
    assert list(method.refresh_steps(0)) == []


@every_method
def test_states_on_a_device_are_those_of_the_formula(name: str) -> None:
    """Real tensors, no ledger: parameters and states are counted by their storages."""
    for dtype in ("bf16", "fp32"):
        case = scenario(name, dtype=dtype, kernels="cpu", batch_size=1, seq_len=8, **SMALL)
        model, optimizer = prepare(case, CPU)
        train_step(model, optimizer, case)
        stored = (*model.parameters(), *model.buffers())
        owned = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in stored}
        kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state_tensors(optimizer)}
        states = sum(nbytes for address, nbytes in kept.items() if address not in owned)
        predicted = formula(case)
        assert (sum(owned.values()), states) == (predicted.param, predicted.optimizer_state), dtype


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


def test_shape_and_model_name_the_same_weights() -> None:
    """What a formula sees, made from numbers, is what `prepare` sees, made from a model."""
    for tied in (False, True):
        model = build_model("9m", device="meta", num_key_value_heads=2, tie_word_embeddings=tied, num_layers=2)
        shape: LlamaShape = model.config
        assert [weight for weight, _ in named_weights(model)] == shape.weights(4)
