"""Memory budgets for anyone's own training step, in pytest: a marker with limits and a fixture that watches.

    @pytest.mark.memory_budget(peak="2 GiB", optimizer_state="512 MiB")
    def test_step_stays_small(memory_ledger):
        with memory_ledger(model, optimizer):
            step()

Every pytest run in an environment with memprof loads this file, so torch is imported only by a test that watches.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from memprof.errors import MemprofError
from memprof.timeline import CATEGORIES, EXTRA, OUTSIDE
from memprof.units import parse_size

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from memprof.ledger import Ledger

MARKER = "memory_budget"
FIXTURE = "memory_ledger"
FIGURES = (*CATEGORIES, "peak", "steady")
MAKERS = 5
"""how many of the largest makers a failure names"""
MANY_TIMES = 20
"""from here on a limit's multiple is told in place of a percentage"""
HELP = (
    f'{MARKER}(peak="2 GiB", ...): fail the test when a step watched by the fixture {FIXTURE} holds more; '
    f"limits for any of {', '.join(FIGURES)}"
)


class MemoryLedger:
    """What the fixture `memory_ledger` gives: call it with a model and its optimizer, and run a step inside."""

    def __init__(self) -> None:
        self.watched: list[Ledger] = []
        """one for each step that ended well"""
        self.empty = 0
        """blocks in which nothing ran that a ledger sees"""

    @contextmanager
    def __call__(self, model: nn.Module, optimizer: Optimizer | None = None) -> Iterator[Ledger]:
        """Watch a step. The ledger's `peak`, `at_peak` and `timeline` are complete when the block ends."""
        from memprof.ledger import Ledger

        _refuse_what_is_no_pair(model, optimizer)
        with Ledger(model, optimizer) as ledger:
            yield ledger
        if ledger.saw_any:
            self.watched.append(ledger)
        else:
            self.empty += 1


def _refuse_what_is_no_pair(model: object, optimizer: object) -> None:
    """A model, then its optimizer or None."""
    from torch import nn
    from torch.optim import Optimizer

    if not isinstance(model, nn.Module) or not isinstance(optimizer, Optimizer | None):
        given = f"{type(model).__name__} and {type(optimizer).__name__}"
        raise MemprofError(f"{FIXTURE} takes a model and its one optimizer, (model, optimizer), not {given}")
    if next(iter(model.parameters()), None) is None:
        raise MemprofError(f"{FIXTURE} was given a model without parameters; give it the one that is trained")


_LEDGERS = pytest.StashKey[list[MemoryLedger]]()
_LIMITS = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", HELP)


@pytest.fixture
def memory_ledger(request: pytest.FixtureRequest) -> MemoryLedger:
    """Watch what a training step holds: `with memory_ledger(model, optimizer) as ledger: step()`."""
    ledger = MemoryLedger()
    request.node.stash[_LEDGERS].append(ledger)
    return ledger


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Limits are read before anything of the test runs; a mistake in them is that test's error."""
    item.stash[_LEDGERS] = []
    marks = list(item.iter_markers(MARKER))
    if not marks:
        return
    try:
        limits = [_limits(mark) for mark in reversed(marks)]
    except MemprofError as error:
        raise pytest.fail.Exception(f"@pytest.mark.{MARKER}: {error}", pytrace=False) from None
    item.stash[_LIMITS] = {key: limit for each in limits for key, limit in each.items()}  # the closest one counts


