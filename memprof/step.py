"""The one training step, cut into phases. Trace and measurement both run it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from memprof.batches import Batches, synthetic_batches
from memprof.kernels import KERNELS
from memprof.llama import LlamaForCausalLM, build
from memprof.scenario import Scenario
from memprof.timeline import BACKWARD, FORWARD, OPTIMIZER

TORCH_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
OnPhase = Callable[[str], None]


def prepare(scenario: Scenario, device: torch.device) -> tuple[LlamaForCausalLM, torch.optim.Optimizer]:
    """The scenario's model on `device`, adapted by its method, and the optimizer; a warm start is over already."""
    torch.manual_seed(scenario.seed)
    kernels, dtype = KERNELS[scenario.kernels], TORCH_DTYPE[scenario.dtype]
    model = build(scenario.shape, kernels, dtype, device, scenario.checkpointing, scenario.loss_chunks)
    optimizer = scenario.method.prepare(model)
    if isinstance(optimizer, Switching):
        optimizer.switch()
    return model, optimizer


@runtime_checkable
class Switching(Protocol):
    """An optimizer that may begin as plain AdamW and goes over to its method's own way; `switch` does so at once."""

    def switch(self) -> None: ...


class Refreshing(Protocol):
    """An optimizer with periodic work."""

    def request_refresh(self) -> None: ...


def request_refresh(optimizer: torch.optim.Optimizer) -> None:
    """Make the next step do the method's periodic work."""
    cast(Refreshing, optimizer).request_refresh()


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scenario: Scenario,
    on_phase: OnPhase = lambda phase: None,
    batches: Batches | None = None,
) -> Tensor:
    """One optimizer step of the scenario; returns the detached loss of the last micro-batch, still on the device.

    Without `batches` the tokens are synthetic, from torch's own generator: enough where only shapes count.
    """
    draw = batches or synthetic_batches(scenario, next(model.parameters()).device)
    for _ in range(scenario.accumulation):
        on_phase(FORWARD)
        ids, labels = next(draw)
        loss: Tensor = model(ids, labels)
        if scenario.accumulation > 1:
            loss = loss / scenario.accumulation
        on_phase(BACKWARD)
        loss.backward()
    on_phase(OPTIMIZER)
    if scenario.clip_grad_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), scenario.clip_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()
