"""Workspaces woven into the events of a trace, each where its kernel takes it. What they are: `scratch.py`."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from memprof.allocator import scratch as kernel
from memprof.allocator.scratch import CUBLAS, SM90, Gpu, Scratch, Shapes, all_at_once, cublas_workspace
from memprof.timeline import BACKWARD, FORWARD, Timeline

PRODUCTS = frozenset(f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"))
"""operators that make their result with cuBLAS"""
SCRATCH: dict[str, Callable[[Gpu, Shapes], Scratch | None]] = {
    "aten::_scaled_dot_product_flash_attention": kernel.flash_forward,
    "aten::_scaled_dot_product_flash_attention_backward": kernel.flash_backward,
    "aten::_scaled_dot_product_efficient_attention": kernel.efficient_forward,
    "aten::_scaled_dot_product_efficient_attention_backward": kernel.efficient_backward,
    "aten::embedding_dense_backward": kernel.embedding_backward,
}
"""By the operator, as a timeline names it"""


@dataclass(frozen=True, slots=True)
class Workspaces:
    """Which of them a prediction adds: cuBLAS's by the GPU alone, those of attention and embedding by shapes too."""

    gpu: Gpu = SM90
    shapes: Shapes | None = None

    def scratch(self) -> dict[str, Scratch]:
        """By the operator: what each of its calls takes and gives back."""
        if self.shapes is None:
            return {}
        made = {maker: make(self.gpu, self.shapes) for maker, make in SCRATCH.items()}
        return {maker: scratch for maker, scratch in made.items() if scratch is not None}


@dataclass(slots=True)
class Woven:
    """A timeline's blocks and events with workspaces among them: blocks from number `own` on are workspaces."""

    nbytes: list[int]
    own: int
    events: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """of the workspaces"""
    positions: list[int] = field(default_factory=list)
    """for each event of the timeline, how many of `events` come before it and the workspaces that belong to it"""

    def position(self, event: int) -> int:
        """Where an event of the timeline (the end, for one past the last) lies in `events`."""
        return self.positions[event] if event < len(self.positions) else len(self.events)

    def workspaces_at(self, end: int) -> dict[str, int]:
        """Bytes of each kind alive after the first `end` of `events`, largest first."""
        alive: Counter[str] = Counter()
        for event in self.events[:end]:
            block = event if event >= 0 else ~event
            if block >= self.own:
                alive[self.names[block - self.own]] += self.nbytes[block] if event >= 0 else -self.nbytes[block]
        return {name: nbytes for name, nbytes in alive.most_common() if nbytes}

    def splice(self, taken: Timeline, blocks: dict[int, int], start: int = 0, stop: int | None = None) -> None:
        """Append a piece of an operator's own events; `blocks`: its blocks' numbers here, so far."""
        for event in taken.events[start:stop]:
            if event >= 0:
                blocks[event] = len(self.nbytes)
                self.nbytes.append(taken.nbytes[event])
                self.names.append(taken.maker[event])
                self.events.append(blocks[event])
            else:
                self.events.append(~blocks[~event])


def weave(timeline: Timeline, workspaces: Workspaces | None) -> Woven:
    """The timeline with workspaces where the kernels take them; without any where there are none to add.

    An operator's results are allocations of one maker that follow each other. A thread's cuBLAS workspace is taken by
    its first product, after room for the product's result: one by the main thread, one by autograd's.
    """
    woven = Woven(list(timeline.nbytes), len(timeline.nbytes))
    if workspaces is None:
        woven.events, woven.positions = timeline.events, list(range(len(timeline.events)))
        return woven
    scratch = workspaces.scratch()
    library = all_at_once(CUBLAS, cublas_workspace(workspaces.gpu))
    in_backward = _in_backward(timeline)
    threads: set[bool] = set()
    results, last = 0, ""
    blocks: dict[int, int] = {}
    for index, event in enumerate(timeline.events):
        woven.positions.append(len(woven.events))
        maker = timeline.maker[event] if event >= 0 else ""
        results = results + 1 if maker == last else 1
        last = maker
        own = scratch.get(maker)
        if own is not None and results == 1:
            blocks = {}
            woven.splice(own.taken, blocks, 0, own.before)
        woven.events.append(event)
        if own is not None and results == own.results:
            woven.splice(own.taken, blocks, own.before)
        if maker in PRODUCTS and in_backward(index) not in threads:
            threads.add(in_backward(index))
            woven.splice(library, {}, 0, 1)
    return woven


def _in_backward(timeline: Timeline) -> Callable[[int], bool]:
    """Whether autograd's own thread runs at an event; a refresh and an optimizer are the main thread's."""
    begins = [begin for begin, _ in timeline.phases]
    names = [name for _, name in timeline.phases]
    return lambda event: (names[at - 1] if (at := bisect_right(begins, event)) else FORWARD) == BACKWARD