def _limits(mark: pytest.Mark) -> dict[str, int]:
    if mark.args or not mark.kwargs:
        raise MemprofError(f'name what is limited, as in {MARKER}(peak="2 GiB"); choose from {", ".join(FIGURES)}')
    for key, limit in mark.kwargs.items():
        if key not in FIGURES:
            raise MemprofError(f"unknown figure {key!r}; choose from {', '.join(FIGURES)}")
        if not isinstance(limit, str):
            raise MemprofError(f'{key} must be text with a unit, such as {key}="2 GiB", not {limit!r}')
    return {key: parse_size(limit) for key, limit in mark.kwargs.items()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """After a body that went well: what it watched must have kept to the limits."""
    try:
        result = yield
    finally:
        fixtures = item.stash[_LEDGERS]
        item.stash[_LEDGERS] = []  # an item outlives its test and would keep the model with it
    watched = [ledger for fixture in fixtures for ledger in fixture.watched]
    for ledger in watched:
        item.user_properties.append(("memory_peak_bytes", ledger.peak))
    limits = item.stash.get(_LIMITS, {})
    unseen = _unseen(limits, watched, sum(fixture.empty for fixture in fixtures))
    if unseen:
        pytest.fail(f"@pytest.mark.{MARKER} limits {unseen}", pytrace=False)
    over = [text for number, ledger in enumerate(watched, 1) if (text := excess(ledger, limits, number, len(watched)))]
    if over:
        pytest.fail("\n\n".join(over), pytrace=False)
    return result


def _unseen(limits: Mapping[str, int], watched: list[Ledger], empty: int) -> str:
    """What these limits are about and nobody saw, so that it is never taken for nothing; empty where all was seen."""
    if not limits:
        return ""
    block = f"`with {FIXTURE}(model, optimizer):`"
    if empty or not watched:
        how = (
            "none on the model's kind of device and in the test's own thread"
            if empty
            else f"take the fixture {FIXTURE} as an argument and run the step in it"
        )
        return f"nothing here: no step ran inside {block}; {how}"
    if "optimizer_state" in limits and any(ledger.optimizer is None for ledger in watched):
        return f"optimizer_state, and {FIXTURE} was given no optimizer whose state that is; run the step in {block}"
    return ""


def figures(ledger: Ledger) -> dict[str, int]:
    """A watched step's figures, as in a record: parameters and state as they are when it ends."""
    after = ledger.timeline.totals()
    return after | {
        "grad": ledger.grad_bytes,
        "activation": ledger.timeline.activation(),
        "extra": ledger.at_peak[EXTRA],
        "peak": ledger.peak,
        "steady": sum(after.values()),
    }


def excess(ledger: Ledger, limits: Mapping[str, int], number: int = 1, steps: int = 1) -> str:
    """What a step held above its limits, what the peak was made of and who made it; empty where it kept to them."""
    found = figures(ledger)
    over = [key for key in FIGURES if key in limits and found[key] > limits[key]]
    if not over:
        return ""
    which = f" in watched step {number} of {steps}" if steps > 1 else ""
    lines = [
        f"memory budget exceeded{which}: " + ", ".join(f"{key} by {_size(found[key] - limits[key])}" for key in over)
    ]
    lines += [f"  {key}: {_size(found[key])}, {_over(found[key], limits[key])}" for key in over]
    lines += [f"at the peak, in {ledger.peak_instant.phase}: {_size(ledger.peak)}"]
    lines += [f"  {key}: {_size(nbytes)}" for key, nbytes in ledger.at_peak.items()]
    makers = largest_makers(ledger)
    lines += ["made there by"] if makers else []
    return "\n".join([*lines, *(f"  {maker} ({category}): {_size(nbytes)}" for (category, maker), nbytes in makers)])


def _over(found: int, limit: int) -> str:
    times = found / limit
    share = f"{times:,.0f} times it" if times >= MANY_TIMES else f"{times - 1:.1%}"
    return f"{_size(found - limit)} ({share}) over the limit of {_size(limit)}"


def _size(nbytes: int) -> str:
    """In the largest unit that it reaches."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= scale:
            return f"{nbytes / scale:.2f} {unit}"
    return f"{nbytes} B"


def largest_makers(ledger: Ledger) -> list[tuple[tuple[str, str], int]]:
    """Category and operation that made what was alive at the peak, largest first; what was there before is no one's."""
    timeline = ledger.timeline
    end = timeline.bytes_alive().index(ledger.peak, max(ledger.start - 1, 0)) + 1
    made: dict[tuple[str, str], int] = {}
    for block in timeline.alive(end):
        category, maker = timeline.category[block], timeline.maker[block]
        if category != OUTSIDE and maker != category:
            made[category, maker] = made.get((category, maker), 0) + timeline.nbytes[block]
    return sorted(made.items(), key=lambda entry: -entry[1])[:MAKERS]
