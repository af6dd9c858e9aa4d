"""What every test stands on: fixed seeds, one thread, no GPU tests where there is no GPU."""

from __future__ import annotations

import random

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("memprof", deadline=None, derandomize=True)
hypothesis.settings.load_profile("memprof")

torch.set_num_threads(1)  # pytest-xdist fills the cores, and sums come out the same on every machine


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))
