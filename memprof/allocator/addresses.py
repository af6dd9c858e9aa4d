"""Where memory segments lie: it decides between free blocks of one size, of which the lowest is taken."""

from __future__ import annotations

from bisect import bisect_left, insort


class Addresses:
    """Ranges of addresses that are taken: where the driver is known to have put them, else behind all others."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, int]] = []
        """(start, end), in order"""
        self._end = 0
        """of the highest there ever was"""

    def take(self, nbytes: int, known: int | None = None, multiple: int = 1) -> int:
        """The start of a new range: `known` where nothing else lies there."""
        behind = -(-self._end // multiple) * multiple
        start = behind if known is None or not self._is_free(known, nbytes) else known
        insort(self._taken, (start, start + nbytes))
        self._end = max(self._end, start + nbytes)
        return start

    def give_back(self, start: int) -> None:
        del self._taken[bisect_left(self._taken, (start,))]

    def _is_free(self, start: int, nbytes: int) -> bool:
        at = bisect_left(self._taken, (start,))
        follows = at == 0 or self._taken[at - 1][1] <= start
        return follows and (at == len(self._taken) or start + nbytes <= self._taken[at][0])
