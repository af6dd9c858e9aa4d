"""How a paper counts, in words, and where the real code stores something else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from memprof.counting import MEMPROF, PARTS, Counting, get_counting
from memprof.papers.cells import Column
from memprof.papers.result import Reproduction, Result
from memprof.papers.source import Paper, Table

MANY = 4
"""rows that are named one by one; of more, a range is told"""
INSTANTS = {"total", "peak"}
"""keys beside which the trace's peak stands: it has no total"""
GROWING = {"activation"} | INSTANTS
"""keys that a counting of one sequence makes smaller than what a micro-batch keeps"""


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
    if counting.params == "trainable":
        said.append("Of the parameters those that are trained; frozen weights are not counted.")
    if counting.params == "model and trainable":
        said.append("Where weights are frozen, the plain model and all that is trained are added up: embeddings, head "
                    "and norms count twice.")  # fmt: skip
    if counting.grads == "none":
        said.append("Gradients are not counted.")
    if counting.activation == "one sequence":
        said.append("Activations are those of one sequence, L s h (32 + 5 a s / h) bytes, whatever the micro-batch.")
    if counting.activation == "none":
        said.append("Activations are not counted.")
    if counting.largest_tensor:
        said.append("Extra memory is that of the largest weight, the embedding; nothing else is temporary.")
    return said


def counted_otherwise(paper: Paper, table: Table) -> str:
    """What a table counts otherwise than its paper; nothing where it does not."""
    own = table.counting.on(get_counting(table.counted_as or paper.counting))
    if own == get_counting(paper.counting):
        return ""
    here = conventions(own) or ["As memprof does, every byte that the code keeps, at the worst instant."]
    return " ".join(["Counted otherwise than the paper's other tables.", *here])


def stored_otherwise(found: Reproduction) -> list[str]:
    """Column by column, which published sizes are counted in another way than the traced code keeps them."""
    lines = []
    for table in found.tables:
        for column in table.columns:
            apart = [each for each in found.of(table) if each.column == column.label and _is_apart(each)]
            if apart:
                said = "; ".join(_told(found.paper, table, column, apart))
                lines.append(f"Table {table.id}, {column.label}: {said}.")
    return lines


def _is_apart(result: Result) -> bool:
    """A size that the trace and the paper's counting give differently, to the printed digits."""
    if result.quantity != "bytes" or result.stored is None or not result.ours or result.published is None:
        return False
    decimals = len(result.published.partition(".")[2])
    return round(result.stored, decimals) != round(result.ours, decimals)


def _told(paper: Paper, table: Table, column: Column, results: Sequence[Result]) -> list[str]:
    """Rows whose counting takes one sequence of several apart from the others, by the size of their micro-batch."""
    groups: dict[int, list[Result]] = {}
    for each in results:
        groups.setdefault(_sequences(paper, table, each), []).append(each)
    keys = set(column.of.split("+"))
    return [
        _per_sequence(members, column.unit, sequences)
        if sequences > 1 and keys == {"activation"}
        else _apart(members, column.unit, bool(keys & INSTANTS)) + _held(sequences, keys)
        for sequences, members in groups.items()
    ]


def _sequences(paper: Paper, table: Table, result: Result) -> int:
    """How many the trace holds where the paper counts the activations of one."""
    row = next(row for row in table.rows if row.label == result.row)
    one = paper.convention(table, row).activation == "one sequence"
    return (result.sequences or 1) if one else 1


def _per_sequence(results: Sequence[Result], unit: str, sequences: int) -> str:
    stored = _span(results, lambda each: each.stored, 2)
    one = _span(results, lambda each: (each.stored or 0.0) / sequences, 3)
    counted = _span(results, lambda each: each.ours, 3)
    return f"{stored} {unit} for {sequences} sequences, {one} each, where {counted} is counted"


def _held(sequences: int, keys: Iterable[str]) -> str:
    if sequences == 1 or not GROWING & set(keys):
        return ""
    return f", with the activations of {sequences} sequences where those of one are counted"


def _apart(results: Sequence[Result], unit: str, is_peak: bool) -> str:
    if len(results) > MANY:
        times = _span(results, lambda each: (each.stored or 0.0) / (each.ours or 1.0), 2)
        found = "traced peak is" if is_peak else "trace finds"
        return f"in {len(results)} rows the {found} {times} times what is counted"
    digits = max(2, *(len((each.published or "").partition(".")[2]) for each in results))
    found = "traced peak" if is_peak else "stored"
    return "; ".join(
        f"{each.row} counted {each.ours:.{digits}f}, {found} {each.stored:.{digits}f} {unit}" for each in results
    )


def _span(results: Sequence[Result], pick: Callable[[Result], float | None], digits: int) -> str:
    figures = [pick(each) or 0.0 for each in results]
    low, high = f"{min(figures):.{digits}f}", f"{max(figures):.{digits}f}"
    return low if low == high else f"{low} to {high}"
