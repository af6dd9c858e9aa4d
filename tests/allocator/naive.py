"""The caching allocator once more, read naively from its source: slow, and sharing no code with ours. An oracle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

USED, FREE, NONE = "used", "free", "none"


@dataclass
class Naive:
    """The same source read anew, by searching everything every time: pieces [address, bytes, kind] of segments."""

    expandable: bool
    limit: int | None
    capacity: int
    segments: list[tuple[bool, list[list[Any]]]] = field(default_factory=list)
    end: int = 0
    retries: int = 0

    def total(self, *kinds: str) -> int:
        return sum(piece[1] for _, pieces in self.segments for piece in pieces if piece[2] in kinds)

    @property
    def cached(self) -> int:
        """Runs of mapped pieces in which nothing is used."""
        return sum(
            sum(piece[1] for piece in run)
            for _, pieces in self.segments
            for run in runs(pieces)
            if all(piece[2] == FREE for piece in run)
        )

    def malloc(self, nbytes: int) -> list[Any]:
        size = max(512, (nbytes + 511) // 512 * 512)
        small = size <= 1048576
        found = self.find(small, size) or self.grow(small, size)
        if not found and self.limit and not self.expandable and self.drop_oversized(small, size):
            found = self.grow(small, size)
        if not found:
            self.empty_cache()
            self.retries += 1
            found = self.grow(small, size)
        if not found:
            raise MemoryError
        pieces, at = found
        address, held, _ = pieces[at]
        rest = held - size
        cuts = rest >= 512 if small or self.expandable else rest > 1048576 and size < (self.limit or 2**60)
        made = [[address, size, USED], [address + size, rest, FREE]] if cuts else [[address, held, USED]]
        pieces[at : at + 1] = made
        return made[0]

    def find(self, small: bool, size: int) -> tuple[list[list[Any]], int] | None:
        places = sorted(
            (piece[1], piece[0], index, at)
            for index, (kind, pieces) in enumerate(self.segments)
            for at, piece in enumerate(pieces)
            if kind == small and piece[2] == FREE and piece[1] >= size
        )
        if not places:
            return None

        def room(place: tuple[int, int, int, int]) -> int:
            pieces, at = self.segments[place[2]][1], place[3]
            return place[0] + (pieces[at + 1][1] if at + 1 < len(pieces) and pieces[at + 1][2] == NONE else 0)

        chosen = 0
        while self.expandable and chosen + 1 < len(places) and room(places[chosen + 1]) < room(places[chosen]):
            chosen += 1
        held, _, index, at = places[chosen]
        if self.limit and (held >= self.limit if size < self.limit else held >= size + 20971520):
            return None
        return self.segments[index][1], at

    def grow(self, small: bool, size: int) -> tuple[list[list[Any]], int] | None:
        if self.expandable:
            return self.map(small, size)
        nbytes = 2097152 if size <= 1048576 else 20971520 if size < 10485760 else (size + 2097151) // 2097152 * 2097152
        if self.total(USED, FREE) + nbytes > self.capacity:
            return None
        pieces = [[self.end, nbytes, FREE]]
        self.segments.append((small, pieces))
        self.end += nbytes
        return pieces, 0

    def map(self, small: bool, size: int) -> tuple[list[list[Any]], int] | None:
        page = 2097152 if small else 20971520
        if not any(kind == small for kind, _ in self.segments):
            self.segments.append((small, [[page * 2**30, page * 2**30, NONE]]))
        pieces = next(pieces for kind, pieces in self.segments if kind == small)
        for at, piece in enumerate(pieces):
            if piece[2] != NONE:
                continue
            first = at - 1 if at and pieces[at - 1][2] == FREE else at
            run = next((n for n in range(first, len(pieces)) if pieces[n][2] == USED), len(pieces))
            if sum(each[1] for each in pieces[first:run]) >= size:
                break
        address, have = pieces[first][0], 0
        for each in list(pieces[first:run]):
            if have >= size:
                break
            if each[2] == NONE:
                mapped = -(-min(each[1], size - have) // page) * page
                if self.total(USED, FREE) + mapped > self.capacity:
                    tidy(pieces)
                    return None
                where = pieces.index(each)
                left = [[each[0] + mapped, each[1] - mapped, NONE]] if mapped < each[1] else []
                pieces[where : where + 1] = [[each[0], mapped, FREE], *left]
                have += mapped
            else:
                have += each[1]
        tidy(pieces)
        return pieces, next(at for at, each in enumerate(pieces) if each[0] == address)

    def free(self, block: list[Any]) -> None:
        block[2] = FREE
        for _, pieces in self.segments:
            tidy(pieces)

    def drop_oversized(self, small: bool, size: int) -> bool:
        assert self.limit is not None
        wanted = max(size, self.limit)
        whole = [s for s in self.segments if s[0] == small and len(s[1]) == 1 and s[1][0][2] == FREE]
        large = sorted((s for s in whole if s[1][0][1] >= self.limit), key=lambda s: (s[1][0][1], s[1][0][0]))
        enough = [s for s in large if s[1][0][1] >= wanted]
        gone, dropped = 0, enough[:1] or large[::-1]
        for segment in dropped:
            if gone < wanted:
                gone += segment[1][0][1]
                self.segments = [each for each in self.segments if each is not segment]
        return gone >= wanted

    def empty_cache(self) -> None:
        if not self.expandable:
            self.segments = [s for s in self.segments if not (len(s[1]) == 1 and s[1][0][2] == FREE)]
        for small, pieces in self.segments if self.expandable else ():
            page = 2097152 if small else 20971520
            for address, nbytes, kind in list(pieces):
                low, high = -(-address // page) * page, (address + nbytes) // page * page
                if kind == FREE and low < high:
                    where = [piece[0] for piece in pieces].index(address)
                    parts = [[address, low - address, FREE], [low, high - low, NONE]]
                    parts.append([high, address + nbytes - high, FREE])
                    pieces[where : where + 1] = [part for part in parts if part[1]]
            tidy(pieces)


def tidy(pieces: list[list[Any]]) -> None:
    """Join equal neighbours that are not used."""
    at = 0
    while at + 1 < len(pieces):
        left, right = pieces[at], pieces[at + 1]
        if left[2] == right[2] != USED:
            left[1] += right[1]
            del pieces[at + 1]
        else:
            at += 1


def runs(pieces: list[list[Any]]) -> list[list[list[Any]]]:
    found: list[list[list[Any]]] = [[]]
    for piece in pieces:
        if piece[2] == NONE:
            found.append([])
        else:
            found[-1].append(piece)
    return [run for run in found if run]
