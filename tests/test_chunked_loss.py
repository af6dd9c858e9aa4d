"""The loss in pieces against torch's own cross-entropy over all logits at once, and what of it is alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memprof.batches import synthetic_batch
from memprof.catalogue import get_method
from memprof.chunked_loss import chunked_cross_entropy
from memprof.errors import MemprofError
from memprof.ledger import Ledger
from memprof.llama import LlamaForCausalLM, build_model
from memprof.timeline import OUTSIDE

TOKENS, HIDDEN, VOCABULARY = 23, 16, 41
CHUNKS = [1, 2, 4, 7, TOKENS]
chunked = pytest.mark.parametrize("chunks", CHUNKS)


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, a head whose logits reach some tens, labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(VOCABULARY, HIDDEN, generator=generator).mul_(3).to(dtype).requires_grad_()
    return x, head, torch.randint(VOCABULARY, (TOKENS,), generator=generator)


def off(seen: Tensor | None, expected: Tensor | None) -> float:
    assert seen is not None and expected is not None
    return float((seen - expected).detach().norm() / expected.detach().norm())


@chunked
@pytest.mark.parametrize(
    ("dtype", "drift"),
    [(torch.float64, 1e-15), (torch.float32, 2e-6), (torch.bfloat16, 0.02), (torch.float16, 2e-3)],
)
def test_loss_and_gradients_are_torchs(dtype: torch.dtype, drift: float, chunks: int) -> None:
    """Against fp64 on the same numbers; the gradient that comes in is not 1."""
    x, head, labels = inputs(dtype)
    loss = chunked_cross_entropy(x, head, labels, chunks)
    (loss * 0.375).backward()
    x64, head64 = (t.detach().double().requires_grad_() for t in (x, head))
    expected = F.cross_entropy(x64 @ head64.T, labels)
    (expected * 0.375).backward()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    for name, seen, reference in (("loss", loss, expected), ("x", x.grad, x64.grad), ("head", head.grad, head64.grad)):
        error = off(seen, reference)
        assert error < drift, f"{name}: off by {error:.2e} in {dtype}, {chunks} pieces"


@pytest.mark.parametrize("scale", [1.0, 65536.0])
def test_fp16_keeps_what_a_loss_scale_is_to_save(scale: float) -> None:
    """Of 4096 tokens and 4096 words a gradient of a logit is some 2**-24, fp16's smallest number: rounded before the
    scale it would be off by a hundredth. The head at once has its gradient after the scale."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 16, generator=generator).half().requires_grad_()
    head = torch.randn(4096, 16, generator=generator).mul_(0.02).half().requires_grad_()
    labels = torch.randint(4096, (4096,), generator=generator)
    (chunked_cross_entropy(x, head, labels, 8) * scale).backward()
    x64, head64 = (t.detach().double().requires_grad_() for t in (x, head))
    (F.cross_entropy(x64 @ head64.T, labels) * scale).backward()
    if scale > 1:  # without one the gradients themselves are below what fp16 can say
        assert off(x.grad, x64.grad) < 1e-3 and off(head.grad, head64.grad) < 1e-3
    else:
        assert float((x.grad - x64.grad).abs().max()) <= 2.0**-24  # type: ignore[operator]


@chunked
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_labels_to_ignore_are_ignored(dtype: torch.dtype, chunks: int) -> None:
    """The mean is over the labels that count, and a token that does not has a gradient of 0: torch's own rule."""
    x, head, labels = inputs(dtype)
    labels[::3] = -100
    labels[:8] = -100  # a piece without any that counts
    loss = chunked_cross_entropy(x, head, labels, chunks)
    loss.backward()
    x64, head64 = (t.detach().double().requires_grad_() for t in (x, head))
    expected = F.cross_entropy(x64 @ head64.T, labels)
    expected.backward()
    drift = 1e-14 if dtype == torch.float64 else 0.02
    assert off(loss, expected) < drift
    assert off(x.grad, x64.grad) < drift and off(head.grad, head64.grad) < drift
    assert not x.grad[::3].any()  # type: ignore[index]


@pytest.mark.parametrize("label", [-1, VOCABULARY])
def test_no_other_label_is_ignored(label: int) -> None:
    x, head, labels = inputs(torch.float32)
    labels[3] = label
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        chunked_cross_entropy(x, head, labels, 3)


def test_without_a_label_that_counts_there_is_no_mean() -> None:
    x, head, labels = inputs(torch.float32)
    labels.fill_(-100)
    assert chunked_cross_entropy(x, head, labels, 3).isnan() and F.cross_entropy(x @ head.T, labels).isnan()


def test_logits_of_any_size_do_not_overflow() -> None:
    x, head, labels = inputs(torch.float32)
    far = chunked_cross_entropy(x * 1e4, head, labels, 4)
    assert off(far, F.cross_entropy(x.double() @ head.double().T * 1e4, labels)) < 1e-6


