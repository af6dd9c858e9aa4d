"""A LLaMA as the papers train it: RMSNorm, SwiGLU, rotary positions, grouped-query attention, no biases.

Module names are Hugging Face's, so that a method prepared for this model works on theirs. It has no buffers: the
rotary tables are made once per forward and shared by all layers, and count as activation.
Letters: B sequences, T positions, N = B * T tokens, C hidden size, F MLP size, V vocabulary, H heads, D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memprof.chunked_loss import chunked_cross_entropy
from memprof.errors import MemprofError
from memprof.kernels import Kernels, get_kernels
from memprof.method import room_for
from memprof.shapes import LlamaShape, get_shape

INIT_STD = 0.02
Rotary = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """y = x / rms(x) * weight, by the kernels' own norm."""

    def __init__(self, size: int, eps: float, kernels: Kernels, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, dtype=dtype, device=device))
        self.eps = eps
        self.kernels = kernels

    def forward(self, x_NC: Tensor) -> Tensor:
        return self.kernels.rms_norm(x_NC, self.weight, self.eps)


def linear(n_in: int, n_out: int, dtype: torch.dtype, device: torch.device) -> nn.Linear:
    """A linear layer without bias, left uninitialised: `LlamaForCausalLM` initialises everything once."""
    return room_for(nn.Linear(n_in, n_out, bias=False, dtype=dtype, device="meta"), device)


def rotary_tables(positions: int, head_dim: int, theta: float, dtype: torch.dtype, device: torch.device) -> Rotary:
    """cos and sin of shape (T, 1, D), computed in fp32."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    angles = torch.outer(torch.arange(positions, dtype=torch.float32, device=device), theta**-exponent)
    angles_T1D = torch.cat((angles, angles), dim=-1).unsqueeze(1)
    return angles_T1D.cos().to(dtype), angles_T1D.sin().to(dtype)


def rotate(x_BTHD: Tensor, rotary: Rotary) -> Tensor:
    cos_T1D, sin_T1D = rotary
    first, second = x_BTHD.chunk(2, dim=-1)
    return x_BTHD * cos_T1D + torch.cat((-second, first), dim=-1) * sin_T1D


class Attention(nn.Module):
    def __init__(self, shape: LlamaShape, kernels: Kernels, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.kernels = kernels
        self.q_proj = linear(shape.hidden_size, shape.attention_size, dtype, device)
        self.k_proj = linear(shape.hidden_size, shape.kv_size, dtype, device)
        self.v_proj = linear(shape.hidden_size, shape.kv_size, dtype, device)
        self.o_proj = linear(shape.attention_size, shape.hidden_size, dtype, device)

    def forward(self, x_NC: Tensor, batch: int, rotary: Rotary) -> Tensor:
        q = rotate(self._heads(self.q_proj(x_NC), batch), rotary)
        k = rotate(self._heads(self.k_proj(x_NC), batch), rotary)
        v = self._heads(self.v_proj(x_NC), batch)
        out_BTHD = self.kernels.attention(q, k, v)
        return self.o_proj(out_BTHD.reshape(x_NC.shape[0], -1))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor, batch: int) -> Tensor:
        return x.view(batch, x.shape[0] // batch, -1, self.head_dim)


class MLP(nn.Module):
    def __init__(self, shape: LlamaShape, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.gate_proj = linear(shape.hidden_size, shape.intermediate_size, dtype, device)
        self.up_proj = linear(shape.hidden_size, shape.intermediate_size, dtype, device)
        self.down_proj = linear(shape.intermediate_size, shape.hidden_size, dtype, device)

    def forward(self, x_NC: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_NC)) * self.up_proj(x_NC))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    def __init__(self, shape: LlamaShape, kernels: Kernels, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps, kernels, dtype, device)
        self.self_attn = Attention(shape, kernels, dtype, device)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps, kernels, dtype, device)
        self.mlp = MLP(shape, dtype, device)

    def forward(self, x_NC: Tensor, batch: int, rotary: Rotary) -> Tensor:
        x_NC = x_NC + self.self_attn(self.input_layernorm(x_NC), batch, rotary)
        return x_NC + self.mlp(self.post_attention_layernorm(x_NC))  # type: ignore[no-any-return]


class LlamaModel(nn.Module):
    """Under `checkpointing` only a layer's input survives forward; backward runs the layer once more for the rest."""

    def __init__(
        self, shape: LlamaShape, kernels: Kernels, dtype: torch.dtype, device: torch.device, checkpointing: bool
    ) -> None:
        super().__init__()
        self.config = shape
        self.checkpointing = checkpointing
        embedding = nn.Embedding(shape.vocab_size, shape.hidden_size, dtype=dtype, device="meta")
        self.embed_tokens = room_for(embedding, device)
        layers = (DecoderLayer(shape, kernels, dtype, device) for _ in range(shape.num_hidden_layers))
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps, kernels, dtype, device)

    def forward(self, ids_BT: Tensor) -> Tensor:
        batch, positions = ids_BT.shape
        x_NC = self.embed_tokens(ids_BT.flatten())
        rotary = rotary_tables(positions, self.config.head_dim, self.config.rope_theta, x_NC.dtype, x_NC.device)
        for layer in self.layers:
            x_NC = self._run(layer, x_NC, batch, rotary)
        return self.norm(x_NC)  # type: ignore[no-any-return]

    def _run(self, layer: nn.Module, *inputs: object) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            out = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)  # no dropout: nothing drawn
        else:
            out = layer(*inputs)
        return out  # type: ignore[no-any-return]


