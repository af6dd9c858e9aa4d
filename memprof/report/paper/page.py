"""A paper's reproduction as a page: the verdict, what holds, what is counted differently, what the real code stores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memprof.counting import get_counting
from memprof.papers.result import Reproduction, Verdict
from memprof.papers.source import Table
from memprof.report import text
from memprof.report.describe import plain
from memprof.report.paper.counted import conventions, counted_otherwise, stored_otherwise
from memprof.report.paper.grid import Grid, grid
from memprof.report.paper.review import review
from memprof.report.paper.words import failures, identity_lines, summary

OTHERWISE = (Verdict.OTHER_UNIT, Verdict.NOT_REPRODUCED, Verdict.NOT_RUN, Verdict.ELSEWHERE)
_LINK = re.compile(r"https?://[^\s<>]+")
_TICKS = re.compile(r"`+")


@dataclass(frozen=True, slots=True)
class Maker:
    """What made a page."""

    command: str
    """as it was given"""
    memprof: str
    torch: str
    """versions"""


def markdown(found: Reproduction, maker: Maker, picture: str) -> str:
    """The whole page; `picture` is the file of its chart."""
    paper = found.paper
    parts = [
        f"# {_safe(paper.title)}",
        _source(found),
        _safe(paper.about),
        *_section("In short", review(found)),
        f"{_safe(summary(found))} {_made(found, maker)}",
        f"![memprof's figures over the published ones]({picture})",
        *_section("What should come out and does not", failures(found)),
        *_section("What holds", what_holds(found)),
        *_section("How the paper counts", conventions(get_counting(paper.counting))),
        *_section("What the real code stores", stored_otherwise(found)),
        *_section("What the printed cells obey among themselves", identity_lines(found)),
        *_section("Conflicts within the paper", paper.conflicts),
        "## The tables",
        "Published cells stand above what the formula gives by the paper's own counting and above what a trace of "
        "the real code finds, in one unit. A trace has instants and no totals: beside a paper's total stands its peak.",
        *(part for table in found.tables for part in _table(found, table)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _safe(said: str) -> str:
    """A file may say anything: no control characters, and nothing that Markdown would act on."""
    return text.escape(plain(said))


def _source(found: Reproduction) -> str:
    paper = found.paper
    link = f". <{paper.link}>" if _LINK.fullmatch(paper.link) else ""
    return _safe(". ".join(filter(None, [paper.authors, paper.published]))) + link


def _made(found: Reproduction, maker: Maker) -> str:
    measured = f"; measured: {_safe(found.measured_on)}" if found.measured_on else ""
    versions = f"memprof {_safe(maker.memprof)}, torch {_safe(maker.torch)}"
    return f"Made by {_code(maker.command)} ({versions}{measured})."


def _code(command: str) -> str:
    """A code span with a longer fence than any row of backticks inside."""
    inner = plain(command)
    longest = max((len(ticks) for ticks in _TICKS.findall(inner)), default=0)
    return f"{'`' * (longest + 1)} {inner} {'`' * (longest + 1)}" if longest else f"`{inner}`"


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"## {title}"
        yield "\n".join(f"* {_safe(line)}" for line in lines)


def what_holds(found: Reproduction) -> list[str]:
    """Table by table, how many of the published cells come out."""
    lines = []
    for table in found.tables:
        counts = found.counts(table)
        if not counts:
            continue
        said = [f"{counts.get(Verdict.REPRODUCED, 0)} of {sum(counts.values())} cells come out"]
        said += [f"{counts[verdict]} {verdict}" for verdict in OTHERWISE if counts.get(verdict)]
        lines.append(f"{table.title}: {', '.join(said)}.")
    return lines


def _table(found: Reproduction, table: Table) -> Iterator[str]:
    each = grid(found, table)
    yield f"### {_safe(each.title)}"
    yield _safe(each.setting)
    yield _safe(table.about)
    yield _safe(counted_otherwise(found.paper, table))
    yield _lines(each)
    yield "\n".join(f"{_safe(note)}  " for note in each.notes)


def _lines(each: Grid) -> str:
    rows = [["", "", *map(_safe, each.headers), "Verdict"], ["---", "---", *("---:" for _ in each.headers), "---"]]
    for group in each.groups:
        for number, line in enumerate(group.lines):
            first = number == 0
            rows.append([_safe(cell) for cell in (group.row * first, *line, group.verdict * first)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
