"""Sentences with figures in them: `{table|row|column|formula:.2f}` stands for what came out there.

Text of a file is never a format string: a placeholder has four fixed parts, and a format is digits after the point.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from memprof.papers.result import Reproduction, Result
from memprof.report.columns import NONE
from memprof.report.describe import plain
from memprof.report.paper.grid import WITNESSES, decimals, figure

_BRACES = re.compile(r"\{([^{}]*)\}")
_PLACEHOLDER = re.compile(
    r"([^|]+)\|([^|]+)\|([^|]+)\|(published|formula|trace|measured)(?::(,?)\.([0-9])f)?", re.ASCII
)


def review(found: Reproduction) -> list[str]:
    """The paper's sentences, filled; without those that ask for a figure that is not there."""
    return [text for sentence in found.paper.review if (text := filled(sentence, found)) is not None]


def filled(sentence: str, found: Reproduction) -> str | None:
    """A sentence with its figures; nothing where one of them is unknown or was not run."""
    pieces = _BRACES.split(sentence)
    figures = [_figure(inner, found) for inner in pieces[1::2]]
    if any(each is None for each in figures):
        return None
    texts = [each if each is not None else "" for each in figures]
    return plain("".join(_alternating(pieces[::2], texts)))


def _alternating(texts: list[str], figures: list[str]) -> Iterator[str]:
    for text, each in zip(texts, [*figures, ""], strict=True):
        yield text
        yield each


def _figure(inner: str, found: Reproduction) -> str | None:
    match = _PLACEHOLDER.fullmatch(inner)
    if match is None:
        return None
    table, row, column, witness, grouped, digits = match.groups()
    cell = next((each for each in found.results if (each.table, each.row, each.column) == (table, row, column)), None)
    if cell is None:
        return None
    value = _value(cell, witness)
    if value is None:
        return None
    if digits is not None:
        return f"{value:{grouped}.{digits}f}"
    if witness == "published":
        return cell.published
    peers = [each for each in found.results if each.table == table]
    text = figure(value, cell, decimals(peers, column))
    return None if text == NONE else text


def _value(cell: Result, witness: str) -> float | None:
    value: float | None = cell.value if witness == "published" else getattr(cell, WITNESSES[witness])
    return value
