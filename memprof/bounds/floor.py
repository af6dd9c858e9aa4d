"""How far a step is from what its device can do: bytes and FLOPs it cannot do without, and model FLOPs over the peak.

Two kinds of FLOPs are counted here. A floor takes those that the method's own layers do, with attention under its
causal mask and without what checkpointing does twice. Model FLOPs are the convention of PaLM (arXiv:2204.02311,
appendix B), by parameters, so that they can be compared with what others print.
Letters: N parameters of matrices, L layers, T positions, A width of all query heads together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from memprof.batches import synthetic_batch
from memprof.bounds.ceilings import Ceilings, allows_tf32
from memprof.bounds.datasheet import TERA, sheet_of
from memprof.evidence import Floor
from memprof.method import BASIS, Footprint, Role, Weight
from memprof.scenario import Scenario
from memprof.step import prepare


def floor_of(
    scenario: Scenario, ceilings: Ceilings, step_seconds: float | None, optimizer_seconds: float | None
) -> Floor:
    """What an ordinary step of the scenario cannot be faster than, and how often that goes into the measured seconds.

    Clipping and periodic work are not in it. A method that updates inside backward has no optimizer phase to compare.
    """
    nbytes, flops = update_bytes(scenario), step_flops(scenario)
    moving = nbytes / ceilings.copy_bytes_per_second
    seconds = flops / ceilings.matrix_flops_per_second + moving
    apart = optimizer_seconds if scenario.method.updates == "step" else None
    return Floor(
        copy_bytes_per_second=ceilings.copy_bytes_per_second,
        matrix_flops_per_second=ceilings.matrix_flops_per_second,
        optimizer_bytes=nbytes,
        optimizer_seconds=moving,
        optimizer_ratio=None if apart is None else apart / moving,
        flops=flops,
        seconds=seconds,
        ratio=None if step_seconds is None else step_seconds / seconds,
    )


def update_bytes(scenario: Scenario) -> int:
    """Bytes that an update reads and writes at least: gradients once, weights and state there and back, bases once.

    A basis is multiplied with twice; a cache may hold it from the first time to the second.
    """
    weights = scenario.weights()
    method = scenario.method.bind(weights)
    decays = bool(getattr(method, "weight_decay", 0))
    return sum(_moved(method.formula(weight), method.updates == "backward", decays) for weight in weights)


def _moved(cost: Footprint, in_backward: bool, decays: bool) -> int:
    """Of one weight, which moves as far as it has a gradient: the chosen rows of one, all of it where it decays."""
    trained = cost.param - cost.frozen
    grad = trained if in_backward and not cost.grad else cost.grad
    touched = trained if decays and grad else min(trained, grad)
    return 2 * touched + grad + 2 * cost.optimizer_state - cost.parts.get(BASIS, 0) - cost.read_only


def step_flops(scenario: Scenario) -> int:
    """FLOPs of forward and backward of a whole step: matrix products, and attention under its mask.

    Attention takes six products of 2 A T (T + 1) / 2 a layer and sequence: two forward and four backward. Products are
    counted for a whole micro-batch, since some layers make their weight anew in each.
    """
    plain = dataclasses.replace(scenario, accumulation=1, checkpointing=False, loss_chunks=1, device=None)
    shape, T = scenario.shape, scenario.seq_len
    attention = 6 * shape.num_hidden_layers * shape.attention_size * T * (T + 1)
    return scenario.accumulation * (_count(plain)[0] + scenario.batch_size * attention)


def flops_per_example(scenario: Scenario) -> int:
    """FLOPs of forward and backward for one sequence, attention as torch counts its kernels: without regard to the
    mask, and with what they compute again in backward."""
    return sum(_count(dataclasses.replace(scenario, batch_size=1, accumulation=1, device=None)))


@lru_cache(maxsize=64)
def _count(scenario: Scenario) -> tuple[int, int]:
    """FLOPs of the matrix products and of the attention of one micro-batch, counted on meta tensors."""
    meta = torch.device("meta")
    with torch.random.fork_rng(devices=[]):
        model, _ = prepare(scenario, meta)
        ids, labels = synthetic_batch(scenario.batch_size, scenario.seq_len, scenario.shape.vocab_size, meta)
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm_flops}) as counter:
            model(ids, labels).backward()
    by_operation = counter.get_flop_counts()["Global"]
    attention = sum(flops for operation, flops in by_operation.items() if "attention" in str(operation))
    return int(counter.get_total_flops()) - int(attention), int(attention)


def _addmm_flops(_out: Sequence[int], a: Sequence[int], b: Sequence[int], **_: Any) -> int:
    """Adapters add their product in place; torch's counter knows the product out of place alone."""
    return 2 * a[0] * a[1] * b[1]


