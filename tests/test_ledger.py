"""The ledger against torch's own allocator events, torch's MemTracker, and bytes counted by hand."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.profiler import ProfilerActivity, profile

from memprof.api import plan
from memprof.errors import MemprofError
from memprof.ledger import Ledger, tensors_in
from memprof.llama import build_model
from memprof.scenario import Scenario
from memprof.step import prepare, train_step
from memprof.timeline import CATEGORIES
from memprof.trace import trace

CPU = torch.device("cpu")
SMALL = {"batch_size": 2, "seq_len": 24, "vocab_size": 96, "num_layers": 2}
WRAPPED_NUMBER = 12
"""On a CPU aten wraps a Python number of an in-place operation into a 0-d fp64 tensor and casts that to fp32."""


def scenario(method: str = "adamw", tied: bool = False, dtype: str = "fp32", **fields: Any) -> Scenario:
    (case,) = plan(["9m"], [method], dtype=dtype, kernels="cpu", **{**SMALL, **fields})
    shape = dataclasses.replace(case.shape, tie_word_embeddings=tied, num_key_value_heads=2)
    return dataclasses.replace(case, shape=shape)


def allocator_events(work: Callable[[], object]) -> list[int]:
    """Bytes that torch's CPU allocator gave out (positive) and took back (negative), in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        work()
    assert prof.profiler is not None and prof.profiler.kineto_results is not None
    events = [event for event in prof.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def peak_of(events: list[int]) -> int:
    alive = peak = 0
    for nbytes in events:
        alive += nbytes
        peak = max(peak, alive)
    return peak


def held_by(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    states = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    tensors = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*model.parameters(), *states)}
    return sum(tensors.values())


def booked(model: nn.Module, optimizer: torch.optim.Optimizer | None, work: Callable[[], object]) -> Ledger:
    with Ledger(model, optimizer) as ledger:
        work()
    return ledger


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "fields", [{}, {"vocab_size": 20_000, "num_layers": 1}, {"accumulation": 2}, {"seq_len": 1, "batch_size": 1}]
)
def test_peak_is_the_allocators(fields: dict[str, Any], tied: bool) -> None:
    """Real tensors and no ledger at all on one side; the peak may lie in a layer, the loss or the embedding."""
    case = scenario(tied=tied, **fields)
    model, optimizer = prepare(case, CPU)
    train_step(model, optimizer, case)
    allocated = held_by(model, optimizer) + peak_of(allocator_events(lambda: train_step(model, optimizer, case)))
    ledger = booked(model, optimizer, lambda: train_step(model, optimizer, case))
    missed = allocated - ledger.peak
    assert 0 <= missed <= WRAPPED_NUMBER, f"allocator - ledger = {missed} bytes at {ledger.peak_instant}"
    assert sum(ledger.at_peak.values()) == ledger.peak


def test_peak_is_that_of_memtracker() -> None:
    """torch's own tracker works on tensors and rounds nothing on a CPU. Within 0.1 %."""
    case = scenario(batch_size=4, seq_len=64, vocab_size=2000)
    model, optimizer = prepare(case, CPU)
    train_step(model, optimizer, case)
    ledger = booked(model, optimizer, lambda: train_step(model, optimizer, case))
    tracker = MemTracker()
    tracker.track_external(model, optimizer)
    with tracker:
        train_step(model, optimizer, case)
    seen = tracker.get_tracker_snapshot("peak")[CPU]["Total"]
    assert ledger.peak == pytest.approx(seen, rel=1e-3), f"ledger {ledger.peak}, MemTracker {seen}"


def test_what_a_ledger_changes() -> None:
    """While any dispatch mode is open autograd adds two gradients of one tensor out of place. That, and the 8-byte
    numbers of scalar operations, are all that it allocates more; a LLaMA's peak is not there (see above)."""
    case = scenario()
    model, optimizer = prepare(case, CPU)
    train_step(model, optimizer, case)
    bare = allocator_events(lambda: train_step(model, optimizer, case))
    watched = allocator_events(lambda: booked(model, optimizer, lambda: train_step(model, optimizer, case)))
    assert not Counter(bare) - Counter(watched)
    more = {abs(nbytes) for nbytes in Counter(watched) - Counter(bare)}
    sums = {case.tokens * width * case.itemsize for width in (case.shape.hidden_size, case.shape.kv_size)}
    assert more <= {8, *sums}, more
    assert peak_of(bare) == peak_of(watched)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("tied", [False, True])
