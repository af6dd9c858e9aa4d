"""What one device can do in every dtype, beside what its maker prints: for `memprof doctor --ceilings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memprof.bounds.ceilings import SIZES, Rate, Sizes, copy_rate, measure_ceilings
from memprof.bounds.datasheet import DataSheet, sheet_of
from memprof.device import Device, get_device, has_cuda
from memprof.errors import UnsupportedError
from memprof.step import TORCH_DTYPE
from memprof.units import format_rate

COPY, PRODUCT, BYTES, FLOPS = "copy", " product", "B/s", "FLOP/s"
NONE = "-"
COLUMNS = ("Ceiling", "Measured", "Data sheet", "Reached", "Note")
HOW = (
    "Copy: bytes read and written, of {copied} MiB at once. Product: 2 n^3 FLOPs of random n x n matrices, n = {side}. "
    "Medians of windows between synchronisations (slowest-fastest). No setting is changed."
)


@dataclass(frozen=True, slots=True)
class Line:
    """One rate, measured and printed."""

    what: str
    unit: str
    rate: Rate | None
    peak: float | None
    """by the data sheet; None where there is none"""
    note: str = ""
    """why there is no rate, or what it holds for"""

    @property
    def share(self) -> float | None:
        return None if self.rate is None or self.peak is None else self.rate.median / self.peak

    def cells(self) -> tuple[str, ...]:
        """A cell for each of `COLUMNS`."""
        if self.rate is None:
            return self.what, NONE, NONE, NONE, self.note
        rate = format_rate(self.rate.median, self.unit, (self.rate.least, self.rate.most))
        peak = NONE if self.peak is None else format_rate(self.peak, self.unit)
        return self.what, rate, peak, NONE if self.share is None else f"{self.share * 100:.1f} %", self.note

    def to_dict(self) -> dict[str, Any]:
        rate = (
            None if self.rate is None else {"median": self.rate.median, "low": self.rate.least, "high": self.rate.most}
        )
        said = {"per_second": rate, "data_sheet": self.peak, "share": self.share}
        return said | {"note": self.note or None}


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What a device reached."""

    device: str
    sizes: Sizes
    sheet: DataSheet | None
    lines: tuple[Line, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headers and rows, without the columns in which nothing stands."""
        rows = [line.cells() for line in self.lines]
        kept = [place for place in range(len(COLUMNS)) if any(row[place] not in ("", NONE) for row in rows)]
        return [COLUMNS[place] for place in kept], [[row[place] for place in kept] for row in rows]

    def caption(self) -> list[str]:
        """How it was measured, and whose peaks stand beside it."""
        source = "No data sheet of this device is known here." if self.sheet is None else (
            f"Data sheet: {self.sheet.source}, {self.sheet.gpu}, dense, accumulated in fp32."
        )  # fmt: skip
        return [HOW.format(copied=self.sizes.copied // 2**20, side=self.sizes.side), source]

    def to_dict(self) -> dict[str, Any]:
        """Bytes and FLOPs a second."""
        copy, *products = self.lines
        return {
            "device": self.device,
            "copied_bytes": self.sizes.copied,
            "matrix_side": self.sizes.side,
            "data_sheet": None if self.sheet is None else {"gpu": self.sheet.gpu, "source": self.sheet.source},
            "copy_bytes": copy.to_dict(),
            "matrix_flops": {line.what.removesuffix(PRODUCT): line.to_dict() for line in products},
        }


def choose(device: str | None) -> Device:
    """The device named, or the GPU where there is one."""
    if device == "cuda" and not has_cuda():
        raise UnsupportedError("--device cuda: torch sees no CUDA device here; use --device cpu")
    return get_device(device or ("cuda" if has_cuda() else "cpu"))


def appraise(device: Device, sizes: Sizes | None = None) -> Appraisal:
    """Measure both ceilings, the copy once and a product in each dtype that the device has."""
    sizes = SIZES[device.kind] if sizes is None else sizes
    gpu = device.describe().get("gpu")
    sheet = sheet_of(gpu)
    copied = copy_rate(device, sizes)
    copy = Line(COPY, BYTES, copied, sheet.bytes_per_second if sheet else None)
    products = (_product(device, dtype, sizes, copied, sheet) for dtype in TORCH_DTYPE)
    return Appraisal(gpu or device.kind, sizes, sheet, (copy, *products))


def _product(device: Device, dtype: str, sizes: Sizes, copied: Rate, sheet: DataSheet | None) -> Line:
    try:
        found = measure_ceilings(device, TORCH_DTYPE[dtype], sizes=sizes, copy=copied)
    except UnsupportedError as error:
        return Line(dtype + PRODUCT, FLOPS, None, None, str(error))
    kind = "tf32" if found.tf32 else dtype
    note = "" if found.tf32 is None else f"TF32 {'on' if found.tf32 else 'off'}"
    return Line(dtype + PRODUCT, FLOPS, found.matrix, sheet.flops.get(kind) if sheet else None, note)
