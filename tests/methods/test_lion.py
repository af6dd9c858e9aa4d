"""Lion by hand, by the paper's update, and its scratch; the authors of lion_pytorch: fidelity."""

import pytest
import torch
from torch import nn

from memprof.ledger import Ledger
from memprof.method import named_weights
from memprof.methods.lion import Lion, signs
from tests.methods.models import tiny

DTYPES = [torch.float32, torch.bfloat16]


def test_two_steps_by_hand() -> None:
    """The first step has the gradient's sign. In the second, 0.9 m outweighs the smaller gradient, not the larger."""
    layer = nn.Linear(3, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = Lion(lr=0.25, betas=(0.5, 0.75), weight_decay=0.5).prepare(layer)
    for gradient in ([4.0, 4.0, 0.0], [-0.5, -2.0, 0.0]):
        layer.weight.grad = torch.tensor([gradient])
        optimizer.step()
    kept = 1 - 0.25 * 0.5
    first = [kept - 0.25, kept - 0.25, kept]
    second = [first[0] * kept - 0.25, first[1] * kept + 0.25, first[2] * kept]
    assert layer.weight.tolist() == [pytest.approx(second)]
    assert optimizer.state[layer.weight]["exp_avg"].tolist() == [pytest.approx([0.625, 0.25, 0.0])]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_moves_by_the_learning_rate(dtype: torch.dtype) -> None:
    model = tiny(dtype, layers=2)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    optimizer = Lion(lr=2.0**-10).prepare(model)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    for p in model.parameters():
        assert p.grad is not None and torch.equal(p, -p.grad.sign() * 2.0**-10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_moment_is_left_alone_by_its_mix(dtype: torch.dtype) -> None:
    moment, grad = torch.randn(50, dtype=dtype), torch.randn(50, dtype=dtype)
    before = moment.clone()
    (sign,) = signs([moment], [grad], 0.9)
    exact = (0.9 * moment.double() + 0.1 * grad.double()).sign()
    assert torch.equal(moment, before)
    assert (sign.double() != exact).sum() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_scratch_is_at_most_the_largest_weight(device: str, dtype: torch.dtype) -> None:
    """Embedding, head and norms are small here; the MLP's matrices are the largest, and each fills a group."""
    model = tiny(dtype, device, layers=2)
    optimizer = Lion().prepare(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    with Ledger(model, optimizer) as ledger:
        optimizer.step()
    steady = ledger.timeline.bytes_alive()[ledger.start - 1]
    assert ledger.peak - steady == max(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
def test_state_is_one_moment_in_the_parameters_dtype(dtype: torch.dtype) -> None:
    model = tiny(dtype, "meta", layers=2)
    optimizer = Lion().prepare(model)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    for weight, p in named_weights(model):
        assert {key: (t.shape, t.dtype) for key, t in optimizer.state[p].items()} == {"exp_avg": (p.shape, dtype)}
        assert Lion().formula(weight).optimizer_state == p.nbytes
