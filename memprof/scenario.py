"""What to profile: one model trained one way. Frozen, and identified by a hash of all that it says."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

from memprof.counting import get_counting
from memprof.errors import MemprofError, UnsupportedError
from memprof.method import Method, Weight
from memprof.shapes import LlamaShape
from memprof.text import VOCABULARY, Text

ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4, "amp": 4}
KERNEL_CHOICES = ("cuda", "cpu")
DEVICE_CHOICES = ("cuda", "cpu")
MAX_TOKENS = 2**26
HEAD_MULTIPLE = {"cuda-flash": 8, "cuda-efficient": 4, "cpu": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Model x method x batch x precision x kernels x device."""

    model: str
    shape: LlamaShape
    method: Method
    batch_size: int = 8
    """sequences of one micro-batch"""
    accumulation: int = 1
    """micro-batches of one optimizer step"""
    seq_len: int = 256
    dtype: str = "bf16"
    kernels: str = "cuda-flash"
    checkpointing: bool = False
    loss_chunks: int = 1
    clip_grad_norm: float | None = None
    counting: str = "memprof"
    device: str | None = None
    """where it is measured; None where it is not"""
    seed: int = 0
    text: Text | None = None
    """what measured steps train on; None: synthetic tokens"""

    def __post_init__(self) -> None:
        self._check_numbers()
        self._refuse_what_the_step_cannot_do()
        if self.text is not None:
            self._check_text(self.text)

    def _check_numbers(self) -> None:
        for name in ("batch_size", "accumulation", "seq_len", "loss_chunks"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise MemprofError(f"{name} {value!r} is out of range; it must be an integer of at least 1")
        if self.batch_size * self.seq_len > MAX_TOKENS:
            raise MemprofError(
                f"batch_size {self.batch_size} x seq_len {self.seq_len} is out of range; "
                f"a micro-batch holds at most {MAX_TOKENS} tokens"
            )
        get_counting(self.counting)
        if self.loss_chunks > self.tokens:
            raise MemprofError(
                f"loss_chunks {self.loss_chunks} is out of range; "
                f"a micro-batch of {self.tokens} tokens makes at most as many pieces"
            )
        if self.dtype not in ITEMSIZE:
            raise MemprofError(f"unknown dtype {self.dtype!r}; choose from {', '.join(ITEMSIZE)}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise MemprofError(f"seed {self.seed!r} is out of range; it must be an integer from 0 to 2**63 - 1")
        clip = self.clip_grad_norm
        if clip is not None and not (math.isfinite(clip) and clip > 0):
            raise MemprofError(f"clip_grad_norm {clip} is out of range; it must be a finite number above 0")
        multiple = HEAD_MULTIPLE.get(self.kernels)
        if multiple is None:
            raise MemprofError(f"unknown kernels {self.kernels!r}; choose from {', '.join(HEAD_MULTIPLE)}")
        if self.shape.head_dim % multiple:
            raise MemprofError(
                f"kernels {self.kernels} take head sizes that are multiples of {multiple}, not {self.shape.head_dim}; "
                "use --kernels cpu or another shape"
            )

    def _refuse_what_the_step_cannot_do(self) -> None:
        if self.dtype == "amp":
            raise UnsupportedError("dtype amp is not built yet: the training step would not do it; leave it out")
        name = self.method.name
        if self.method.updates == "backward":
            if self.accumulation > 1:
                raise MemprofError(f"{name} updates inside backward and cannot accumulate; use accumulation 1")
            if self.clip_grad_norm is not None:
                raise MemprofError(
                    f"{name} updates inside backward and leaves no gradient to clip; set no clip_grad_norm"
                )

    def _check_text(self, text: Text) -> None:
        if self.shape.vocab_size < VOCABULARY:
            raise MemprofError(
                f"the tokens of a text are its bytes, 0 to {VOCABULARY - 1}, and the vocabulary has "
                f"{self.shape.vocab_size}; it must have at least {VOCABULARY}"
            )
        if text.nbytes < self.seq_len + 1:
            raise MemprofError(
                f"text {text.name} has {text.nbytes} bytes, and seq_len {self.seq_len} takes at least "
                f"{self.seq_len + 1}: a token more than a sequence; take a longer text or a smaller seq_len"
            )

    @property
    def itemsize(self) -> int:
        """Bytes of one parameter element."""
        return ITEMSIZE[self.dtype]

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.batch_size * self.seq_len

    @property
    def examples(self) -> int:
        """Sequences of one optimizer step."""
        return self.batch_size * self.accumulation

    def weights(self) -> list[Weight]:
        return self.shape.weights(self.itemsize)

    def to_dict(self) -> dict[str, object]:
        """As JSON has it; `text` is there only where there is one, so that without it ids stay what they were."""
        said: dict[str, object] = {
            "model": self.model,
            "vocab_size": self.shape.vocab_size,
            "num_layers": self.shape.num_hidden_layers,
            "shape": self.shape.to_dict(),
            "method": self.method.name,
            "hyperparameters": self.method.hyperparameters(),
            "given": self.method.given(),
            "batch_size": self.batch_size,
            "accumulation": self.accumulation,
            "seq_len": self.seq_len,
            "dtype": self.dtype,
            "kernels": self.kernels,
            "checkpointing": self.checkpointing,
            "loss_chunks": self.loss_chunks,
            "clip_grad_norm": self.clip_grad_norm,
            "counting": self.counting,
            "device": self.device,
            "seed": self.seed,
        }
        return said if self.text is None else said | {"text": self.text.to_dict()}

    @property
    def id(self) -> str:
        """First 12 hex digits of the SHA-256 of the scenario: what resume, diff and budgets join on."""
        said = {key: value for key, value in self.to_dict().items() if key != "given"}  # the hyperparameters say it
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]
