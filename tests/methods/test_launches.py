"""The counter of launches against the rules of ATen/native/ForeachUtils.h, case by case."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Count = Callable[[Callable[[], object]], int]


ALIKE = [torch.ones(3, 4), torch.ones(5)]
PARTNERS = {
    "alike": ([torch.ones(3, 4), torch.ones(5)], 1),
    "broadcasting": ([torch.ones(3, 1), torch.ones(())], 2),
    "other-strides": ([torch.ones(4, 3).T, torch.ones(5)], 2),
    "other-dtype": ([torch.ones(3, 4).double(), torch.ones(5).double()], 2),
}


@pytest.mark.parametrize(("partners", "calls"), PARTNERS.values(), ids=PARTNERS)
def test_two_lists_are_one_launch_where_each_row_is_alike(partners: list[Tensor], calls: int, launches: Count) -> None:
    assert launches(lambda: torch._foreach_mul(ALIKE, partners)) == calls


def test_tensors_must_be_dense(launches: Count) -> None:
    whole = torch.ones(4, 4)
    assert launches(lambda: torch._foreach_mul_([whole.T] * 3, 2.0)) == 1
    assert launches(lambda: torch._foreach_mul_([whole[:, :2]] * 3, 2.0)) == 3


def test_copies_may_cast_and_views_are_free(launches: Count) -> None:
    low, high = [torch.ones(3, 4, dtype=torch.bfloat16)] * 2, [torch.ones(3, 4)] * 2
    assert launches(lambda: torch._foreach_copy_(low, high)) == 1
    assert launches(lambda: high[0].view(2, 6).T.unbind()) == 0
    assert launches(lambda: high[0].mul_(2)) == 1
