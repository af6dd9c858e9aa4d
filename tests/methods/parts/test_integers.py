"""The integer quantiser by hand, by its error bound, by statistics, and against the code of Q-GaLore's authors."""

from __future__ import annotations

from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from memprof.ledger import Ledger
from memprof.methods.parts.integers import Integers, Packed

DTYPES = [torch.float32, torch.bfloat16]


def rounded(x: Tensor, integers: Integers) -> Packed:
    rows, (flat,) = integers.empty([x.numel()], x)
    flat.copy_(x.view(-1))
    scale, zero = integers.round_(rows)
    return Packed(integers.pack(flat), scale, zero)


def read(packed: Packed, numel: int, integers: Integers) -> Tensor:
    return integers.read([packed], [numel])[1][0]


def test_codes_by_hand() -> None:
    """-1 ... 2 over 15 codes: scale 0.2, zero point 5; the second group, 0 ... 30, has scale 2 and zero point 0."""
    x = torch.tensor([-1.0, 2.0, 0.0, 0.49, 0.0, 30.0, 4.9, 7.0])
    packed = rounded(x, Integers(4, group=4))
    torch.testing.assert_close(packed.scale, torch.tensor([[0.2], [2.0]]))
    assert packed.zero.tolist() == [[5], [0]]
    codes = [0, 15, 5, 7, 0, 15, 2, 4]  # 7 / 2 is a tie: to even
    assert packed.codes.tolist() == [codes[i] + 16 * codes[i + 4] for i in range(4)]
    back = read(packed, 8, Integers(4, group=4))
    torch.testing.assert_close(back, torch.tensor([-1.0, 2.0, 0.0, 0.4, 0.0, 30.0, 4.0, 8.0]))


def test_two_codes_of_four_bits_share_a_byte_and_an_odd_one_has_its_own() -> None:
    for numel, nbytes in ((512, 256), (7, 4), (1, 1)):
        packed = rounded(torch.randn(numel), Integers(4))
        assert packed.codes.dtype == torch.uint8
        assert packed.codes.numel() == nbytes == Integers(4).code_bytes(numel)
    assert Integers(8).code_bytes(7) == 7


@hypothesis.given(
    numel=st.integers(1, 700),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([2, 100, 256]),
    shift=st.floats(-3, 3),
)
def test_what_is_read_back_is_within_a_step_whatever_the_size_and_sign(
    numel: int, bits: int, group: int, shift: float
) -> None:
    """Zero is in every range, so no group of one sign is cut off. Half a step, and as much for the zero point's."""
    integers = Integers(bits, group)
    x = torch.randn(numel, dtype=torch.float64) + shift
    packed = rounded(x, integers)
    assert len(packed.scale) == integers.groups(numel)
    step = packed.scale.repeat_interleave(group, dim=0).view(-1)[:numel]
    assert ((read(packed, numel, integers) - x).abs() <= step * (1 + 1e-9)).all()
    assert int(packed.codes.max()) <= 255


def test_several_tensors_are_read_as_each_alone_and_padding_is_zero() -> None:
    integers, sizes = Integers(4, group=100), [250, 7, 300, 101]
    tensors = [torch.randn(size) for size in sizes]
    packs = [rounded(x, integers) for x in tensors]
    rows, out = integers.read(packs, sizes)
    for flat, packed, size in zip(out, packs, sizes, strict=True):
        assert torch.equal(flat, read(packed, size, integers))
    inside = torch.zeros(rows.numel(), dtype=torch.bool)
    for flat in out:
        start = flat.storage_offset()
        inside[start : start + len(flat)] = True
    assert rows.view(-1)[~inside].eq(0).all() and rows.numel() == 300 + 100 + 300 + 200


