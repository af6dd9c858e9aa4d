"""The frame of every method's optimizer: it trains what it was prepared for, or takes more and trains that too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memprof.catalogue import METHODS, get_method
from memprof.errors import MemprofError
from memprof.llama import build_model
from memprof.methods.adamw_8bit import AdamW8bitOptimizer
from memprof.methods.lion import LionOptimizer
from memprof.methods.parts.fused_adamw import FusedAdamW
from memprof.methods.sgd import FusedSGD

TAKE_MORE = {FusedAdamW, AdamW8bitOptimizer, FusedSGD, LionOptimizer}
"""optimizers that need nothing but the parameters"""


@pytest.mark.parametrize("name", METHODS)
def test_parameters_that_are_added_later_are_trained_or_refused(name: str) -> None:
    model = build_model("9m", num_layers=1, vocab_size=64)
    optimizer = get_method(name).prepare(model)
    more = nn.Parameter(torch.ones(128, 128))
    if type(optimizer) not in TAKE_MORE:
        groups = len(optimizer.param_groups)
        with pytest.raises(MemprofError, match="belongs to the model it was prepared for; prepare a new one") as error:
            optimizer.add_param_group({"params": [more]})
        assert "\n" not in str(error.value)
        assert len(optimizer.param_groups) == groups
        return
    optimizer.add_param_group({"params": [more], "lr": 0.5, "weight_decay": 0.0})
    more.grad = torch.ones_like(more)
    optimizer.step()
    torch.testing.assert_close(more.detach(), torch.full((128, 128), 0.5), rtol=0, atol=0.01)
