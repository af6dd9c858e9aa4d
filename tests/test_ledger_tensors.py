"""Which tensors a ledger counts, and as whose: views, ties, wrappers, states in odd places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memprof.ledger import Ledger, tensors_in
from memprof.llama import build_model
from tests.small_step import PARAMS, booked, small, step_of


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


def test_a_buffer_given_by_keyword_is_outside() -> None:
    module, buffer, a = nn.Linear(2, 2), torch.zeros(100, 100), torch.zeros(100, 100)
    with Ledger(module) as ledger:
        torch.mm(a, a, out=buffer)
    assert ledger.peak == sum(p.nbytes for p in module.parameters())
