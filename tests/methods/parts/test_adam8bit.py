"""The AdamW step on 8-bit moments: together as alone, in pieces as a whole, scratch against the ledger."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memprof.ledger import Ledger
from memprof.methods.parts import adam8bit, blockwise
from memprof.methods.parts.adam8bit import adam8bit_
from memprof.methods.parts.blockwise import BLOCK, Maps, new_moments
from memprof.optimizer import PIECE, MethodOptimizer, step_tensor, with_grad

OPTIONS: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


class Plain(MethodOptimizer):
    """The helper alone, over parameters of any shapes."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__(params, {"step": 0})
        self.params = params
        self.maps = Maps(params[0].device)
        for p in params:
            self.state[p].update(new_moments(p))

    def update(self) -> None:
        params = with_grad(self.param_groups[0])
        self.param_groups[0]["step"] += 1
        step = step_tensor(self.param_groups[0]["step"], params[0].device)
        grads: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        adam8bit_(params, grads, [self.state[p] for p in params], self.maps, step, **OPTIONS)


def plain(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32, device: str = "cpu") -> Plain:
    generator = torch.Generator().manual_seed(0)
    return Plain([nn.Parameter(torch.randn(s, generator=generator).to(dtype).to(device)) for s in shapes])


def set_gradients(optimizer: Plain, seed: int) -> None:
    for index, p in enumerate(optimizer.params):
        generator = torch.Generator().manual_seed(100 * seed + index)
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype).to(p.device)


SHAPES = [(64, 96), (50,), (65, 77), (4096,), (33, 130)]
"""two of them not in whole blocks, one exempt"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_together_are_updated_as_each_alone(dtype: torch.dtype) -> None:
    together, alone = plain(SHAPES, dtype), [plain(SHAPES, dtype) for _ in SHAPES]
    for step in range(3):
        set_gradients(together, step)
        together.step()
        for index, one in enumerate(alone):
            set_gradients(one, step)
            for p in one.params[:index] + one.params[index + 1 :]:
                p.grad = None
            one.step()
    for index, p in enumerate(together.params):
        other = alone[index].params[index]
        assert torch.equal(p, other)
        assert all(torch.equal(together.state[p][key], alone[index].state[other][key]) for key in together.state[p])


def test_a_weight_in_pieces_is_updated_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = plain([(65, 77)]), plain([(65, 77)])
    for step in range(3):
        set_gradients(whole, step)
        set_gradients(cut, step)
        whole.step()
        with monkeypatch.context() as patch:
            patch.setattr(adam8bit, "PIECE", 4 * BLOCK)
            cut.step()
    (p,), (q,) = whole.params, cut.params
    assert torch.equal(p, q) and all(torch.equal(whole.state[p][key], cut.state[q][key]) for key in whole.state[p])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_scratch_is_as_said_and_no_more_for_a_weight_of_many_pieces(device: str, dtype: torch.dtype) -> None:
    large = (2 * PIECE + 1000,)
    shapes = [*SHAPES, large] if device == "meta" else SHAPES
    optimizer = plain(SHAPES, dtype, device)
    if device == "meta":
        optimizer = Plain([*optimizer.params, nn.Parameter(torch.empty(large, dtype=dtype, device="meta"))])
    for p in optimizer.params:
        p.grad = torch.zeros_like(p)
    holder = nn.Module()
    for index, p in enumerate(optimizer.params):
        holder.register_parameter(str(index), p)
    optimizer.step()
    with Ledger(holder, optimizer) as ledger:
        optimizer.step()
    steady = ledger.timeline.bytes_alive()[ledger.start - 1]
    sizes = [blockwise.scratch_bytes(torch.Size(s).numel(), dtype.itemsize) for s in shapes]
    expected = max(sum(sizes[: len(SHAPES)]), max(sizes))
    assert expected == (blockwise.SCRATCH_LIMIT if device == "meta" else sum(sizes))
    assert ledger.peak - steady == expected + blockwise.UPDATE_SCALARS


def test_a_gradient_that_is_not_finite_shows() -> None:
    optimizer = plain([(64, 96)])
    set_gradients(optimizer, 0)
    (p,) = optimizer.params
    assert p.grad is not None
    p.grad.view(-1)[300] = torch.nan
    optimizer.step()
    assert optimizer.state[p]["exp_avg_absmax"].isnan().nonzero().tolist() == [[1]]
    set_gradients(optimizer, 1)
    optimizer.step()
    assert p.detach().view(-1)[256:512].isnan().all() and p.detach().view(-1)[512:].isfinite().all()
