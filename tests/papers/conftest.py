"""A small paper of our own, for tests that must not depend on anybody's figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PAPER = """
name = "mine"
title = "A paper"
authors = "Nobody"
published = "nowhere"

[[table]]
id = "1"
title = "One table"
setting = {{ model = "9m", rank = 8, batch_size = 1, seq_len = 16 }}

[[table.column]]
label = "Param"
of = "param"
unit = "MB"

[[table.row]]
label = "Full"
method = "adamw"
cells = [{cell}]
{row}
{more}
"""
PARAM_MB = 8_995_968 * 2 / 1e6
"""bf16 weights of 9m, whose parameters methods.md counts"""


@pytest.fixture
def paper_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes the small paper with a cell, further keys of its row, and what follows it."""

    def write(cell: str = '"17.99"', row: str = "", more: str = "", text: str | None = None) -> Path:
        file = tmp_path / "mine.toml"
        file.write_text(PAPER.format(cell=cell, row=row, more=more) if text is None else text)
        return file

    return write
