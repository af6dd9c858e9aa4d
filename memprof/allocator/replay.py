"""What CUDA's caching allocator would hold for a stream of allocations and frees: of a trace, or of a recorded run.

The rules are in `rules.py`; what a trace does not see is added by `workspaces.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from memprof.allocator.blocks import Block
from memprof.allocator.rules import CachingAllocator
from memprof.allocator.settings import AllocatorSettings
from memprof.allocator.workspaces import Workspaces, Woven, weave
from memprof.device.contract import Allocation
from memprof.evidence import Pool
from memprof.timeline import Timeline

Change = tuple[int, int, int]
"""(which block, its bytes: above 0 handed out, below 0 taken back, 0 nothing, its stream)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What the allocator's rules give for a stream of events: at the worst instant of a window of it, and at most."""

    allocated: int
    """whole blocks handed out at the worst instant"""
    requested: int
    """what was asked for in them"""
    fragmentation: int
    """free bytes at that instant in segments that hold a live block"""
    reserved: int
    """segments held at most, over all events"""
    retries: int
    """how often everything cached had to be given back"""
    end: int
    """events from the beginning up to the worst instant"""

    @property
    def rounding(self) -> int:
        """By how much the blocks are larger than what was asked for."""
        return self.allocated - self.requested

    @property
    def cached(self) -> int:
        """The rest of `reserved`: free segments, and segments taken at another instant."""
        return self.reserved - self.allocated - self.fragmentation


def replay(
    events: Sequence[Allocation | int],
    settings: AllocatorSettings | None = None,
    start: int = 0,
    stop: int | None = None,
    before: Iterable[Allocation] = (),
    capacity: int | None = None,
) -> Replay:
    """A recorded history, by the rules; the worst instant is sought from event `start` up to (not with) `stop`.

    Marks (numbers) are passed over, and so is what was handed out with zero bytes. `before`: blocks that were there
    when the recording began; what is taken back without having been handed out was there too. They are allocated first,
    in the order of their addresses. A segment lies where the recorded run had its first block: that decides between
    free blocks of one size. `OutOfCapacityError` where a block does not fit in `capacity`.
    """
    changes = [_change(event) for event in events]
    known = {event.address: _change(event) for event in before}
    return _play(changes, settings, start, stop, capacity, _there_before(changes, known), keys_are_addresses=True)


def simulate(
    timeline: Timeline,
    settings: AllocatorSettings | None = None,
    workspaces: Workspaces | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Pool:
    """A traced run with its workspaces, by the rules; the worst instant is sought in `timeline.events[start:stop]`.

    All blocks of the timeline count, also those that it books as OUTSIDE: whoever made them took them from this pool.
    """
    woven = weave(timeline, workspaces)
    window = woven.position(start), None if stop is None else woven.position(stop)
    told = settings or AllocatorSettings()
    seen = _play(_changes(woven), told, *window)
    expandable = _play(_changes(woven), replace(told, expandable_segments=True), *window)
    return Pool(
        allocated=seen.allocated,
        requested=seen.requested,
        workspaces=woven.workspaces_at(seen.end),
        reserved=seen.reserved,
        fragmentation=seen.fragmentation,
        cached=seen.cached,
        reserved_expandable=expandable.reserved,
        gpu=workspaces.gpu.name if workspaces else "",
    )


def _changes(woven: Woven) -> Iterator[Change]:
    nbytes = woven.nbytes
    return ((e, nbytes[e], 0) if e >= 0 else (~e, -nbytes[~e], 0) for e in woven.events)


def _change(event: Allocation | int) -> Change:
    return (0, 0, 0) if isinstance(event, int) else (event.address, event.nbytes, event.stream)


def _there_before(changes: Iterable[Change], known: dict[int, Change]) -> list[Change]:
    handed_out: set[int] = set()
    found = dict(known)
    for address, nbytes, stream in changes:
        if nbytes > 0:
            handed_out.add(address)
        elif nbytes < 0 and address not in handed_out:
            found.setdefault(address, (address, -nbytes, stream))
    return [found[address] for address in sorted(found)]


def _play(
    changes: Iterable[Change],
    settings: AllocatorSettings | None,
    start: int = 0,
    stop: int | None = None,
    capacity: int | None = None,
    before: Iterable[Change] = (),
    keys_are_addresses: bool = False,
) -> Replay:
    allocator = CachingAllocator(settings, capacity)
    live: dict[int, Block] = {address: allocator.malloc(nbytes, stream, address) for address, nbytes, stream in before}
    worst = None
    most = -1
    index = -1
    for index, (key, nbytes, stream) in enumerate(changes):
        if index == start:
            most, worst = allocator.allocated, _instant(allocator, index)
        if nbytes > 0:
            if key in live:  # its free is not in the history
                allocator.free(live.pop(key))
            live[key] = allocator.malloc(nbytes, stream, key if keys_are_addresses else None)
            if allocator.allocated > most and start <= index and (stop is None or index < stop):
                most, worst = allocator.allocated, _instant(allocator, index + 1)
        elif nbytes < 0 and key in live:
            allocator.free(live.pop(key))
    allocated, requested, fragmentation, end = worst or _instant(allocator, index + 1)
    return Replay(
        allocated=allocated,
        requested=requested,
        fragmentation=fragmentation,
        reserved=allocator.reserved_peak,
        retries=allocator.retries,
        end=end,
    )


def _instant(allocator: CachingAllocator, end: int) -> tuple[int, int, int, int]:
    return allocator.allocated, allocator.requested, allocator.fragmentation, end
