"""Sizes by hand from c10/core/AllocatorConfig.h and CUDACachingAllocator.cpp; settings as a snapshot tells them."""

from __future__ import annotations

import pytest

from memprof.allocator.settings import MIB, AllocatorSettings
from memprof.errors import UnsupportedError

PLAIN = AllocatorSettings()
TOLD = {
    "PYTORCH_CUDA_ALLOC_CONF": "",
    "max_split_size": -1,
    "garbage_collection_threshold": 0.0,
    "expandable_segments": False,
    "pinned_num_register_threads": 1,
    "release_lock_on_cudamalloc": False,
    "pinned_use_cuda_host_register": False,
    "graph_capture_record_stream_reuse": False,
    "roundup_power2_divisions": {str(2**power): 0 for power in range(16)},
}
"""what torch.cuda.memory._snapshot()["allocator_settings"] says where nothing is set (torch/csrc/cuda/Module.cpp)"""


@pytest.mark.parametrize(
    ("asked", "given"), [(1, 512), (511, 512), (512, 512), (513, 1024), (MIB, MIB), (MIB + 1, MIB + 512)]
)
def test_sizes_are_multiples_of_512(asked: int, given: int) -> None:
    """round_size"""
    assert PLAIN.rounded(asked) == given


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (1200 * 1024, 1280 * 1024),  # the source's own example, in KiB: 1024, 1280, 1536, 1792
        (1024 * 1024, 1024 * 1024),
        (1793 * 1024, 2048 * 1024),
        (2048, 2048),  # not above 512 x 4: by multiples of 512
        (2049, 2560),
        (5 * MIB, 5 * MIB),
        (5 * MIB + 1, 6 * MIB),
    ],
)
def test_four_steps_between_powers_of_two(asked: int, given: int) -> None:
    """roundup_power2_next_division"""
    assert AllocatorSettings(roundup_power2_divisions=(4,) * 16).rounded(asked) == given


def test_one_division_is_none() -> None:
    """round_size takes its way by divisions only where there is more than one."""
    assert AllocatorSettings(roundup_power2_divisions=(1,) * 16).rounded(5_000) == 5_120


def test_divisions_are_by_size() -> None:
    """AcceleratorAllocatorConfig::roundup_power2_divisions: the first for all below 2 MiB, the last from 32 GiB on."""
    settings = AllocatorSettings(roundup_power2_divisions=(0, 2, *(0,) * 13, 8))
    assert settings.rounded(2 * MIB - 1) == 2 * MIB
    assert settings.rounded(2 * MIB + 1) == 3 * MIB
    assert settings.rounded(4 * MIB + 1) == 4 * MIB + 512
    assert settings.rounded(2**35 + 1) == 2**35 + 2**32
    assert settings.rounded(2**40 + 1) == 2**40 + 2**37


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 512, 12 * MIB),
        (33 * MIB, 34 * MIB),
    ],
)
def test_segments(size: int, segment: int) -> None:
    """get_allocation_size"""
    assert PLAIN.segment(size) == segment


def test_what_is_split() -> None:
    """should_split"""
    assert PLAIN.splits(True, 512, 512) and not PLAIN.splits(True, 512, 0)
    assert PLAIN.splits(False, 2 * MIB, MIB + 512) and not PLAIN.splits(False, 2 * MIB, MIB)
    assert AllocatorSettings(expandable_segments=True).splits(False, 2 * MIB, 512)
    limited = AllocatorSettings(max_split_size=30 * MIB)
    assert limited.splits(False, 30 * MIB - 512, 4 * MIB) and not limited.splits(False, 30 * MIB, 4 * MIB)


def test_oversized_blocks_are_for_oversized_requests() -> None:
    """end of get_free_block"""
    limited = AllocatorSettings(max_split_size=30 * MIB)
    assert limited.fits(20 * MIB, 30 * MIB - 512) and not limited.fits(20 * MIB, 30 * MIB)
    assert limited.fits(40 * MIB, 60 * MIB - 512) and not limited.fits(40 * MIB, 60 * MIB)
    assert PLAIN.fits(512, 2**40)


def test_a_snapshot_tells_the_defaults() -> None:
    assert AllocatorSettings.of(TOLD) == PLAIN
    assert AllocatorSettings.of({}) == PLAIN


def test_a_snapshot_tells_what_is_set() -> None:
    text = "expandable_segments:True,max_split_size_mb:64,large_segment_size_mb:40,max_non_split_rounding_mb:24"
    divisions = {str(2**power): 8 if power == 3 else 0 for power in range(16)}
    told = TOLD | {
        "PYTORCH_CUDA_ALLOC_CONF": text,
        "max_split_size": 64 * MIB,
        "expandable_segments": True,
        "roundup_power2_divisions": divisions,
    }
    assert AllocatorSettings.of(told) == AllocatorSettings(
        expandable_segments=True,
        max_split_size=64 * MIB,
        max_non_split_rounding=24 * MIB,
        large_segment=40 * MIB,
        roundup_power2_divisions=(0, 0, 0, 8, *(0,) * 12),
    )


def test_another_backend_has_other_rules() -> None:
    with pytest.raises(UnsupportedError, match="cudaMallocAsync; only the native one"):
        AllocatorSettings.of(TOLD | {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"})