@pytest.mark.parametrize("dtype", DTYPES)
def test_stochastic_rounding_is_unbiased(dtype: torch.dtype) -> None:
    """The mean of n draws is within five standard errors of the fraction, the smallest of bf16 too."""
    integers, n = Integers(8, group=256), 4096
    x = torch.zeros(n, 256, dtype=dtype)
    x[:, 0], x[:, 1] = -127.5, 127.5  # the scale is 1
    fractions = torch.tensor([0.001, 0.01, 0.25, 0.5, 0.75, 0.99], dtype=dtype)
    x[:, 2:8] = fractions
    x[:, 8:14] = -fractions
    codes, scale, zero = integers.round_stochastically(x, torch.Generator().manual_seed(0))
    back = ((codes - zero) * scale).double().mean(dim=0)
    for signed, means in ((fractions, back[2:8]), (-fractions, back[8:14])):
        f = signed.double()
        error = 5 * ((f.abs() * (1 - f.abs())) / n).sqrt()
        assert ((means - f).abs() <= error).all(), f"{means - f}"
    assert back[14:].eq(0).all(), "what is a code stays it"


def test_stochastic_rounding_is_the_rule_for_given_random_numbers() -> None:
    integers = Integers(8, group=4)
    x = torch.tensor([[-1.0, 1.55, 0.123, 0.127]], dtype=torch.float64)
    u = torch.rand(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    codes, scale, zero = integers.round_stochastically(x.clone(), torch.Generator().manual_seed(5))
    exact = x / scale + zero
    assert torch.equal(codes, (exact.floor() + (u < exact - exact.floor())).clamp(0, 255))
    assert float(scale) == pytest.approx(0.01)


def test_what_is_not_finite_does_not_stop_and_can_be_seen() -> None:
    for bad in (float("nan"), float("inf")):
        x = torch.ones(2, 256)
        x[0, 3] = bad
        _, scale, _ = Integers(8).round_stochastically(x, None)
        assert not scale[0].isfinite() and scale[1].isfinite()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("numel", [512, 301])
def test_scratch_is_whole_groups_in_the_tensors_dtype(numel: int, dtype: torch.dtype, bits: int) -> None:
    """Reading takes a group's elements; rounding the same once more, and a scale and a zero point."""
    integers = Integers(bits)
    packed = rounded(torch.randn(numel, dtype=dtype), integers)
    held = torch.nn.Module()
    for key, tensor in packed._asdict().items():
        held.register_buffer(key, tensor)
    held.register_parameter("p", torch.nn.Parameter(torch.zeros(1)))
    with Ledger(held) as ledger:
        rows, _ = integers.read([packed], [numel])
        integers.round_stochastically(rows, None)
    groups = integers.groups(numel)
    assert ledger.peak_instant.by_category["extra"] == (2 * 256 * groups + 2 * groups) * dtype.itemsize


@pytest.mark.reference
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_are_those_of_the_authors_quantisers(
    dtype: torch.dtype, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearest and, with the same random numbers, stochastic, of groups that straddle zero."""
    authors: Any = pytest.importorskip("q_galore_torch.q_galore_adamw8bit").AdamW8bit
    x = torch.randn(40, 256).to(dtype)
    codes, scales, zeros = authors._quantize(None, x, q_group_size=256, n_bit=bits)
    rows = x.clone()
    scale, zero = Integers(bits).round_(rows)
    assert torch.equal(rows, codes.to(dtype)) and torch.equal(scale, scales) and torch.equal(zero, zeros)
    draws = torch.Generator().manual_seed(1)
    monkeypatch.setattr(torch, "rand_like", lambda y: torch.rand(y.shape, generator=draws))
    codes, _, _ = authors._quantize_stochastic_round(None, x, q_group_size=256, n_bit=bits)
    ours, _, _ = Integers(bits).round_stochastically(x.clone(), torch.Generator().manual_seed(1))
    assert torch.equal(ours, codes.to(dtype))


@pytest.mark.reference
def test_the_authors_quantiser_cuts_off_a_group_of_one_sign() -> None:
    """Why ours differs there: all of 2 ... 3 is read back as 1 by theirs."""
    authors: Any = pytest.importorskip("q_galore_torch.q_galore_adamw8bit").AdamW8bit
    x = torch.linspace(2, 3, 256)[None]
    codes, scales, zeros = authors._quantize(None, x, q_group_size=256, n_bit=8)
    theirs = (codes - zeros) * scales
    torch.testing.assert_close(theirs, torch.ones_like(x))
    assert float((read(rounded(x, Integers(8)), 256, Integers(8)) - x).abs().max()) < 0.006
