"""A paper's reproduction as a page: what holds, what is counted differently, what the real code stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memprof.counting import MEMPROF, PARTS, Counting, get_counting
from memprof.papers.result import Reproduction, Result, Verdict
from memprof.papers.source import Table
from memprof.report.paper import Grid, failures, grid, identity_lines, summary
from memprof.report.text import escape

OTHERWISE = (Verdict.OTHER_UNIT, Verdict.NOT_REPRODUCED, Verdict.NOT_RUN)
MANY = 4
"""rows that are named one by one; of more, a range is told"""


def markdown(found: Reproduction, command: str, picture: str) -> str:
    """The whole page. `command` made it, `picture` is the file of its chart."""
    paper = found.paper
    parts = [
        f"# {escape(paper.title)}",
        escape(". ".join(filter(None, [paper.authors, paper.published]))) + (f". <{paper.link}>" if paper.link else ""),
        escape(paper.about),
        f"Made by `{command}`. {escape(summary(found))}",
        f"![published against memprof's own figures]({picture})",
        *_section("What no longer comes out", failures(found)),
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


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"## {title}"
        yield "\n".join(f"* {escape(line)}" for line in lines)


def conventions(counting: Counting) -> list[str]:
    """A counting in words; nothing for memprof's own."""
    if counting == MEMPROF:
        return []
    said = []
    if counting.vocab_size:
        said.append(f"The vocabulary has {counting.vocab_size:,} tokens.")
    for part, share in counting.parts.items():
        how = "Not counted" if share == 0 else f"Counted at {share:g} of the bytes"
        said.append(f"{how}: {PARTS[part]}.")
    if counting.params == "model and trainable":
        said.append("Where weights are frozen, the plain model and all that is trained are added up: embeddings, head "
                    "and norms count twice.")  # fmt: skip
    if counting.activation == "one sequence":
        said.append("Activations are those of one sequence, L s h (32 + 5 a s / h) bytes, whatever the micro-batch.")
    if counting.activation == "none":
        said.append("Activations are not counted.")
    if counting.largest_tensor:
        said.append("Extra memory is that of the largest weight, the embedding; nothing else is temporary.")
    return said


def what_holds(found: Reproduction) -> list[str]:
    """Table by table, how many of the published cells come out."""
    lines = []
    for table in found.tables:
        counts = found.counts(table)
        said = [f"{counts.get(Verdict.REPRODUCED, 0)} of {sum(counts.values())} cells come out"]
        said += [f"{counts[verdict]} {verdict}" for verdict in OTHERWISE if counts.get(verdict)]
        lines.append(f"{table.title}: {', '.join(said)}.")
    return lines


def stored_otherwise(found: Reproduction) -> list[str]:
    """Column by column, which published sizes are counted in another way than the traced code keeps them."""
    lines = []
    for table in found.tables:
        for column in table.columns:
            apart = [each for each in found.of(table) if each.column == column.label and _is_apart(each)]
            if apart:
                lines.append(f"Table {table.id}, {column.label}: {_apart(apart, column.unit)}.")
    return lines


def _is_apart(result: Result) -> bool:
    """A size that the trace and the paper's counting give differently, to the printed digits."""
    if result.quantity != "bytes" or result.stored is None or result.ours is None or result.published is None:
        return False
    decimals = len(result.published.partition(".")[2])
    return round(result.stored, decimals) != round(result.ours, decimals)


def _apart(results: Sequence[Result], unit: str) -> str:
    pairs = [(each.row, each.ours or 0.0, each.stored or 0.0) for each in results]
    if len(pairs) <= MANY:
        return "; ".join(f"{row} counted {counted:.2f}, stored {stored:.2f} {unit}" for row, counted, stored in pairs)
    low, high = (f"{pick(stored / counted for _, counted, stored in pairs if counted):.2f}" for pick in (min, max))
    times = low if low == high else f"{low} to {high}"
    return f"in {len(pairs)} rows the trace finds {times} times what is counted"


def _table(found: Reproduction, table: Table) -> Iterator[str]:
    each = grid(found, table)
    yield f"### {escape(table.title)}"
    yield escape(table.about)
    yield _lines(each)
    yield "\n".join(f"{escape(note)}  " for note in each.notes)


def _lines(each: Grid) -> str:
    rows = [["", "", *each.headers, "Verdict"], ["---", "---", *("---:" for _ in each.headers), "---"]]
    for group in each.groups:
        for number, line in enumerate(group.lines):
            first = number == 0
            rows.append([escape(text) for text in (group.row * first, *line, group.verdict * first)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
