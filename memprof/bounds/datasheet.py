"""What makers print of GPUs: dense peaks and memory bandwidth, to set a measurement beside.

Flops are of dense matrices: where a data sheet prints the figure with 2:4 sparsity, half of it stands here. Products of
bf16 and fp16 are those that accumulate in fp32, as torch's do. fp32 is without tensor cores, tf32 with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, slots=True)
class DataSheet:
    """One GPU, as its maker describes it."""

    gpu: str
    names: tuple[str, ...]
    """what torch calls it, without the maker"""
    bytes_per_second: float
    flops: Mapping[str, float]
    """FLOP/s by dtype: bf16, fp16, fp32, and tf32 for fp32 products that are rounded to it"""
    source: str


def _sheet(
    gpu: str, names: tuple[str, ...], gigabytes: float, source: str, *,
    half: float, fp32: float, tf32: float | None = None, bf16: bool = True,
) -> DataSheet:  # fmt: skip
    """Bandwidth in GB/s, peaks in TFLOP/s; `half` is fp16's and, where there is such, bf16's."""
    peaks = {"bf16": half if bf16 else None, "fp16": half, "fp32": fp32, "tf32": tf32}
    flops = {dtype: peak * TERA for dtype, peak in peaks.items() if peak is not None}
    return DataSheet(gpu, names, gigabytes * GIGA, flops, source)


SHEETS: tuple[DataSheet, ...] = (
    _sheet("B200", ("B200",), 7700, "NVIDIA Blackwell datasheet (HGX B200)", half=2250, tf32=1100, fp32=75),
    _sheet("H200 SXM", ("H200",), 4800, "NVIDIA H200 datasheet", half=989.5, tf32=494.5, fp32=67),
    _sheet("H200 NVL", ("H200 NVL",), 4800, "NVIDIA H200 datasheet", half=835.5, tf32=417.5, fp32=60),
    _sheet("H100 SXM", ("H100 80GB HBM3",), 3350, "NVIDIA H100 datasheet", half=989.5, tf32=494.5, fp32=67),
    _sheet("H100 PCIe", ("H100 PCIe",), 2000, "NVIDIA H100 datasheet", half=756.5, tf32=378, fp32=51),
    _sheet("H100 NVL", ("H100 NVL",), 3900, "NVIDIA H100 datasheet", half=835.5, tf32=417.5, fp32=60),
    _sheet("A100 SXM 80GB", ("A100-SXM4-80GB",), 2039, "NVIDIA A100 datasheet", half=312, tf32=156, fp32=19.5),
    _sheet("A100 PCIe 80GB", ("A100 80GB PCIe",), 1935, "NVIDIA A100 datasheet", half=312, tf32=156, fp32=19.5),
    _sheet("A100 40GB", ("A100-SXM4-40GB", "A100-PCIE-40GB"), 1555, "NVIDIA A100 40GB datasheet",
           half=312, tf32=156, fp32=19.5),
    _sheet("V100 SXM2", ("V100-SXM2-16GB", "V100-SXM2-32GB"), 900, "NVIDIA V100 datasheet",
           half=125, fp32=15.7, bf16=False),
    _sheet("V100 PCIe", ("V100-PCIE-16GB", "V100-PCIE-32GB"), 900, "NVIDIA V100 datasheet",
           half=112, fp32=14, bf16=False),
    _sheet("L40S", ("L40S",), 864, "NVIDIA L40S datasheet", half=362.05, tf32=183, fp32=91.6),
    _sheet("A10", ("A10",), 600, "NVIDIA A10 datasheet", half=125, tf32=62.5, fp32=31.2),
    _sheet("RTX 4090", ("GeForce RTX 4090",), 1008, "NVIDIA Ada architecture whitepaper",
           half=165.2, tf32=82.6, fp32=82.6),
    _sheet("RTX 3090", ("GeForce RTX 3090",), 936, "NVIDIA GA102 architecture whitepaper",
           half=71, tf32=35.6, fp32=35.6),
)  # fmt: skip


def sheet_of(gpu: str | None) -> DataSheet | None:
    """The data sheet of a GPU by the name torch gives it; None of one that is not listed, or of a slice of one.

    A name must match as a whole: an RTX 4090 D or a MIG slice is another device than the one its name begins with.
    """
    name = (gpu or "").removeprefix("NVIDIA ").removeprefix("Tesla ")
    return next((sheet for sheet in SHEETS if name in sheet.names), None)
