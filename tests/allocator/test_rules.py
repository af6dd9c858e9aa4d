"""The allocator's rules in small cases by hand, its invariants, and a naive reading of the same source beside it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.allocator.blocks import Block
from memprof.allocator.rules import CachingAllocator, OutOfCapacityError
from memprof.allocator.settings import MIB, AllocatorSettings
from tests.allocator.naive import FREE, USED, Naive

EXPANDABLE = AllocatorSettings(expandable_segments=True)
MODES = pytest.mark.parametrize("settings", [AllocatorSettings(), EXPANDABLE], ids=["segments", "expandable"])


def counts(allocator: CachingAllocator) -> tuple[int, int, int, int]:
    """MiB: allocated, reserved, cached, fragmentation."""
    figures = (allocator.allocated, allocator.reserved, allocator.cached, allocator.fragmentation)
    return tuple(nbytes // MIB for nbytes in figures)  # type: ignore[return-value]


def test_small_blocks_share_a_segment_of_2_mib() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(1000) for _ in range(2048)]
    assert [allocator.reserved, allocator.allocated, allocator.requested] == [2 * MIB, 2 * MIB, 2_048_000]
    allocator.malloc(1)
    assert allocator.reserved == 4 * MIB
    assert [block.address for block in blocks[:3]] == [0, 1024, 2048]


def test_blocks_below_10_mib_share_a_segment_of_20_mib() -> None:
    allocator = CachingAllocator()
    for _ in range(2):
        allocator.malloc(9 * MIB)
    assert counts(allocator) == (18, 20, 0, 2)
    assert allocator.malloc(3 * MIB // 2).nbytes == 2 * MIB, "half a MiB over is not split off"
    allocator.malloc(10 * MIB)
    assert counts(allocator) == (30, 30, 0, 0)


def test_a_block_that_is_not_split_is_counted_whole() -> None:
    """should_split: 1 MiB over is too little in the large pool; allocated_bytes takes block->size."""
    allocator = CachingAllocator()
    block = allocator.malloc(11 * MIB)
    assert (block.nbytes, allocator.allocated, allocator.requested) == (12 * MIB, 12 * MIB, 11 * MIB)
    allocator.free(block)
    assert counts(allocator) == (0, 12, 12, 0) and allocator.requested == 0
    assert allocator.malloc(11 * MIB - 512).nbytes == 11 * MIB - 512


def test_the_smallest_free_block_serves_and_the_lowest_of_equal_ones() -> None:
    """get_free_block: a set by size, then by address."""
    allocator = CachingAllocator()
    held = [allocator.malloc(size * MIB) for size in (40, 20, 30, 20)]
    for block in held:
        allocator.free(block)
    assert allocator.malloc(20 * MIB).address == held[1].address
    assert allocator.malloc(20 * MIB).address == held[3].address
    assert allocator.malloc(20 * MIB).address == held[2].address
    assert counts(allocator) == (60, 110, 40, 10)


def test_small_and_large_blocks_never_mix() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(50 * MIB))
    allocator.malloc(1)
    assert counts(allocator) == (0, 52, 50, 1)


def test_streams_never_mix() -> None:
    """BlockComparatorSize: a stream has its own free blocks."""
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(50 * MIB))
    allocator.malloc(50 * MIB, stream=7)
    assert counts(allocator) == (50, 100, 50, 0)


def test_free_neighbours_are_joined_within_their_segment() -> None:
    """try_merge_blocks"""
    allocator = CachingAllocator()
    left, middle, right = (allocator.malloc(6 * MIB) for _ in range(3))
    allocator.free(left)
    allocator.free(right)
    assert counts(allocator) == (6, 20, 0, 14)
    allocator.free(middle)
    assert counts(allocator) == (0, 20, 20, 0)
    assert allocator.malloc(20 * MIB).address == left.address and allocator.reserved == 20 * MIB


def test_empty_cache_gives_back_free_segments_alone() -> None:
    """release_blocks: those that are not split."""
    allocator = CachingAllocator()
    kept, freed = allocator.malloc(6 * MIB), allocator.malloc(6 * MIB)
    allocator.free(freed)
    allocator.free(allocator.malloc(64 * MIB))
    allocator.empty_cache()
    assert counts(allocator) == (6, 20, 0, 14) and allocator.reserved_peak == 84 * MIB
    allocator.free(kept)
    allocator.empty_cache()
    assert counts(allocator) == (0, 0, 0, 0)


def test_what_is_cached_is_given_back_before_there_is_no_room() -> None:
    """malloc: alloc_block, then release_cached_blocks and alloc_block again, which counts a retry."""
    allocator = CachingAllocator(capacity=100 * MIB)
    allocator.free(allocator.malloc(60 * MIB))
    allocator.malloc(80 * MIB)
    assert (allocator.retries, counts(allocator)) == (1, (80, 80, 0, 0))
    with pytest.raises(OutOfCapacityError, match="31457280 bytes do not fit beside 83886080 reserved in 104857600"):
        allocator.malloc(30 * MIB)


def test_oversized_blocks_are_given_back_first() -> None:
    """release_available_cached_blocks: with max_split_size, and without a retry."""
    allocator = CachingAllocator(AllocatorSettings(max_split_size=30 * MIB), capacity=100 * MIB)
    small, *large = [allocator.malloc(size * MIB) for size in (20, 38, 40)]
    for block in (small, *large):
        allocator.free(block)
    allocator.malloc(60 * MIB)
    assert (allocator.retries, counts(allocator)) == (0, (60, 80, 20, 0))


def test_expandable_segments_grow_by_pages() -> None:
    """ExpandableSegment::map: 2 MiB in the small pool, 20 MiB in the large one; no remainder is too small to split."""
    allocator = CachingAllocator(EXPANDABLE)
    first = allocator.malloc(11 * MIB)
    assert counts(allocator) == (11, 20, 0, 9)
    allocator.malloc(512)
    assert counts(allocator) == (11, 22, 0, 10)
    last = allocator.malloc(25 * MIB)
    assert last.address == first.address + 11 * MIB, "the free end of the range is extended"
    assert counts(allocator) == (36, 42, 0, 5)


def test_expandable_segments_unmap_whole_pages() -> None:
    """unmap_block: what shares a page with a live block stays."""
    allocator = CachingAllocator(EXPANDABLE)
    first, middle, last = (allocator.malloc(size * MIB) for size in (5, 50, 5))
    allocator.free(middle)
    assert counts(allocator) == (10, 60, 0, 50)
    allocator.empty_cache()
    assert counts(allocator) == (10, 40, 0, 30)  # [5][15 free] | 20 unmapped | [15 free][5]
    assert allocator.malloc(30 * MIB).address == first.address + 5 * MIB, "the hole is filled first"
    assert counts(allocator) == (40, 60, 0, 20)
    for block in (first, last):
        allocator.free(block)


def test_zero_bytes_are_never_asked_for() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        CachingAllocator().malloc(0)


SIZES = st.one_of(
    st.integers(1, 4096),
    st.integers(1, 3 * MIB),
    st.integers(MIB, 45 * MIB),
    st.sampled_from([512, MIB, MIB + 1, 2 * MIB, 10 * MIB - 1, 10 * MIB, 20 * MIB, 32 * MIB]),
)
STEPS = st.lists(st.tuples(st.sampled_from(["malloc", "malloc", "free", "free", "empty"]), SIZES), max_size=60)


def segments(allocator: CachingAllocator, live: list[Block]) -> Iterator[list[Block]]:
    """Every segment's blocks in order, found from the live and the free ones."""
    pools = allocator._pools.values()
    free = [block for pool in pools for _, _, block in pool.free]
    unmapped = [block for pool in pools for _, block in pool.unmapped]
    heads: dict[int, Block] = {}
    for block in (*live, *free, *unmapped):
        while block.prev is not None:
            block = block.prev
        heads[id(block)] = block
    for head in heads.values():
        blocks: list[Block] = []
        following: Block | None = head
        while following is not None:
            blocks.append(following)
            following = following.next
        yield blocks


