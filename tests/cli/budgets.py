"""Budget files of one small model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Main = Callable[..., Any]
ROOT = Path(__file__).parents[2]
DEFAULTS = '[defaults]\nmodel = "9m"\nnum_layers = 1\nvocab_size = 64\nbatch_size = 1\nseq_len = 8\n'
BUDGET = '[[budget]]  # ours\nname = "small"\n'
PASSING = f'{DEFAULTS}{BUDGET}peak = "1 GiB"\n'
FAILING = f'{DEFAULTS}{BUDGET}peak = "1 KiB"  # tight\n'
RELATIVE = f'{DEFAULTS}{BUDGET}max_increase = "0%"\n'


def write(text: str, name: str = "memprof.toml") -> Path:
    Path(name).write_text(text)
    return Path(name)