@pytest.mark.parametrize(("chunks", "tokens"), [(0, TOKENS), (-1, TOKENS), (TOKENS + 1, TOKENS)])
def test_more_pieces_than_tokens_are_refused(chunks: int, tokens: int) -> None:
    with pytest.raises(
        MemprofError, match=f"^loss_chunks {chunks} is out of range; {tokens} tokens make 1 to {tokens}"
    ):
        chunked_cross_entropy(*inputs(torch.float32), chunks)


def test_only_what_is_trained_gets_a_gradient() -> None:
    for frozen in (0, 1):
        tensors = inputs(torch.float32)
        tensors[frozen].requires_grad_(False)
        chunked_cross_entropy(*tensors, 3).backward()
        assert tensors[frozen].grad is None
        trained, reference = tensors[1 - frozen], inputs(torch.float32)
        F.cross_entropy(reference[0] @ reference[1].T, reference[2]).backward()
        assert off(trained.grad, reference[1 - frozen].grad) < 1e-6


def test_it_goes_backward_once() -> None:
    loss = chunked_cross_entropy(*inputs(torch.float32), 3)
    loss.backward(retain_graph=True)
    with pytest.raises(MemprofError, match="goes backward once"):
        loss.backward()


def largest(run: Callable[[], object]) -> list[int]:
    """Bytes of all storages that `run` allocates on meta tensors, largest first."""
    with Ledger(nn.Linear(1, 1, device="meta")) as ledger:
        run()
    made = zip(ledger.timeline.nbytes, ledger.timeline.category, strict=True)
    return sorted((nbytes for nbytes, category in made if category != OUTSIDE), reverse=True)


def on_meta(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.empty(tokens, HIDDEN, device="meta", requires_grad=True)
    head = torch.empty(VOCABULARY, HIDDEN, device="meta", requires_grad=True)
    return x, head, torch.empty(tokens, dtype=torch.int64, device="meta")


@chunked
def test_no_tensor_is_larger_than_the_logits_of_a_piece(chunks: int) -> None:
    """In fp32, of ceil(N / chunks) tokens; but for the gradient of the hidden states, which is of all tokens."""
    x, head, labels = on_meta(1000)
    sizes = largest(lambda: chunked_cross_entropy(x, head, labels, chunks).backward())
    assert sizes[0] == max(-(-1000 // chunks) * VOCABULARY * 4, x.nbytes)
    assert sizes.count(1000 * VOCABULARY * 4) == (chunks == 1)


def test_without_gradients_none_is_made() -> None:
    x, head, labels = on_meta(TOKENS)
    with torch.no_grad():
        sizes = largest(lambda: chunked_cross_entropy(x, head, labels, TOKENS))
    assert sizes[0] == VOCABULARY * 4
    assert not {x.nbytes, head.nbytes} & set(sizes)


def models(dtype: torch.dtype, **shape: Any) -> list[LlamaForCausalLM]:
    """The same model with its loss at once, and in 5 pieces of 16 tokens."""
    built = []
    for chunks in (1, 5):
        torch.manual_seed(0)
        built.append(build_model("9m", dtype=dtype, loss_chunks=chunks, num_layers=1, vocab_size=64, **shape))
    return built


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_models_gradients_are_those_without_pieces(checkpointing: bool, tied: bool) -> None:
    plain, pieces = models(torch.float64, tie_word_embeddings=tied, checkpointing=checkpointing)
    batch = synthetic_batch(2, 8, 64, torch.device("cpu"))
    losses = [model(*batch) for model in (plain, pieces)]
    assert off(losses[1], losses[0]) < 1e-14
    for loss in losses:
        loss.backward()
    for (name, p), q in zip(plain.named_parameters(), pieces.named_parameters(), strict=True):
        assert off(q[1].grad, p.grad) < 1e-13, name


@pytest.mark.parametrize(
    ("method", "accumulation"), [("adamw", 3), ("galore:per_layer=true", 1), ("lora", 1), ("sltrain", 2)]
)
def test_training_goes_as_without_pieces(method: str, accumulation: int) -> None:
    """fp64, so that what is left is the order of sums."""
    losses = []
    for model in models(torch.float64):
        torch.manual_seed(1)
        optimizer = get_method(method, lr=1e-3).prepare(model)
        for _ in range(3):
            for _ in range(accumulation):
                loss = model(*synthetic_batch(2, 8, 64, torch.device("cpu"))) / accumulation
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
    assert off(losses[1], losses[0]) < 1e-10


def test_a_replaced_head_is_refused() -> None:
    model = models(torch.float32)[1]
    model.lm_head = nn.Sequential(model.lm_head)  # type: ignore[assignment]
    with pytest.raises(MemprofError, match="loss_chunks 5: the method has replaced the head"):
        model(*synthetic_batch(2, 8, 64, torch.device("cpu")))
