"""Ranges of addresses by hand, and against a map of every address."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memprof.allocator.addresses import Addresses


def test_a_known_place_is_kept_and_the_rest_lies_behind_all() -> None:
    addresses = Addresses()
    assert [addresses.take(10), addresses.take(10, known=100), addresses.take(10), addresses.take(10, known=50)] == [
        0, 100, 110, 50,
    ]  # fmt: skip
    assert addresses.take(10, multiple=16) == 128


def test_what_is_given_back_may_be_taken_again() -> None:
    addresses = Addresses()
    addresses.take(10, known=100)
    assert addresses.take(4, known=106) == 110, "something lies there"
    addresses.give_back(100)
    assert addresses.take(4, known=106) == 106


moves = st.lists(st.tuples(st.integers(1, 6), st.none() | st.integers(0, 40), st.booleans()), max_size=30)


@given(moves)
def test_no_two_ranges_share_an_address(steps: list[tuple[int, int | None, bool]]) -> None:
    addresses, owned = Addresses(), dict[int, range]()
    for nbytes, known, forget in steps:
        wanted = range(known or 0, (known or 0) + nbytes)
        free = not any(address in taken for taken in owned.values() for address in wanted)
        start = addresses.take(nbytes, known)
        assert known is None or (start == known) == free
        assert not any(address in taken for taken in owned.values() for address in range(start, start + nbytes))
        owned[start] = range(start, start + nbytes)
        if forget:
            addresses.give_back(start)
            del owned[start]
