"""Block-wise 8-bit moments: the maps by their rule, codes against an exhaustive search, bytes against the ledger."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memprof.ledger import Ledger
from memprof.methods.parts import blockwise
from memprof.methods.parts.blockwise import BLOCK, CODES, Maps, adam8bit_, new_moments
from memprof.optimizer import PIECE, MethodOptimizer, step_tensor, with_grad

CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def numbers(signed: bool) -> Tensor:
    return torch.tensor(blockwise.dynamic_map(signed), dtype=torch.float32)


def test_maps_by_hand() -> None:
    """The lowest decade has one cell, 1e-7 ... 1e-6, centre 5.5e-7; unsigned it has two, of centres 3.25e-7, 7.75e-7.

    The top decade has 64 cells of 0.9 / 64, or 128 of 0.9 / 128.
    """
    signed, unsigned = numbers(True), numbers(False)
    assert len(signed) == len(unsigned) == CODES
    torch.testing.assert_close(signed[126:129], torch.tensor([-5.5e-7, 0, 5.5e-7]))
    torch.testing.assert_close(unsigned[:3], torch.tensor([0, 3.25e-7, 7.75e-7]))
    torch.testing.assert_close(signed[[0, 254, 255]], torch.tensor([0.45 / 64 - 1, 1 - 0.45 / 64, 1]))
    torch.testing.assert_close(unsigned[[254, 255]], torch.tensor([1 - 0.45 / 128, 1]))
    assert torch.equal(signed[:127].neg().flip(0), signed[128:255])  # each number but 1 has its negative


@pytest.mark.parametrize("signed", [True, False])
def test_a_code_is_the_nearest_number_and_a_tie_goes_up(signed: bool) -> None:
    table, borders = numbers(signed), Maps(CPU).borders()[: CODES - 1] if signed else Maps(CPU).borders()[CODES:]
    scales = torch.logspace(-7, 0, 64)[:, None]
    values = torch.randn(64, BLOCK) * scales if signed else torch.rand(64, BLOCK) * scales
    codes = blockwise.encode(values.clamp(-1, 1), borders, out=torch.empty(64, BLOCK, dtype=torch.int32))
    errors = (values.clamp(-1, 1)[..., None].double() - table.double()).abs()
    assert torch.equal(codes, errors.argmin(-1).int())
    ties = blockwise.encode(borders.contiguous(), borders, out=torch.empty(CODES - 1, dtype=torch.int32))
    assert torch.equal(ties, torch.arange(1, CODES, dtype=torch.int32))


def test_blocks_of_zeros_and_of_tiny_numbers_survive() -> None:
    values, absmax = torch.zeros(3, BLOCK), torch.empty(3, 1)
    values[1, 5], values[2] = -3e-20, 7e-30
    blockwise.normalise_(values, absmax)
    assert values[0].eq(0).all() and values[1, 5] == -1 and values[2].eq(1).all()
    assert absmax.tolist()[1:] == [[pytest.approx(3e-20)], [pytest.approx(7e-30)]]


def test_bytes_by_hand() -> None:
    """4097 elements begin 17 blocks: 2 * 4097 codes and 2 * 17 fp32; 4095 stay in fp32."""
    assert blockwise.moment_bytes(4097) == 2 * 4097 + 2 * 17 * 4 == 8330
    assert blockwise.moment_bytes(4095) == 2 * 4095 * 4
    for numel in (4095, 4096, 4097):
        state = new_moments(torch.empty(numel))
        assert sum(t.nbytes for t in state.values()) == blockwise.moment_bytes(numel)


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
            patch.setattr(blockwise, "PIECE", 4 * BLOCK)
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


@pytest.mark.reference
@pytest.mark.parametrize("signed", [True, False])
def test_maps_and_codes_are_torchaos(signed: bool) -> None:
    utils = pytest.importorskip("torchao.optim.quant_utils")
    assert blockwise.dynamic_map(signed) == utils.create_dynamic_map(signed)
    borders = Maps(CPU).borders()
    values = torch.randn(64, BLOCK) if signed else torch.rand(64, BLOCK)
    absmax = torch.empty(64, 1)
    scaled, theirs = utils.scale_tensor(values, BLOCK)
    ours = blockwise.normalise_(values.clone(), absmax)
    codes = blockwise.encode(
        ours, borders[: CODES - 1] if signed else borders[CODES:], out=torch.empty(64, BLOCK, dtype=torch.int32)
    )
    assert torch.equal(absmax.view(-1), theirs)
    assert torch.equal(codes.to(torch.uint8), utils.quantize_8bit_with_qmap(scaled, numbers(signed)))
