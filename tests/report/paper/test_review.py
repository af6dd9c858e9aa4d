"""Sentences with figures. Oracle: the small paper's known figures."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from memprof.papers.read import names, read_paper
from memprof.papers.result import Reproduction
from memprof.report.paper.review import filled, review
from tests.papers.conftest import PARAM_MB


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("{1|Full|Param|published} MB", "17.99 MB"),
        ("{1|Full|Param|formula:.4f} and {1|Full|Param|trace:.0f}", f"{PARAM_MB:.4f} and {PARAM_MB:.0f}"),
        ("by formula {1|Full|Param|formula}.", f"by formula {PARAM_MB:.2f}."),
        ("{1|Full|Param|published:,.1f}", "18.0"),
        ("no figure, 50 % and \x1b[31mred", "no figure, 50 % and red"),
        ("{1|Full|Param|measured} MB", None),
        ("{1|Ours alone|Param|published}", None),
        ("{1|None|Param|formula}", None),
        ("{9|Full|Param|formula} {1|Full|Param|formula}", None),
        ("{1|Full|Param|formula:1000000000.2f}", None),
        ("{1|Full|Param|formula:.99f}", None),
        ("{1|Full|Param|formula.__class__}", None),
        ("{0.__class__} {found}", None),
        ("{}", None),
    ],
)
def test_a_placeholder_is_filled_or_drops_its_sentence(found: Reproduction, sentence: str, said: str | None) -> None:
    assert filled(sentence, found) == said


def test_large_figures_are_grouped_where_asked(found: Reproduction) -> None:
    large = replace(found, results=(replace(found.results[0], ours=1234567.891),))
    assert filled("{1|Full|Param|formula:,.0f}", large) == "1,234,568"


def test_sentences_without_their_figures_are_left_out(found: Reproduction) -> None:
    sentences = ("first {1|Full|Param|measured}", "second {1|Full|Param|published}", "third")
    paper = found.paper.model_copy(update={"review": sentences})
    assert review(replace(found, paper=paper)) == ["second 17.99", "third"]


@pytest.mark.parametrize("name", names())
def test_every_placeholder_of_the_papers_names_a_cell(name: str) -> None:
    paper = read_paper(name)
    cells = {(table.id, row.label, label) for table in paper.tables for row in table.rows for label in table.labels}
    inner = [text for sentence in paper.review for text in re.findall(r"\{(.*?)\}", sentence)]
    assert {tuple(text.split("|")[:3]) for text in inner} <= cells
    assert inner
