"""SLTrain: oracles are autograd through the dense W, and what the layer keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memprof.errors import MemprofError
from memprof.llama import build_model
from memprof.method import named_weights
from memprof.methods.parts.products import scaled_product
from memprof.methods.sltrain import SLTrain, SLTrainLinear


def layer(entries: int = 11) -> SLTrainLinear:
    torch.manual_seed(0)
    made = SLTrainLinear(nn.Linear(12, 9, dtype=torch.float64), rank=3, alpha=6.0, entries=entries)
    nn.init.normal_(made.lora_B)
    return made


def weight(made: SLTrainLinear) -> Tensor:
    sparse = torch.zeros(9 * 12, dtype=torch.float64).index_put((made.sparse_index,), made.sparse_value)
    return 2 * made.lora_B @ made.lora_A + sparse.view(9, 12)


def test_output_and_gradients_are_those_of_the_dense_weight() -> None:
    made = layer()
    x = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    inputs = (x, made.lora_A, made.lora_B, made.sparse_value, made.bias)
    outputs = made(x), F.linear(x, weight(made), made.bias)
    torch.testing.assert_close(*outputs, rtol=1e-13, atol=1e-13)
    grad = torch.randn_like(outputs[0])
    ours, dense = (torch.autograd.grad(y, inputs, grad, retain_graph=True) for y in outputs)
    for mine, theirs in zip(ours, dense, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_places_are_drawn_once_sorted_and_without_repetition() -> None:
    made = layer(entries=40)
    places = made.sparse_index
    assert places.dtype == torch.int64 and torch.equal(places, places.unique())
    assert 0 <= int(places.min()) and int(places.max()) < 9 * 12
    assert "sparse_index" in made.state_dict()


def test_begins_as_the_authors_do() -> None:
    made = SLTrainLinear(nn.Linear(400, 300), rank=8, alpha=32.0, entries=3600)
    assert not made.lora_B.any()
    for part in (made.lora_A, made.sparse_value):
        assert 0.95 / 20 < float(part.detach().abs().max()) <= 1 / 20


def test_nothing_dense_is_kept() -> None:
    made = layer()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made(torch.randn(4, 12, dtype=torch.float64, requires_grad=True))
    assert 9 * 12 not in [t.numel() for t in (*kept, *made.state_dict().values())]


def test_scaled_product_ignores_what_was_in_its_memory() -> None:
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    torch.testing.assert_close(scaled_product(a, b, 0.5), 0.5 * a @ b)


def test_entries_are_a_share_of_the_weight() -> None:
    model = build_model("9m", num_layers=1, vocab_size=64)
    treated = [weight for weight, _ in named_weights(model) if weight.is_matrix]
    assert [SLTrain().entries(w) for w in treated] == [int(0.03 * w.numel) for w in treated]
    SLTrain(rank=8).prepare(model)
    assert sum(m.sparse_value.numel() for m in model.modules() if isinstance(m, SLTrainLinear)) == sum(
        int(0.03 * w.numel) for w in treated
    )
    with pytest.raises(MemprofError, match="density=0"):
        SLTrain(density=0.0)