class LlamaForCausalLM(nn.Module):
    """The language model with its loss: `forward(input_ids, labels)` returns mean cross-entropy, in fp32.

    With more than one of `loss_chunks` the logits of one piece of the tokens are there at a time.
    """

    def __init__(
        self,
        shape: LlamaShape,
        kernels: Kernels,
        dtype: torch.dtype,
        device: torch.device,
        checkpointing: bool,
        loss_chunks: int,
    ) -> None:
        super().__init__()
        self.config = shape
        self.loss_chunks = loss_chunks
        self.model = LlamaModel(shape, kernels, dtype, device, checkpointing)
        self.lm_head = linear(shape.hidden_size, shape.vocab_size, dtype, device)
        if shape.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        if not device.type == "meta":
            self._initialise()

    def _initialise(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=INIT_STD)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """Loss of `input_ids` (B, T) against `labels` (B, T), shifted already."""
        x_NC, labels_N = self.model(input_ids), labels.flatten()
        if self.loss_chunks == 1:
            return cross_entropy(self.lm_head(x_NC), labels_N)
        if type(self.lm_head) is not nn.Linear:
            raise MemprofError(f"loss_chunks {self.loss_chunks}: the method has replaced the head; use loss_chunks 1")
        return chunked_cross_entropy(x_NC, self.lm_head.weight, labels_N, self.loss_chunks)


def cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Mean cross-entropy with logits upcast to fp32 at least."""
    return F.cross_entropy(logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)), labels_N)


def build(
    shape: LlamaShape,
    kernels: Kernels,
    dtype: torch.dtype,
    device: torch.device,
    checkpointing: bool = False,
    loss_chunks: int = 1,
) -> LlamaForCausalLM:
    return LlamaForCausalLM(shape, kernels, dtype, device, checkpointing, loss_chunks)


def build_model(
    name: str = "60m",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    kernels: str | None = None,
    checkpointing: bool = False,
    loss_chunks: int = 1,
    **shape: object,
) -> LlamaForCausalLM:
    """A named LLaMA, with shape overrides such as `num_layers=2`. Kernels default to the device's own.

    With more than one of `loss_chunks` the head's weight is used, the head is never called: hooks on `lm_head` do not
    run, and autocast does not reach its product, which is taken in the weight's own dtype.
    """
    where = torch.device(device)
    chosen = get_kernels(kernels or ("cpu" if where.type == "cpu" else "cuda"), dtype)
    return build(get_shape(name, **shape), chosen, dtype, where, checkpointing, loss_chunks)