def test_meta_and_real_tensors_tell_the_same_story(tied: bool, dtype: str) -> None:
    case = scenario(tied=tied, dtype=dtype)
    stories = []
    for device in ("meta", "cpu"):
        model, optimizer = prepare(case, torch.device(device))
        train_step(model, optimizer, case)
        ledger = booked(model, optimizer, lambda m=model, o=optimizer: train_step(m, o, case))  # type: ignore[misc]
        stories.append((ledger.peak, ledger.at_peak, ledger.grad_bytes, ledger.timeline.totals()))
    assert stories[0] == stories[1]


def small() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


LOSS = 4
PARAMS = 4 * (10 * 20 + 20 + 20 * 5 + 5)
TENSORS = 4


def phases(ledger: Ledger) -> list[str]:
    """Its phases, by their first event."""
    return list(dict.fromkeys(phase for _, phase in ledger.timeline.phases))


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_a_users_own_step_by_hand(options: dict[str, Any]) -> None:
    """torch.optim.AdamW in its three forms: parameters, gradients, both moments and a 4-byte step for each tensor."""
    model, _ = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **options)
    x = torch.randn(7, 10)
    step_of(model, optimizer, x)
    ledger = booked(model, optimizer, lambda: step_of(model, optimizer, x))
    after = ledger.timeline.totals()
    assert ledger.grad_bytes == after["param"] == PARAMS
    assert after["optimizer_state"] == 2 * PARAMS + 4 * TENSORS
    assert (after["grad"], after["activation"], after["extra"]) == (0, 0, 0)
    assert ledger.at_peak["param"] == PARAMS and tuple(ledger.at_peak) == CATEGORIES
    assert phases(ledger) == ["forward", "backward", "optimizer"]


def test_state_born_in_the_booked_step_is_state() -> None:
    model, optimizer = small()
    ledger = booked(model, optimizer, lambda: step_of(model, optimizer, torch.randn(7, 10)))
    assert ledger.timeline.totals()["optimizer_state"] == 2 * PARAMS + 4 * TENSORS


def test_activation_by_hand() -> None:
    """Two layers and a square: the input x (outside), h (7, 20), y (7, 5); the loss and, phases guessed, its
    gradient."""
    model, optimizer = small()
    x = torch.randn(7, 10)
    ledger = booked(model, optimizer, lambda: step_of(model, optimizer, x))
    assert ledger.timeline.activation() == 4 * (7 * 20 + 7 * 5) + 2 * LOSS


def test_views_and_ties_count_once() -> None:
    model, optimizer = small()

    def views() -> list[Tensor]:
        base = torch.zeros(1000, dtype=torch.uint8)
        return [base, base[10:], base.view(10, 100).t(), base.detach(), base.view(torch.int32)]

    kept: list[Tensor] = []
    ledger = booked(model, optimizer, lambda: kept.extend(views()))
    assert ledger.peak == PARAMS + 1000
    tied = build_model("9m", num_layers=1, vocab_size=64, tie_word_embeddings=True)
    alone = booked(tied, None, lambda: torch.zeros(1))
    assert alone.timeline.totals()["param"] == tied.config.num_parameters * 4


def test_a_storage_dies_with_its_last_view() -> None:
    model, optimizer = small()
    alive = []

    def work() -> None:
        base = torch.zeros(100)
        view = base[:1]
        del base
        alive.append(ledger.timeline.totals()["extra"])
        del view
        alive.append(ledger.timeline.totals()["extra"])

    with Ledger(model, optimizer) as ledger:
        work()
    assert alive == [400, 0]


def test_what_torch_tensor_makes_is_counted() -> None:
    """It reaches the dispatcher as an input nobody has seen; torch.optim's step counts are made so."""
    model, optimizer = small()
    ledger = booked(model, optimizer, lambda: torch.tensor([1.0, 2.0]))
    assert ledger.peak == PARAMS + 8


