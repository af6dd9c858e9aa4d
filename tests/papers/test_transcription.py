"""The papers' cells, copied from the papers a second time, and what must come out of them whatever a file expects."""

from __future__ import annotations

import pytest

from memprof.papers.cells import MISSING
from memprof.papers.read import names, read_paper

LOW_RANK = "0.91 0.35 0.69 0.30 0.06 2.31"
TRAINABLE = "0.35 0.35 0.69 0.30 0.06 1.75"
CELLS: dict[tuple[str, str], dict[str, str]] = {
    ("approximations", "1"): {
        "Full-rank AdamW, w bf16 os bf16": "0.69 0.69 1.37 0.30 0.06 3.11 141.5",
        "Full-rank AdamW, w fp32 os fp32": "- - - - - - -",
        "ReLoRA": f"{LOW_RANK} 120.0",
        "ReDoRA": f"{LOW_RANK} 118.0",
        "RePiSSA": f"{LOW_RANK} 120.2",
        "ReLoQRa": f"{LOW_RANK} 120.5",
        "ReLoQRa, reset 10k, warm start": f"{LOW_RANK} 120",
        "Adam-mini": "0.69 0.69 0.81 0.30 0.06 2.55 -",
        "GaLore": "0.69 0.69 0.53 0.30 0.06 2.26 -",
        "GaLore-EF (0.1)": "0.69 0.69 1.09 0.30 0.06 2.83 -",
        "GaLore-dynamics": "0.69 0.69 0.53 0.30 0.06 2.26 -",
        "GaLore-dynamics-EF (0.2)": "0.69 0.69 1.09 0.30 0.06 2.83 141.4",
    },
    ("approximations", "2"): {
        "Full-rank, micro-batch 24": "137.3",
        "GaLore 256, micro-batch 24": "136.5",
        "ReLoRA 256, micro-batch 24": "115.2",
        "ReLoRA 128, micro-batch 24": "129.0",
        "ReLoRA 64, micro-batch 24": "135.2",
        "ReLoRA 256, micro-batch 48": "120.6",
        "ReLoRA 128, micro-batch 48": "133.6",
        "ReLoRA 64, micro-batch 48": "142.1",
    },
    ("approximations", "3"): {
        **{name: LOW_RANK for name in ("ReLoRA", "ReDoRA", "RePiSSA", "ReLoQRa")},
        **{f"{name} (T)": TRAINABLE for name in ("ReLoRA", "ReDoRA", "RePiSSA", "ReLoQRa")},
    },
    ("approximations", "text"): {
        "GaLore": "- - - - 400",
        "GaLore-dynamics": "- - - - 15",
        "GaLore-dynamics-EF (0.2)": "9% -0.28 0.57 0.28 -",
    },
    ("galore", "2"): {
        "Full-Rank": "0.36 0.76 2.06 7.80",
        "GaLore": "0.24 0.52 1.22 4.38",
        "Low-Rank": "0.26 0.54 1.08 3.57",
        "LoRA": "0.36 0.80 1.76 6.17",
        "ReLoRA": "0.36 0.80 1.76 6.17",
    },
    ("galore", "6a"): {
        "Full-Rank": "0.12 0.25 0.68 2.60",
        "GaLore": "0.12 0.25 0.68 2.60",
        "Low-Rank": "0.08 0.18 0.36 1.19",
        "LoRA": "0.20 0.44 1.04 3.79",
        "ReLoRA": "0.20 0.44 1.04 3.79",
    },
    ("galore", "6b"): {
        "Full-Rank": "0.23 0.51 1.37 5.20",
        "GaLore": "0.13 0.28 0.54 1.78",
        "Low-Rank": "0.17 0.37 0.72 2.38",
        "LoRA": "0.17 0.37 0.72 2.38",
        "ReLoRA": "0.17 0.37 0.72 2.38",
    },
    ("galore", "11"): {
        "AdamW": "13.60 6.33",
        "Adafactor": "13.15 2.92",
        "8-bit Adam": "9.54 7.90",
        "8-bit GaLore": "7.95 5.59",
        "AdamW, layer by layer": "9.63 6.81",
        "Adafactor, layer by layer": "10.32 3.09",
        "8-bit Adam, layer by layer": "6.93 6.07",
        "8-bit GaLore, layer by layer": "5.63 5.13",
    },
    ("galore", "intro"): {"AdamW": "14 42 2"},
    ("galore", "figure-1"): {
        "BF16 Adam": f"13.5 - - - {37.92 / 0.633:.1f} -",
        "8-bit Adam": f"- - - - {24.5 / 0.523:.1f} -",
        "8-bit GaLore": "- - 82.5% 65.5% - -",
        "8-bit GaLore, layer by layer": "- - - - 22.0 63.3%",
    },
    ("galore", "24gb"): {"8-bit GaLore, layer by layer": "<24"},
    ("galore", "text"): {"LoRA": "42.7"},
    ("galore-mini", "2"): {
        "Full": "0.76 2.06 7.80",
        "Low-Rank": "0.54 1.08 3.57",
        "LoRA": "0.80 1.76 6.17",
        "ReLoRA": "0.80 1.76 6.17",
        "GaLore": "0.52 1.22 4.38",
        "GaLore-mini": "0.44 1.04 3.79",
    },
    ("galore-mini", "1"): {
        "GaLore-mini": "mn mr+nr",
        "GaLore": "mn mr+2nr",
        "LoRA": "mn+mr+nr 2mr+2nr",
        "Adam-mini": "mn mn",
        "AdamW": "mn 2mn",
    },
    ("galore", "1"): {"GaLore": "mn mr+2nr", "LoRA": "mn+mr+nr 2mr+2nr"},
    ("galore-mini", "layer"): {
        "AdamW": "24h2 - -",
        "Adam-mini": "12h2 - -",
        "GaLore": "30hr - -",
        "GaLore-mini": "18hr 40% 81.25%",
    },
    ("galore-mini", "share"): {"GaLore-mini": f"{3.79 / 7.80:.2%}"},
    ("galore-mini", "figure-1"): {"GaLore-mini": "- - - 40% 81% - -"},
}
ALL_OUT = {
    ("approximations", "3"), ("galore", "1"), ("galore", "24gb"), ("galore-mini", "1"), ("galore-mini", "layer"),
}  # fmt: skip
"""tables of which every cell must be expected to come out"""