@MODES
@given(steps=STEPS)
def test_invariants(settings: AllocatorSettings, steps: list[tuple[str, int]]) -> None:
    """Blocks tile their segment, no two free ones touch, and live and free bytes are what is reserved."""
    allocator, live, peak = CachingAllocator(settings), [], 0
    for step, nbytes in steps:
        if step == "malloc":
            live.append(allocator.malloc(nbytes))
        elif step == "free" and live:
            allocator.free(live.pop(nbytes % len(live)))
        elif step == "empty":
            allocator.empty_cache()
        held = [block for blocks in segments(allocator, live) for block in blocks if block.mapped]
        assert sum(block.nbytes for block in held) == allocator.reserved
        assert sum(block.nbytes for block in held if block.allocated) == allocator.allocated
        assert {id(block) for block in held if block.allocated} == {id(block) for block in live}
        for blocks in segments(allocator, live):
            for left, right in zip(blocks, blocks[1:], strict=False):
                assert left.address + left.nbytes == right.address and right.prev is left
                assert left.allocated or right.allocated or left.mapped != right.mapped
        assert 0 <= allocator.cached <= allocator.reserved - allocator.allocated
        assert peak <= (peak := allocator.reserved_peak) and allocator.reserved <= peak
    reserved = allocator.reserved
    for block in live:
        allocator.free(block)
    assert (allocator.allocated, allocator.requested, allocator.fragmentation) == (0, 0, 0)
    assert allocator.reserved == allocator.cached == reserved
    allocator.empty_cache()
    assert allocator.reserved == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("expandable", [False, True])
@pytest.mark.parametrize("limit", [None, 24 * MIB])
def test_a_naive_reading_of_the_source_says_the_same(expandable: bool, limit: int | None, seed: int) -> None:
    """Every count after every step of a random stream, with a device that is sometimes full."""
    draw, capacity = random.Random(seed), 300 * MIB
    settings = AllocatorSettings(expandable_segments=expandable, max_split_size=limit)
    fast, slow = CachingAllocator(settings, capacity), Naive(expandable, limit, capacity)
    live: list[tuple[Block, list[Any]]] = []
    for _ in range(1000):
        if live and draw.random() < 0.48:
            block, piece = live.pop(draw.randrange(len(live)))
            fast.free(block)
            slow.free(piece)
        elif draw.random() < 0.02:
            fast.empty_cache()
            slow.empty_cache()
        else:
            nbytes = draw.choice((draw.randint(1, 5000), draw.randint(1, 2 * MIB), draw.randint(1, 60 * MIB)))
            try:
                piece = slow.malloc(nbytes)
            except MemoryError:
                with pytest.raises(OutOfCapacityError):
                    fast.malloc(nbytes)
            else:
                live.append((fast.malloc(nbytes), piece))
                assert live[-1][0].nbytes == piece[1]
                assert expandable or live[-1][0].address == piece[0]
        assert fast.allocated == slow.total(USED)
        assert fast.reserved == slow.total(USED, FREE)
        assert (fast.cached, fast.retries) == (slow.cached, slow.retries)
    assert fast.retries, "the device was never full"
