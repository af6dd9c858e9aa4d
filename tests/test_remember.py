"""Remembered meta kernels give what the kernels give."""

from typing import Any

import pytest
import torch

from memprof.api import plan
from memprof.catalogue import METHODS
from memprof.remember import MetaKernels
from memprof.trace import trace

aten = torch.ops.aten


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.mul.Tensor, (meta(4, 1), meta(3))),
        (aten.mul.Tensor, (meta(4, 3).t(), 2.0)),
        (aten.mm.default, (meta(4, 3), meta(3, 5))),
        (aten._linalg_eigh.default, (meta(4, 4),)),
        (aten._foreach_sqrt.default, ([meta(4), meta(2, 3)],)),
        (aten._unsafe_view.default, (meta(4, 3), [12])),
        (aten.transpose.int, (meta(4, 3), 0, 1)),
    ],
)
def test_same_tensors_the_second_time(func: object, args: tuple[object, ...]) -> None:
    kernels = MetaKernels()
    first, second = (kernels.run(func, args, {}) for _ in range(2))
    assert type(first) is type(second)
    pairs = [(first, second)] if isinstance(first, torch.Tensor) else list(zip(first, second, strict=True))
    for one, other in pairs:
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        assert one.untyped_storage().nbytes() == other.untyped_storage().nbytes()


def test_new_results_share_no_storage() -> None:
    kernels, x = MetaKernels(), meta(4)
    tensors = [x, *(kernels.run(aten.neg.default, (x,), {}) for _ in range(3))]
    assert len({tensor.untyped_storage()._cdata for tensor in tensors}) == len(tensors)


def test_views_and_unsafe_views_keep_sharing_storage() -> None:
    kernels = MetaKernels()
    for _ in range(2):
        x = meta(4, 3)
        for func, args in ((aten._unsafe_view.default, (x, [12])), (aten.t.default, (x,))):
            assert kernels.run(func, args, {}).untyped_storage()._cdata == x.untyped_storage()._cdata


def test_in_place_operators_give_back_their_argument() -> None:
    kernels = MetaKernels()
    for _ in range(2):
        x = meta(4, 3)
        assert kernels.run(aten.mul_.Tensor, (x, 2.0), {}) is x
        assert kernels.run(aten.resize_.default, (x, [24]), {}).shape == (24,)


def test_shapes_and_scalars_of_other_types_are_not_confused() -> None:
    kernels, x = MetaKernels(), torch.empty(4, dtype=torch.int64, device="meta")
    dtypes = [kernels.run(aten.mul.Tensor, (x, factor), {}).dtype for factor in (1, 1.0, True)]
    assert dtypes == [torch.int64, torch.float32, torch.int64]
    assert [kernels.run(aten.arange.default, (n,), {"device": "meta"}).shape[0] for n in (3, 4)] == [3, 4]


def test_real_tensors_and_subclasses_run() -> None:
    kernels = MetaKernels()
    for value in (1.0, 2.0):
        assert kernels.run(aten.neg.default, (torch.tensor([value]),), {}).item() == -value


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("method", METHODS)
def test_a_trace_is_the_same_with_every_kernel_run(method: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (scenario,) = plan(["llama3.2-1b"], [method], num_layers=2, dtype=dtype, batch_size=2, seq_len=50)
    remembered = trace(scenario)

    def run(self: MetaKernels, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)

    monkeypatch.setattr(MetaKernels, "run", run)
    assert trace(scenario) == remembered