@pytest.mark.parametrize(("name", "table"), CELLS)
def test_cells_are_as_printed(name: str, table: str) -> None:
    found = next(each for each in read_paper(name).tables if each.id == table)
    published = {
        row.label: " ".join(cell.value.replace(" ", "") for cell in row.cells)
        for row in found.rows
        if any(cell.value != MISSING for cell in row.cells)
    }
    wanted = {row: cells for row, cells in CELLS[name, table].items() if set(cells.split()) != {MISSING}}
    width = len(found.columns)
    assert published == {row: " ".join([*cells.split(), *[MISSING] * width][:width]) for row, cells in wanted.items()}


def test_every_table_was_copied_twice() -> None:
    tables = {(name, table.id) for name in names() for table in read_paper(name).tables}
    assert tables == set(CELLS)


@pytest.mark.parametrize(("name", "table"), sorted(ALL_OUT))
def test_what_holds_must_be_expected_to(name: str, table: str) -> None:
    found = next(each for each in read_paper(name).tables if each.id == table)
    cells = [cell for row in found.rows for cell in row.cells if cell.value != MISSING]
    assert {cell.expect or found.expect for cell in cells} == {"reproduced"}


def test_the_totals_of_approximations_must_be_expected_to_come_out() -> None:
    table = read_paper("approximations").tables[0]
    place = [column.label for column in table.columns].index("Total")
    assert {row.cells[place].expect for row in table.rows} == {None} and table.expect == "reproduced"
