"""Memory that CUDA kernels take without a dispatcher seeing it: constants and formulas, none of them measured.

Each term is a constant or a formula with its source (file and function of pytorch, as of torch 2.13 unless it says so).
A term belongs to the operator whose name a block carries as its maker. Letters: B sequences, T positions, N = B T
tokens, H heads, K key-value heads, D head size, C hidden size, V vocabulary, e bytes of an element.

Left out, because a shape or the data decides what the library takes:
* cuSOLVER's and MAGMA's workspaces (eigh, svd, qr in a refresh), topk and sort;
* the staging of reductions to few results (Reduce.cuh, ReduceConfig::global_memory_size): kilobytes along the last
  dimension, but up to twice the input across it (a sum over rows, as factored moments take);
* cub's scratch (16 N bytes and more while an embedding's gradient is sorted, gone before its partial sums are there);
* the partial norms of _foreach_norm: 4 bytes for each 65,536 elements;
* what fused RMSNorm's backward sums in parts above 65,536 tokens (layer_norm_kernel.cu,
  LaunchGammaBetaBackwardCUDAKernel: at most 32,768 x 32 elements; below, nothing).
cuBLASLt shares cuBLAS's workspace in 2.13 (CublasHandlePool.cpp, getCUDABlasLtWorkspace); the products here go to
cuBLAS anyway, as no layer has a bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Self

from memprof.scenario import Scenario
from memprof.timeline import Timeline

CUBLAS, FLASH, EFFICIENT, EMBEDDING = "cuBLAS", "flash attention", "efficient attention", "embedding backward"
FLOAT, INDEX = 4, 8
"""bytes of what kernels accumulate in, and of a token's number"""


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU that a prediction stands for."""

    name: str
    major: int
    """of its compute capability"""
    multiprocessors: int


SM80 = Gpu("sm80", 8, 108)
"""A100"""
SM90 = Gpu("sm90", 9, 132)
"""H100 SXM, H200"""
SM100 = Gpu("sm100", 10, 148)
"""B200"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """What kernels' sizes depend on and a timeline does not say: of one micro-batch."""

    batch: int
    seq_len: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    itemsize: int

    @classmethod
    def of(cls, scenario: Scenario) -> Self:
        shape = scenario.shape
        return cls(
            batch=scenario.batch_size,
            seq_len=scenario.seq_len,
            heads=shape.num_attention_heads,
            kv_heads=shape.num_key_value_heads,
            head_dim=shape.head_dim,
            hidden=shape.hidden_size,
            vocab=shape.vocab_size,
            itemsize=scenario.itemsize,
        )

    @property
    def tokens(self) -> int:
        return self.batch * self.seq_len


@dataclass(frozen=True, slots=True)
class Scratch:
    """What one call of an operator allocates beside its results, in order; what it does not free stays for good."""

    taken: Timeline
    before: int = 0
    """how many of these events come before the operator's first result"""
    results: int = 1
    """the rest of them comes after so many results"""


def cublas_workspace(gpu: Gpu) -> int:
    """Bytes that each cuBLAS handle gets on its first product (CublasHandlePool.cpp, parseChosenWorkspaceSize).

    :4096:2:16:8, which is 2 x 4096 KiB + 8 x 16 KiB; 32 MiB on Hopper, and on Blackwell since pytorch pull request
    175344 of February 2026. CUBLAS_WORKSPACE_CONFIG is taken as not set.
    """
    return 32 * 2**20 if gpu.major in (9, 10, 12) else 2 * 4096 * 1024 + 8 * 16 * 1024


def flash_forward(gpu: Gpu, shapes: Shapes) -> Scratch | None:
    """Where few blocks would leave multiprocessors idle, keys are split: fp32 log-sum-exp and output of each split.

    flash_api.cpp, set_params_splitkv: splits x B H T (1 + D) floats, D a multiple of 32.
    """
    splits = flash_splits(gpu, shapes)
    if splits == 1:
        return None
    rows = splits * shapes.batch * shapes.heads * shapes.seq_len
    return Scratch(all_at_once(FLASH, rows * FLOAT, rows * _flash_head(shapes) * FLOAT), results=2)


def flash_splits(gpu: Gpu, shapes: Shapes) -> int:
    """Into how many parts the forward cuts the keys (flash_api.cpp, num_splits_heuristic).

    The fewest that reach 85 % of the best share of busy multiprocessors, each counted twice.
    """
    places = 2 * gpu.multiprocessors
    width = 256 if shapes.head_dim <= 64 else 128 if shapes.head_dim <= 128 else 64
    columns = ceil(shapes.seq_len / width)
    blocks = shapes.batch * shapes.heads * ceil(shapes.seq_len / 64)
    if blocks >= 0.8 * places:
        return 1
    most = min(128, places, columns)
    possible = [n for n in range(1, most + 1) if n == 1 or ceil(columns / n) != ceil(columns / (n - 1))]
    busy = {n: (waves := blocks * n / places) / ceil(waves) for n in possible}
    return next(n for n in possible if busy[n] >= 0.85 * max(busy.values()))