def test_in_place_operations_allocate_nothing() -> None:
    model, optimizer = small()
    a, b = [torch.ones(50), torch.ones(60)], [torch.ones(50), torch.ones(60)]

    def work() -> None:
        torch._foreach_mul_(a, 2.0)
        torch._foreach_add_(a, b)
        torch._foreach_lerp_(a, b, 0.5)
        a[0].add_(b[0]).mul_(3)
        torch.add(a[1], b[1], out=b[1])

    ledger = booked(model, optimizer, work)
    assert ledger.peak == PARAMS
    made = booked(model, optimizer, lambda: torch._foreach_add(a, b))
    assert made.peak == PARAMS + 4 * (50 + 60)


def test_outside_storages_are_never_counted() -> None:
    """Neither a tensor made before nor its death; nor tensors of another device."""
    model, optimizer = small()
    before = [torch.zeros(10**6)]

    def work() -> None:
        _ = before[0].sum()
        before.clear()
        torch.zeros(10**6, device="meta").add_(1)

    ledger = booked(model, optimizer, work)
    assert ledger.peak == PARAMS + 4
    assert min(ledger.timeline.bytes_alive()) >= 0
    assert "outside" not in ledger.at_peak


class Quantised(Tensor):
    """A wrapper subclass: int8 codes and one fp32 scale for each row, as torchao's."""

    codes: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor) -> Quantised:
        wrapper: Quantised = Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)
        wrapper.codes, wrapper.scale = codes, scale
        return wrapper

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is not torch.ops.aten.detach.default:
            raise NotImplementedError(func)
        return Quantised(args[0].codes, args[0].scale)


def quantised(rows: int, columns: int) -> Quantised:
    return Quantised(torch.zeros(rows, columns, dtype=torch.int8), torch.zeros(rows))


class Slotted:
    __slots__ = ("__weakref__", "empty", "inner")

    def __init__(self, inner: object) -> None:
        self.inner = inner


class SlottedMore(Slotted):
    __slots__ = ("own",)


class Holder:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.myself = self


def test_tensors_are_found_wherever_they_hang() -> None:
    t = [torch.full((n,), 0.0) for n in range(1, 11)]
    more = SlottedMore(Holder(t[0]))
    more.own = [t[1], {"deep": (t[2], {3: frozenset({t[3]})})}]  # type: ignore[attr-defined]
    t[4].note = t[5]  # type: ignore[attr-defined]
    root = {"state": more, t[6]: None, "attr": t[4], "text": "x", "number": 3, "module": nn.Linear(2, 2)}
    found = {id(tensor) for tensor in tensors_in(root)}
    assert found == {id(tensor) for tensor in t[:7]}


def test_a_wrapper_subclass_counts_as_what_is_inside() -> None:
    nested = Quantised(torch.zeros(2, dtype=torch.int8), quantised(3, 5))
    for root, inside in ((quantised(3, 5), [12, 15]), ([nested], [2, 12, 15])):
        found = {t.untyped_storage()._cdata: t.nbytes for t in tensors_in(root)}
        assert sorted(found.values()) == inside


