"""Pieces of memory segments, and the free ones among them in the order in which an allocator looks for them.

As Block and BlockPool of c10/cuda/CUDACachingAllocator.cpp have it.
"""

from __future__ import annotations

from bisect import bisect_left, insort


class Block:
    """A piece of a segment, handed out or free. Blocks of one segment follow each other without a gap."""

    __slots__ = ("address", "allocated", "alone", "mapped", "nbytes", "next", "pool", "prev", "requested")

    def __init__(self, address: int, nbytes: int, pool: BlockPool, *, mapped: bool = True) -> None:
        self.address = address
        self.nbytes = nbytes
        self.pool = pool
        self.mapped = mapped
        """whether there is memory behind its addresses; always, without expandable segments"""
        self.allocated = False
        self.requested = 0
        self.prev: Block | None = None
        self.next: Block | None = None
        self.alone = False
        """while it is free: whether its segment (its range of mapped pages) is wholly free"""

    def cut(self, nbytes: int) -> Block:
        """Shorten it to `nbytes`; the rest, which follows it."""
        rest = Block(self.address + nbytes, self.nbytes - nbytes, self.pool, mapped=self.mapped)
        rest.prev, rest.next = self, self.next
        if rest.next is not None:
            rest.next.prev = rest
        self.next = rest
        self.nbytes = nbytes
        return rest

    def join(self) -> None:
        """Swallow free neighbours, which lie in the pool (try_merge_blocks)."""
        before, after = self.prev, self.next
        if before is not None and not before.allocated and before.mapped == self.mapped:
            self.pool.take(before)
            self.address = before.address
            self.nbytes += before.nbytes
            self.prev = before.prev
            if self.prev is not None:
                self.prev.next = self
        if after is not None and not after.allocated and after.mapped == self.mapped:
            self.pool.take(after)
            self.nbytes += after.nbytes
            self.next = after.next
            if self.next is not None:
                self.next.prev = self

    @property
    def room(self) -> int:
        """Its bytes and those of the addresses behind it that could be mapped (expandable_size)."""
        following = self.next
        return self.nbytes + (following.nbytes if following is not None and not following.mapped else 0)


class BlockPool:
    """The free blocks of one stream, small or large, by size and then by address."""

    __slots__ = ("cached", "free", "page", "small", "unmapped")

    def __init__(self, small: bool, page: int) -> None:
        self.small = small
        self.page = page
        self.cached = 0
        """bytes of segments that are wholly free"""
        self.free: list[tuple[int, int, Block]] = []
        self.unmapped: list[tuple[int, Block]] = []
        """addresses without memory, in order"""

    def put(self, block: Block) -> None:
        if not block.mapped:
            insort(self.unmapped, (block.address, block))
            return
        before, after = block.prev, block.next
        block.alone = (before is None or not before.mapped) and (after is None or not after.mapped)
        if block.alone:
            self.cached += block.nbytes
        insort(self.free, (block.nbytes, block.address, block))

    def take(self, block: Block) -> None:
        if not block.mapped:
            del self.unmapped[bisect_left(self.unmapped, (block.address,))]
            return
        if block.alone:
            self.cached -= block.nbytes
        del self.free[bisect_left(self.free, (block.nbytes, block.address))]