def flash_backward(gpu: Gpu, shapes: Shapes) -> Scratch:
    """softmax_d and dq_accum in fp32, T a multiple of 128 and D of 32; grouped queries: dk and dv of all H heads.

    flash_api.cpp, mha_bwd, without deterministic algorithms, in its order; dq, dk and dv come first.
    """
    rows = shapes.batch * shapes.heads * _up(shapes.seq_len, 128)
    sizes = [rows * FLOAT, rows * _flash_head(shapes) * FLOAT]
    if shapes.kv_heads != shapes.heads:
        sizes += [shapes.tokens * shapes.heads * shapes.head_dim * shapes.itemsize] * 2
    return Scratch(all_at_once(FLASH, *sizes), results=3)


def efficient_forward(gpu: Gpu, shapes: Shapes) -> Scratch | None:
    """The output in fp32, of half-precision heads above 128 (attention.cu, _efficient_attention_forward)."""
    if shapes.itemsize >= FLOAT or shapes.head_dim <= 128:
        return None
    return Scratch(all_at_once(EFFICIENT, shapes.tokens * shapes.heads * shapes.head_dim * FLOAT), results=2)


def efficient_backward(gpu: Gpu, shapes: Shapes) -> Scratch:
    """delta (B, H, T) in fp32, and a workspace in which blocks of keys add up dq.

    attention_backward.cu, _efficient_attention_backward; kernel_backward.h, kKernelComputesDelta, GradQTempStorage and
    workspace_size; kernels/cutlassB.h for the block sizes. In fp32 delta is made by operators: the product of gradient
    and output, and its sum before it is transposed, are alive with it. Half-precision heads above 128 add up dk and dv
    in the workspace too. Expects as many key-value heads as heads, as the model expands them before.
    """
    taken = Timeline()
    rows, whole = shapes.batch * shapes.heads * shapes.seq_len * FLOAT, shapes.itemsize >= FLOAT
    passing = [rows * shapes.head_dim, rows] if whole else []
    made = [taken.allocate(nbytes, EFFICIENT) for nbytes in passing]
    delta = taken.allocate(rows, EFFICIENT)
    for block in reversed(made):
        taken.free(block)
    workspace = taken.allocate(_efficient_workspace(shapes), EFFICIENT)
    taken.free(delta)
    taken.free(workspace)
    return Scratch(taken, results=3)


def _efficient_workspace(shapes: Shapes) -> int:
    half = shapes.itemsize < FLOAT
    size, pairs = shapes.head_dim, shapes.batch * shapes.heads
    tall = 64 if size <= 64 else 128
    wide = 128 if half and 64 < size <= 128 else 64
    tile = 4 * FLOAT + tall * wide * FLOAT  # a lock, a counter and padding before each tile of dq
    each = ceil(shapes.seq_len / tall) * ceil(size / wide) * tile
    if half and size > 128:
        splits = max(1, min(ceil(shapes.seq_len / wide), 200 // pairs))
        if pairs >= 256 and shapes.seq_len <= 2 * wide:
            splits = 1
        each += 2 * splits * wide * _up(size, tall) * FLOAT
    return pairs * _up(each, 4 * FLOAT)


def embedding_backward(gpu: Gpu, shapes: Shapes) -> Scratch | None:
    """Above 3,072 tokens: tokens are sorted, rows of one token are summed ten at a time in fp32, then all together.

    Embedding.cu, embedding_dense_backward_cuda; EmbeddingBackwardKernel.cu, embedding_backward_cuda_kernel. The host
    does not wait for the number of distinct tokens: there is room for min(N, V) + N // 10 partial sums. Where a small
    vocabulary meets very many tokens, an fp32 gradient of the whole table takes their place.
    """
    tokens = shapes.tokens
    if tokens <= 3072:
        return None
    segments = min(tokens, shapes.vocab)
    partial = tokens // 10 + segments
    taken = Timeline()
    kept = [taken.allocate(tokens * INDEX, EMBEDDING) for _ in ("sorted", "original")]
    taken.free(taken.allocate(tokens * INDEX, EMBEDDING))  # the range that is sorted along
    before = len(taken.events)
    width = _up(shapes.hidden, 32)
    grid = ceil(segments * width / min(width, 1024))  # sum_and_scatter's blocks
    sizes = [tokens * INDEX, INDEX, segments * INDEX, segments * INDEX, INDEX, partial * INDEX]
    if grid < 4 * gpu.multiprocessors and partial > 4 * grid:
        sizes += [partial * INDEX] + ([shapes.vocab * shapes.hidden * FLOAT] if shapes.itemsize < FLOAT else [])
    else:
        sizes.append(partial * shapes.hidden * FLOAT)
    kept += [taken.allocate(nbytes, EMBEDDING) for nbytes in sizes]
    for block in reversed(kept):
        taken.free(block)
    return Scratch(taken, before=before)


def all_at_once(name: str, *sizes: int) -> Timeline:
    """Blocks taken one after the other and given back together, the last one first."""
    taken = Timeline()
    for block in reversed([taken.allocate(nbytes, name) for nbytes in sizes]):
        taken.free(block)
    return taken


def _flash_head(shapes: Shapes) -> int:
    """head_size_rounded of flash_api.cpp."""
    return rounded if (rounded := _up(shapes.head_dim, 32)) < 224 else 256


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
