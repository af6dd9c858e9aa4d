"""Data sheets by the names that torch gives GPUs. Oracle: figures as printed, with sparsity where they print it so."""

from __future__ import annotations

import pytest

from memprof.bounds.datasheet import SHEETS, sheet_of


@pytest.mark.parametrize(
    ("name", "sparse_bf16", "bandwidth"),
    [
        ("NVIDIA B200", 4500e12, 7.7e12),
        ("NVIDIA H200", 1979e12, 4.8e12),
        ("NVIDIA H100 80GB HBM3", 1979e12, 3.35e12),
        ("NVIDIA H100 PCIe", 1513e12, 2.0e12),
        ("NVIDIA A100-SXM4-80GB", 624e12, 2.039e12),
        ("NVIDIA A100-SXM4-40GB", 624e12, 1.555e12),
        ("NVIDIA A100 80GB PCIe", 624e12, 1.935e12),
        ("NVIDIA A10", 250e12, 0.6e12),
    ],
)
def test_a_dense_peak_is_half_of_the_one_that_is_printed_with_sparsity(
    name: str, sparse_bf16: float, bandwidth: float
) -> None:
    sheet = sheet_of(name)
    assert sheet is not None
    assert (sheet.flops["bf16"], sheet.bytes_per_second) == (sparse_bf16 / 2, bandwidth)
    assert sheet.flops["fp32"] < sheet.flops["bf16"]


@pytest.mark.parametrize("name", ["Tesla V100-SXM2-32GB", "GeForce RTX 3090", "NVIDIA GeForce RTX 4090", "NVIDIA L40S"])
def test_a_name_is_known_with_and_without_its_maker(name: str) -> None:
    assert sheet_of(name) is not None


@pytest.mark.parametrize(
    "name",
    ["NVIDIA A10G", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3090 Ti",
     "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H20", "", None],
)  # fmt: skip
def test_another_gpu_whose_name_begins_alike_is_not_taken_for_it(name: str | None) -> None:
    assert sheet_of(name) is None


def test_a_v100_has_no_bf16_and_no_tf32() -> None:
    sheet = sheet_of("Tesla V100-SXM2-16GB")
    assert sheet is not None and set(sheet.flops) == {"fp16", "fp32"}


def test_no_name_stands_twice_and_every_sheet_has_a_source() -> None:
    names = [name for sheet in SHEETS for name in sheet.names]
    assert len(names) == len(set(names)) and all(sheet.source for sheet in SHEETS)
