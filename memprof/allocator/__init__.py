"""CUDA's caching allocator, by its rules and without a GPU: what it would hold for a trace, or for a recorded run.

`rules` is the allocator itself, `settings` what a user may set of it, `replay` drives it with a stream of allocations
and frees, `workspaces` adds what kernels take unseen, whose sizes are in `scratch`.
"""

from __future__ import annotations

from memprof.allocator.replay import Replay, replay, simulate
from memprof.allocator.rules import CachingAllocator, OutOfCapacityError
from memprof.allocator.scratch import Shapes
from memprof.allocator.settings import AllocatorSettings
from memprof.allocator.workspaces import Workspaces

__all__ = [
    "AllocatorSettings",
    "CachingAllocator",
    "OutOfCapacityError",
    "Replay",
    "Shapes",
    "Workspaces",
    "replay",
    "simulate",
]
