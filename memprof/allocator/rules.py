"""PyTorch's CUDA caching allocator (native backend), rule by rule, without a GPU.

Follows c10/cuda/CUDACachingAllocator.cpp, DeviceCachingAllocator, as torch has it since `large_segment_size_mb` is a
setting; each function names the one that it follows. What came to it up to 2.13 (private pools that do not split or
that help out, an early refusal by memory fraction) leaves these rules alone. One device. Left out: private pools of
CUDA graphs, blocks that other streams still use, garbage_collection_threshold (it acts only below a memory fraction of
1), free-memory callbacks.

What no source says is where the driver puts a segment. That decides between free blocks of equal size in different
segments, and nothing else. A recorded run knows it of each block, and so of a segment by its first one; else a segment
lies behind the one before. With expandable segments a pool has one range of addresses without end, where the real one
has 9/8 of the GPU's memory.
"""

from __future__ import annotations

from bisect import bisect_left

from memprof.allocator.addresses import Addresses
from memprof.allocator.blocks import Block, BlockPool
from memprof.allocator.settings import SMALL_SEGMENT, SMALL_SIZE, AllocatorSettings
from memprof.errors import MemprofError

PAGES = 2**26
"""of a range of addresses: more than any GPU has"""


class OutOfCapacityError(MemprofError):
    """The simulated device has no room for a block, even after all that is cached was given back."""


