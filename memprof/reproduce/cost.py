"""What no table of memory says: how many FLOPs an example takes, and how many bytes an update has to move."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from memprof.batches import synthetic_batch
from memprof.method import BASIS
from memprof.scenario import Scenario
from memprof.step import prepare


def flops_per_example(scenario: Scenario) -> int:
    """FLOPs of forward and backward for one sequence: matrix products and attention, counted on meta tensors."""
    return _flops(dataclasses.replace(scenario, batch_size=1, accumulation=1, device=None))


@lru_cache(maxsize=64)
def _flops(single: Scenario) -> int:
    with torch.random.fork_rng(devices=[]):
        model, _ = prepare(single, torch.device("meta"))
        ids, labels = synthetic_batch(1, single.seq_len, single.shape.vocab_size, torch.device("meta"))
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm_flops}) as counter:
            model(ids, labels).backward()
    return int(counter.get_total_flops())


def _addmm_flops(_out: Sequence[int], a: Sequence[int], b: Sequence[int], **_: Any) -> int:
    """Adapters add their product in place; torch's counter knows the product out of place alone."""
    return 2 * a[0] * a[1] * b[1]


def update_bytes(scenario: Scenario) -> int:
    """Bytes that an update reads and writes at least: gradients once, weights and state there and back, bases once."""
    weights = scenario.weights()
    method = scenario.method.bind(weights)
    costs = [method.formula(weight) for weight in weights]
    grads, state = sum(cost.grad for cost in costs), sum(cost.optimizer_state for cost in costs)
    return 3 * grads + 2 * state - sum(cost.parts.get(BASIS, 0) for cost in costs)
