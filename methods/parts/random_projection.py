"""Random projections that are drawn from a seed, so that the seed can be kept in their place: no method of its own.

A projector is a Gaussian matrix whose entries have variance 1 / R, of rank R. The stream of seeds is that of flora_opt
0.0.3 and apollo_torch 1.0.3, so that on a CPU and in fp32 the same matrices are drawn: a parameter's first seed is its
place among the optimizer's parameters, counted from 1, and each next one is the fifteenth of the 63-bit integers that
a generator of the seed before draws. Other devices and dtypes draw other numbers from the same seeds.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from memprof.methods.parts.draws import generator

HOST = torch.device("cpu")
DRAWS_TO_THE_NEXT = 15


@functools.lru_cache(maxsize=4096)
def integers(seed: int, count: int) -> tuple[int, ...]:
    """The first `count` 63-bit integers of a seed: drawn on the host, whatever the device of the training."""
    top = torch.iinfo(torch.int64).max
    return tuple(torch.randint(top, (count,), generator=generator(seed, HOST), device=HOST).tolist())


def next_seed(seed: int) -> int:
    return integers(seed, DRAWS_TO_THE_NEXT)[-1]


def draw_(projector: Tensor, seed: int, rank: int) -> Tensor:
    """Fill a contiguous tensor with N(0, 1 / R) numbers of a seed."""
    return projector.normal_(0.0, rank**-0.5, generator=generator(seed, projector.device))