class CachingAllocator:
    """`malloc` and `free` as the real one serves them, with its counts of bytes.

    allocated: whole blocks handed out; requested: what was asked for in them; reserved: taken from the driver;
    cached: free segments; fragmentation: free bytes in segments that hold a live block.
    """

    def __init__(self, settings: AllocatorSettings | None = None, capacity: int | None = None) -> None:
        self.settings = settings or AllocatorSettings()
        self.capacity = capacity
        """what the driver can give; None for no end"""
        self.allocated = self.requested = self.reserved = self.reserved_peak = 0
        self.retries = 0
        """num_alloc_retries: how often all that was cached had to be given back"""
        self._pools: dict[tuple[int, bool], BlockPool] = {}
        self._addresses = Addresses()

    @property
    def cached(self) -> int:
        return sum(pool.cached for pool in self._pools.values())

    @property
    def fragmentation(self) -> int:
        return self.reserved - self.allocated - self.cached

    def malloc(self, nbytes: int, stream: int = 0, known: int | None = None) -> Block:
        """Hand out a block (malloc, alloc_found_block); the caller keeps away zero bytes, as torch does.

        `known`: the address at which the real allocator handed it out. A new segment begins there.
        """
        if nbytes < 1:
            raise ValueError(f"{nbytes} bytes: the allocator is never asked for them")
        size = self.settings.rounded(nbytes)
        pool = self._pool(size, stream)
        block = self._best_fit(pool, size) or self._new(pool, size, known)
        if self.settings.splits(pool.small, size, block.nbytes - size):
            pool.put(block.cut(size))
        block.allocated = True
        block.requested = nbytes
        self.allocated += block.nbytes
        self.requested += nbytes
        return block

    def free(self, block: Block) -> None:
        """Take a block back and join it with free neighbours (free, free_block)."""
        block.allocated = False
        self.allocated -= block.nbytes
        self.requested -= block.requested
        block.join()
        block.pool.put(block)

    def empty_cache(self) -> None:
        """Give back free segments, or with expandable segments free pages (release_cached_blocks)."""
        for pool in self._pools.values():
            for _, _, block in list(pool.free):
                if self.settings.expandable_segments:
                    self._unmap(block)
                elif block.alone:
                    self._release(block)

    def _pool(self, size: int, stream: int) -> BlockPool:
        small = size <= SMALL_SIZE
        pool = self._pools.get((stream, small))
        if pool is None:
            pool = BlockPool(small, SMALL_SEGMENT if small else self.settings.large_segment)
            self._pools[stream, small] = pool
        return pool

    def _best_fit(self, pool: BlockPool, size: int) -> Block | None:
        """The smallest free block that is large enough, at the lowest address (get_free_block)."""
        free = pool.free
        at = bisect_left(free, (size,))
        if at == len(free):
            return None
        if self.settings.expandable_segments:
            while at + 1 < len(free) and free[at + 1][2].room < free[at][2].room:
                at += 1
        block = free[at][2]
        if not self.settings.fits(size, block.nbytes):
            return None
        pool.take(block)
        return block

    def _new(self, pool: BlockPool, size: int, known: int | None) -> Block:
        """From the driver; where it has no more, after giving back what is cached (second half of malloc)."""
        block = self._grow(pool, size, known)
        if block is None and self._release_oversized(pool, size):
            block = self._grow(pool, size, known)
        if block is None:
            self.empty_cache()
            self.retries += 1
            block = self._grow(pool, size, known)
        if block is None:
            raise OutOfCapacityError(
                f"{size} bytes do not fit beside {self.reserved} reserved in {self.capacity}; use a smaller batch"
            )
        return block

    def _grow(self, pool: BlockPool, size: int, known: int | None) -> Block | None:
        """A new segment, or new pages of the expandable one (alloc_block)."""
        if self.settings.expandable_segments:
            return self._expand(pool, size)
        nbytes = self.settings.segment(size)
        return Block(self._addresses.take(nbytes, known), nbytes, pool) if self._reserve(nbytes) else None

    def _reserve(self, nbytes: int) -> bool:
        if self.capacity is not None and self.reserved + nbytes > self.capacity:
            return False
        self.reserved += nbytes
        self.reserved_peak = max(self.reserved_peak, self.reserved)
        return True

    def _release(self, block: Block) -> None:
        """A whole free segment back to the driver (release_block)."""
        block.pool.take(block)
        self._addresses.give_back(block.address)
        self.reserved -= block.nbytes

    def _release_oversized(self, pool: BlockPool, size: int) -> bool:
        """With max_split_size: give back one oversized block, or the largest ones (release_available_cached_blocks)."""
        limit = self.settings.max_split_size
        if limit is None or self.settings.expandable_segments:
            return False
        wanted = max(size, limit)
        oversized = [block for nbytes, _, block in pool.free if nbytes >= limit and block.alone]
        enough = next((block for block in oversized if block.nbytes >= wanted), None)
        released = 0
        while released < wanted and oversized:
            block = enough or oversized.pop()
            self._release(block)
            released += block.nbytes
        return released >= wanted

    def _expand(self, pool: BlockPool, size: int) -> Block | None:
        """Map pages at the lowest address with room, behind a free block if there is one.

        try_allocate_expandable_block.
        """
        block = self._room(pool, size)
        if not block.mapped and not self._map(block, min(block.nbytes, size)):
            return None
        while block.nbytes < size:
            assert block.next is not None
            following = block.next
            if not self._map(following, min(size - block.nbytes, following.nbytes)):
                return None
            block = following  # it has swallowed the free block before it
        pool.take(block)
        return block

    def _room(self, pool: BlockPool, size: int) -> Block:
        """Where free and unmapped addresses follow each other for `size` (find_expandable_block)."""
        for _, unmapped in pool.unmapped:
            before = unmapped.prev
            first = before if before is not None and not before.allocated else unmapped
            room = 0
            following: Block | None = first
            while room < size and following is not None and not following.allocated:
                room += following.nbytes
                following = following.next
            if room >= size:
                return first
        nbytes = pool.page * PAGES
        empty = Block(self._addresses.take(nbytes, multiple=pool.page), nbytes, pool, mapped=False)
        pool.put(empty)
        return empty

    def _map(self, block: Block, size: int) -> bool:
        """Put whole pages behind the first `size` bytes of an unmapped block; it is free then (map_block)."""
        pool = block.pool
        nbytes = -(-size // pool.page) * pool.page
        if not self._reserve(nbytes):
            return False
        pool.take(block)
        rest = block.cut(nbytes) if nbytes < block.nbytes else None
        block.mapped = True
        if rest is not None:
            pool.put(rest)
        block.join()
        pool.put(block)
        return True

    def _unmap(self, block: Block) -> None:
        """Give back the whole pages inside a free block (unmap_block)."""
        pool = block.pool
        begin = -(-block.address // pool.page) * pool.page
        end = (block.address + block.nbytes) // pool.page * pool.page
        if begin >= end:
            return
        pool.take(block)
        pages = block.cut(begin - block.address) if begin > block.address else block
        after = pages.cut(end - begin) if end - begin < pages.nbytes else None
        pages.mapped = False
        if pages is not block:
            pool.put(block)
        if after is not None:
            pool.put(after)
        pages.join()
        pool.put(pages)
        self.reserved -= end - begin
