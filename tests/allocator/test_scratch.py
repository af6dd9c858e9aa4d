"""Kernels' temporaries by hand, from the sources that each formula names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from memprof.allocator.scratch import (
    SM80,
    SM90,
    SM100,
    Gpu,
    Scratch,
    Shapes,
    cublas_workspace,
    efficient_backward,
    efficient_forward,
    embedding_backward,
    flash_backward,
    flash_forward,
    flash_splits,
)
from memprof.catalogue import get_method
from memprof.scenario import Scenario
from memprof.shapes import get_shape

SMALL = Shapes(batch=2, seq_len=100, heads=4, kv_heads=4, head_dim=40, hidden=160, vocab=1000, itemsize=2)


def sizes(scratch: Scratch) -> list[int]:
    return scratch.taken.nbytes


def test_shapes_of_a_scenario() -> None:
    scenario = Scenario(model="llama3.2-1b", shape=get_shape("llama3.2-1b"), method=get_method("adamw"), seq_len=64)
    expected = Shapes(batch=8, seq_len=64, heads=32, kv_heads=8, head_dim=64, hidden=2048, vocab=128_256, itemsize=2)
    assert Shapes.of(scenario) == expected and expected.tokens == 512


@pytest.mark.parametrize(
    ("gpu", "nbytes"), [(SM80, 8_519_680), (SM90, 33_554_432), (SM100, 33_554_432), (Gpu("sm89", 8, 76), 8_519_680)]
)
def test_cublas_workspace(gpu: Gpu, nbytes: int) -> None:
    """measuring.md, section 3.1, and a change that pytorch issue 95668 shows: +8519680."""
    assert cublas_workspace(gpu) == nbytes


def test_flash_backward() -> None:
    """T = 100 becomes 128, D = 40 becomes 64: 2 x 4 x 128 rows."""
    scratch = flash_backward(SM90, SMALL)
    assert sizes(scratch) == [1024 * 4, 1024 * 64 * 4]
    assert (scratch.before, scratch.results) == (0, 3)
    grouped = flash_backward(SM90, replace(SMALL, kv_heads=2))
    assert sizes(grouped) == [1024 * 4, 1024 * 64 * 4, 200 * 4 * 40 * 2, 200 * 4 * 40 * 2]
    assert grouped.taken.alive() == []


@pytest.mark.parametrize(("head_dim", "rounded"), [(64, 64), (72, 96), (128, 128), (192, 192), (200, 256), (256, 256)])
def test_flash_pads_heads(head_dim: int, rounded: int) -> None:
    assert sizes(flash_backward(SM90, replace(SMALL, head_dim=head_dim)))[1] == 1024 * rounded * 4


def test_flash_forward_takes_nothing_where_blocks_fill_the_gpu() -> None:
    """8 x 16 x 4 blocks of 64 rows are more than 0.8 x 264."""
    shapes = replace(SMALL, batch=8, heads=16, seq_len=256, head_dim=64)
    assert flash_splits(SM90, shapes) == 1 and flash_forward(SM90, shapes) is None


def test_flash_forward_splits_the_keys_of_few_blocks() -> None:
    """num_splits_heuristic by hand: 1 x 4 x 8 = 32 blocks, 2 columns of 256 keys, 264 places: 2 splits are busier."""
    shapes = replace(SMALL, batch=1, seq_len=512, head_dim=64)
    assert flash_splits(SM90, shapes) == 2
    scratch = flash_forward(SM90, shapes)
    assert scratch is not None and scratch.results == 2
    assert sizes(scratch) == [2 * 4 * 512 * 4, 2 * 4 * 512 * 64 * 4]


def test_flash_forward_takes_the_fewest_splits_that_are_nearly_as_good() -> None:
    """108 multiprocessors count as 216 places; 4 x 2 x 16 = 128 blocks, 8 columns of 128 keys.

    5, 6 and 7 splits would leave parts as long as 4 do. Share of places that are busy in 1, 2, 3, 4 and 8 splits:
    128/216, 256/432, 384/432, 512/648, 1024/1080. The best is 0.948, and 0.889 is within 85 % of it.
    """
    shapes = replace(SMALL, batch=4, heads=2, seq_len=1024, head_dim=128)
    assert flash_splits(SM80, shapes) == 3


def test_efficient_attention_in_fp32() -> None:
    """delta by operators: product and sum go before the workspace comes. Tiles: 16 bytes and 64 x 64 floats."""
    shapes = replace(SMALL, itemsize=4)
    scratch = efficient_backward(SM90, shapes)
    rows = 2 * 4 * 100 * 4
    assert sizes(scratch) == [rows * 40, rows, rows, 8 * (2 * 1 * (16 + 64 * 64 * 4))]
    assert scratch.taken.events == [0, 1, 2, ~1, ~0, 3, ~2, ~3]
    assert efficient_forward(SM90, shapes) is None


def test_efficient_attention_in_fp32_as_a_real_gpu_recorded_it() -> None:
    """1 x 1000 tokens, 32 heads of 64: what a public snapshot has inside the operator, in order."""
    scratch = efficient_backward(SM80, replace(SMALL, batch=1, seq_len=1000, heads=32, head_dim=64, itemsize=4))
    nbytes = scratch.taken.nbytes
    signed = [nbytes[event] if event >= 0 else -nbytes[~event] for event in scratch.taken.events]
    assert signed == [8_192_000, 128_000, 128_000, -128_000, -8_192_000, 8_396_800, -128_000, -8_396_800]


@pytest.mark.parametrize(
    ("head_dim", "workspace"),
    [
        (64, 8 * 2 * 1 * (16 + 64 * 64 * 4)),
        (128, 8 * 1 * 1 * (16 + 128 * 128 * 4)),
        (136, 8 * (1 * 3 * (16 + 128 * 64 * 4) + 2 * 2 * 64 * 256 * 4)),
    ],
)
def test_efficient_attention_in_half_precision(head_dim: int, workspace: int) -> None:
    """The kernel makes delta; above 128 it adds up dk and dv in two parts of keys, and forward keeps fp32 output."""
    shapes = replace(SMALL, head_dim=head_dim)
    assert sizes(efficient_backward(SM90, shapes)) == [2 * 4 * 100 * 4, workspace]
    forward = efficient_forward(SM90, shapes)
    assert (sizes(forward) if forward else []) == ([200 * 4 * 136 * 4] if head_dim > 128 else [])


def test_embedding_backward_of_few_tokens_takes_nothing() -> None:
    assert embedding_backward(SM90, replace(SMALL, batch=12, seq_len=256)) is None


def test_embedding_backward() -> None:
    """4,000 tokens of 1,000: at most 1,000 segments, 1,000 + 400 partial sums of 160 floats."""
    scratch = embedding_backward(SM90, replace(SMALL, batch=40))
    assert scratch is not None and (scratch.before, scratch.results) == (4, 1)
    n = 4000 * 8
    assert sizes(scratch) == [n, n, n, n, 8, 8000, 8000, 8, 1400 * 8, 1400 * 160 * 4]
    assert scratch.taken.alive() == []
    assert scratch.taken.alive(scratch.before) == [0, 1], "the range is gone before the gradient comes"


def test_embedding_backward_of_a_tiny_vocabulary_adds_in_fp32() -> None:
    """100 tokens' rows, 20,000 tokens: 2,100 partial sums are above 4 x 100 blocks, and 100 are below 4 x 132."""
    shapes = replace(SMALL, batch=200, vocab=100)
    half = embedding_backward(SM90, shapes)
    assert half is not None and sizes(half)[-2:] == [2100 * 8, 100 * 160 * 4]
    full = embedding_backward(SM90, replace(shapes, itemsize=4))
    assert full is not None and sizes(full)[-1] == 2100 * 8


@pytest.mark.parametrize("make", [flash_backward, efficient_backward])
def test_nothing_is_kept(make: Callable[[Gpu, Shapes], Scratch]) -> None:
    assert make(SM90, SMALL).taken.alive() == []
