"""The sizes and settings of PyTorch's CUDA caching allocator (its native backend), and how it rounds by them.

Sources, the same in torch 2.11 to 2.13: c10/core/AllocatorConfig.h (constants; its header lies in every wheel),
c10/core/AllocatorConfig.cpp (defaults, power-of-two divisions), c10/cuda/CUDACachingAllocator.cpp (rounding, segments).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from memprof.errors import UnsupportedError

MIB = 2**20
MIN_BLOCK = 512
"""kMinBlockSize: every size is a multiple of it"""
SMALL_SIZE = 1 * MIB
"""kSmallSize: what is larger comes from the large pool"""
SMALL_SEGMENT = 2 * MIB
"""kSmallBuffer: a segment, or a page, of the small pool"""
MIN_LARGE_ALLOC = 10 * MIB
"""kMinLargeAlloc: below it, blocks of the large pool share segments of `large_segment`"""
LARGE_SEGMENT = 20 * MIB
"""large_segment_size_, by default (kLargeBuffer in older versions)"""
ROUND_LARGE = 2 * MIB
"""kRoundLarge: larger segments are multiples of it"""
INTERVALS = 16
"""kRoundUpPowerOfTwoIntervals: 1 MiB, 2 MiB, ... 32 GiB and above"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorSettings:
    """What PYTORCH_ALLOC_CONF sets; the defaults are torch's (AllocatorConfig.h, AcceleratorAllocatorConfig)."""

    expandable_segments: bool = False
    max_split_size: int | None = None
    """blocks from this size on are never split; None for no limit"""
    max_non_split_rounding: int = LARGE_SEGMENT
    """by how much such a block may be larger than what was asked for"""
    large_segment: int = LARGE_SEGMENT
    """segment of the large pool below MIN_LARGE_ALLOC, and its page with expandable_segments"""
    roundup_power2_divisions: tuple[int, ...] = (0,) * INTERVALS
    """for sizes below 2 MiB, 4 MiB, ...: steps between two powers of two to round up to; 0 for none"""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """From the `allocator_settings` of a `torch.cuda.memory._snapshot()`.

        Keys as torch/csrc/cuda/Module.cpp, THCPModule_memorySnapshot, writes them. Two settings have no key and are
        read from the configuration's own text, which is there under PYTORCH_CUDA_ALLOC_CONF whatever variable set it.
        """
        text = str(told.get("PYTORCH_CUDA_ALLOC_CONF") or "")
        if re.search(r"\bbackend\s*:\s*cudaMallocAsync\b", text):
            raise UnsupportedError("the allocator's backend is cudaMallocAsync; only the native one can be replayed")
        limit = int(told.get("max_split_size", -1))
        divisions = told.get("roundup_power2_divisions") or {}
        return cls(
            expandable_segments=bool(told.get("expandable_segments", False)),
            max_split_size=limit if 0 <= limit < 2**63 - 1 else None,  # no limit is the largest size_t, cast to int64
            max_non_split_rounding=_mebibytes(text, "max_non_split_rounding_mb"),
            large_segment=_mebibytes(text, "large_segment_size_mb"),
            roundup_power2_divisions=tuple(int(divisions.get(str(2**power), 0)) for power in range(INTERVALS)),
        )

    def rounded(self, nbytes: int) -> int:
        """Bytes of the block that serves a request (DeviceCachingAllocator::round_size)."""
        if nbytes < MIN_BLOCK:
            return MIN_BLOCK
        above = nbytes.bit_length() - MIB.bit_length()
        divisions = self.roundup_power2_divisions[min(max(above, 0), INTERVALS - 1)]
        if divisions > 1 and nbytes > MIN_BLOCK * divisions:
            return _next_division(nbytes, divisions)
        return -(-nbytes // MIN_BLOCK) * MIN_BLOCK

    def segment(self, size: int) -> int:
        """Bytes of the new segment for a block of `size` (DeviceCachingAllocator::get_allocation_size)."""
        if size <= SMALL_SIZE:
            return SMALL_SEGMENT
        if size < MIN_LARGE_ALLOC:
            return self.large_segment
        return -(-size // ROUND_LARGE) * ROUND_LARGE

    def splits(self, small: bool, size: int, rest: int) -> bool:
        """Whether a block is split when `rest` bytes of it are left over (DeviceCachingAllocator::should_split)."""
        if small or self.expandable_segments:
            return rest >= MIN_BLOCK
        return rest > SMALL_SIZE and (self.max_split_size is None or size < self.max_split_size)

    def fits(self, size: int, found: int) -> bool:
        """Whether the smallest free block that is large enough may be taken (end of get_free_block)."""
        limit = self.max_split_size
        if limit is None:
            return True
        return found < limit if size < limit else found < size + self.max_non_split_rounding


def _next_division(nbytes: int, divisions: int) -> int:
    """Up to the next of `divisions` steps between two powers of two (roundup_power2_next_division)."""
    step = (1 << (nbytes.bit_length() - 1)) >> (divisions.bit_length() - 1)
    return -(-nbytes // step) * step


def _mebibytes(text: str, key: str) -> int:
    """What the configuration's text says of a setting that is given in MiB and is LARGE_SEGMENT by default."""
    found = re.search(rf"\b{key}\s*:\s*(\d+)", text)
    return int(found[1]) * MIB if found else LARGE_SEGMENT
