"""What a measuring process is asked for: a scenario, as JSON has it, back as one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memprof.catalogue import get_method
from memprof.scenario import Scenario
from memprof.shapes import LlamaShape
from memprof.text import Text


def scenario_from_dict(data: Mapping[str, Any], text: str | None = None) -> Scenario:
    """The scenario that `to_dict` wrote; its method is looked up by name, its text lies at `text`."""
    hyperparameters = {k: tuple(v) if isinstance(v, list) else v for k, v in data["hyperparameters"].items()}
    plain_fields = ("model", "batch_size", "accumulation", "seq_len", "dtype", "kernels", "checkpointing",
                    "loss_chunks", "clip_grad_norm", "counting", "device", "seed")  # fmt: skip
    return Scenario(
        shape=LlamaShape(**data["shape"]),
        method=get_method(data["method"], **hyperparameters),
        text=Text(**data["text"], path=Path(text)) if text is not None else None,
        **{name: data[name] for name in plain_fields},
    )