class Hoarder(torch.optim.SGD):
    """Keeps state outside `state`: in an attribute object, in slots, packed, and on the parameter itself."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)
        self.projector = Holder(torch.zeros(100))
        self.slotted = Slotted([torch.zeros(10)])
        self.packed = {"q": quantised(3, 5)}
        self.param_groups[0]["params"][0].residual = torch.zeros(7)


def test_state_in_odd_places_is_booked() -> None:
    model, _ = small()
    optimizer = Hoarder(model.parameters())
    ledger = booked(model, optimizer, lambda: step_of(model, optimizer, torch.randn(7, 10)))
    assert ledger.timeline.totals()["optimizer_state"] == 4 * 100 + 4 * 10 + 15 + 12 + 4 * 7
    assert ledger.timeline.totals()["param"] == PARAMS


def test_a_packed_parameter_is_booked_with_its_scale() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(quantised(3, 5), requires_grad=False)
            self.register_buffer("scale", torch.zeros(11))
            self.plain = nn.Parameter(torch.zeros(2))

    ledger = booked(Packed(), None, lambda: torch.zeros(1))
    assert ledger.timeline.totals()["param"] == 15 + 12 + 44 + 8


def test_guessed_phases_are_the_marked_ones() -> None:
    """Two micro-batches: forward and backward twice, then the optimizer. Guessing takes the gradient of the loss,
    which is made before autograd runs, for a part of forward."""
    case = scenario(accumulation=2)
    model, optimizer = prepare(case, CPU)
    train_step(model, optimizer, case)
    guessed = booked(model, optimizer, lambda: train_step(model, optimizer, case))
    with Ledger(model, optimizer) as marked:
        train_step(model, optimizer, case, marked.mark)
    moved = {"activation": marked.at_peak["activation"] + LOSS, "extra": marked.at_peak["extra"] - LOSS}
    assert (guessed.peak, guessed.at_peak) == (marked.peak, {**marked.at_peak, **moved})
    assert guessed.peak_instant.phase == marked.peak_instant.phase
    assert [phase for _, phase in marked.timeline.phases] == ["forward", "backward"] * 2 + ["optimizer"]
    assert phases(guessed) == phases(marked)
    assert len(guessed.timeline.forwards()) == len(marked.timeline.forwards()) == 2
    assert guessed.grad_bytes == marked.grad_bytes == case.shape.num_parameters * 4
    assert guessed.timeline.activation() == marked.timeline.activation() + LOSS


def test_the_optimizers_phase_can_be_renamed() -> None:
    model, optimizer = small()
    with Ledger(model, optimizer, step_phase="refresh") as ledger:
        step_of(model, optimizer, torch.randn(7, 10))
    assert phases(ledger) == ["forward", "backward", "refresh"]


def test_a_loop_without_optimizer_has_its_gradients_read_at_the_end() -> None:
    model, _ = small()
    ledger = booked(model, None, lambda: model(torch.randn(7, 10)).sum().backward())
    assert ledger.grad_bytes == ledger.timeline.totals()["grad"] == PARAMS


def test_inference_saves_nothing() -> None:
    model, _ = small()
    with torch.no_grad():
        ledger = booked(model, None, lambda: model(torch.randn(7, 10)))
    assert (ledger.at_peak["activation"], ledger.at_peak["grad"], ledger.timeline.activation()) == (0, 0, 0)


def test_an_error_inside_leaves_nothing_behind() -> None:
    model, optimizer = small()
    with pytest.raises(RuntimeError, match="stop"), Ledger(model, optimizer) as ledger:
        model(torch.randn(7, 10)).sum().backward()
        raise RuntimeError("stop")
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    assert [len(kind) for kind in hooks] == [0, 0]
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    events = len(ledger.timeline.events)
    step_of(model, optimizer, torch.randn(7, 10))
    assert len(ledger.timeline.events) == events
    again = booked(model, optimizer, lambda: step_of(model, optimizer, torch.randn(7, 10)))
    assert again.timeline.totals()["optimizer_state"] == 2 * PARAMS + 4 * TENSORS


def test_ledgers_nest() -> None:
    """The inner one sees its part of what the outer one sees."""
    model, optimizer = small()
    kept = []
    with Ledger(model, optimizer) as outer:
        kept.append(torch.zeros(10))
        with Ledger(model, optimizer) as inner:
            kept.append(torch.zeros(100))
    assert (inner.peak, outer.peak) == (PARAMS + 400, PARAMS + 440)


def test_reading_a_ledger_twice_says_the_same() -> None:
    model, optimizer = small()
    ledger = booked(model, optimizer, lambda: step_of(model, optimizer, torch.randn(7, 10)))
    assert ledger.peak_instant == ledger.peak_instant
    x = ledger.peak
    step_of(model, optimizer, torch.randn(700, 10))
    assert ledger.peak == x


def test_a_buffer_given_by_keyword_is_outside() -> None:
    module, buffer, a = nn.Linear(2, 2), torch.zeros(100, 100), torch.zeros(100, 100)
    with Ledger(module) as ledger:
        torch.mm(a, a, out=buffer)
    assert ledger.peak == sum(p.nbytes for p in module.parameters())


def test_a_trace_leaves_the_callers_random_numbers_alone() -> None:
    (scenario,) = plan(["9m"], ["lora"], num_layers=1, vocab_size=64, seq_len=8)
    state = torch.get_rng_state()
    trace(scenario)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_on_two_kinds_of_device_is_refused() -> None:
    """The one that is not watched may hold all the memory."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4096, 4096, device="meta"))
    with pytest.raises(MemprofError, match="the model's parameters lie on cpu and meta"):
        Ledger(model)