@dataclass(frozen=True, slots=True)
class Matrices:
    """Parameters of a model that a token is multiplied with: the head's and not the embedding's, which is looked up."""

    frozen: int
    trained: int


def matrices(scenario: Scenario) -> Matrices | None:
    """None where a layer's parameters do not say what it multiplies with: quantised or sparse parts of a weight."""
    weights = scenario.weights()
    method = scenario.method.bind(weights)
    tied = scenario.shape.tie_word_embeddings
    multiplied = [w for w in weights if len(w.shape) == 2 and (tied or w.role != Role.EMBED)]
    found = [_of_weight(weight, method.formula(weight)) for weight in multiplied]
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return None
    return Matrices(sum(each.frozen for each in known), sum(each.trained for each in known))


def _of_weight(weight: Weight, cost: Footprint) -> Matrices | None:
    """A weight in full, adapters beside a frozen one, or factors in its place; each trained element has a gradient."""
    trained = cost.grad // weight.itemsize
    if cost.frozen >= weight.nbytes:
        return Matrices(weight.numel, trained)
    if cost.frozen:
        return None
    in_full = cost.param >= weight.nbytes or cost.grad >= weight.nbytes
    return Matrices(0, weight.numel if in_full else trained)


def model_flops_per_second(scenario: Scenario, examples_per_second: float) -> float | None:
    """By PaLM's convention, a token: 6 for each trained parameter of a matrix, 4 for a frozen one, 12 L A T for
    attention, which is not halved for its mask. None where parameters do not say."""
    counted = matrices(scenario)
    if counted is None:
        return None
    shape, T = scenario.shape, scenario.seq_len
    token = 6 * counted.trained + 4 * counted.frozen + 12 * shape.num_hidden_layers * shape.attention_size * T
    return token * T * examples_per_second


def mfu(
    scenario: Scenario, examples_per_second: float, gpu_name: str | None, tf32: bool | None = None
) -> tuple[float | None, str]:
    """Model FLOPs a second over the GPU's data-sheet peak, and what that counts or why there is none.

    `tf32`: whether fp32 products were rounded to TF32; None asks this process, which is right where it ran the steps.
    """
    if gpu_name is None:
        return None, "No MFU: a CPU has no data-sheet peak here"
    sheet = sheet_of(gpu_name)
    if sheet is None:
        return None, f"No MFU: no data sheet of {gpu_name} is known here"
    rounded = scenario.dtype == "fp32" and (allows_tf32() if tf32 is None else tf32)
    kind = "tf32" if rounded else scenario.dtype
    peak = sheet.flops.get(kind)
    if peak is None:
        return None, f"No MFU: {sheet.source} gives no peak for {kind}"
    done, counted = model_flops_per_second(scenario, examples_per_second), matrices(scenario)
    if done is None or counted is None:
        return None, f"No MFU: the parameters of {scenario.method.name} do not say what a token is multiplied with"
    return done / peak, f"{_formula(counted)}, over {peak / TERA:g} TFLOP/s, dense {kind} by {sheet.source}"


def _formula(counted: Matrices) -> str:
    millions = {name: f"{getattr(counted, name) / 1e6:.1f} M" for name in ("frozen", "trained")}
    letters = f"N = {millions['trained']} matrix parameters, the head's among them, the embedding's not"
    terms = "6 N + 12 L A T"
    if counted.frozen:
        terms, letters = f"4 F + {terms}", f"{letters}; F = {millions['frozen']} frozen ones"
    return f"MFU: {terms} FLOPs a token, attention not halved for its mask; {letters}"
