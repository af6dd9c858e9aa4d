"""What came out, in words: of a row, of a whole paper, and what should and does not."""

from __future__ import annotations

from collections.abc import Sequence

from memprof.papers.result import Reproduction, Result, Verdict
from memprof.report.columns import NONE
from memprof.report.describe import plain

HOW_JUDGED = (
    "A verdict is of the formula, counted as the paper counts. The trace is what the real code stores; beside a total "
    "stands its peak."
)
DERIVED = "derived"
ALSO = (str(Verdict.REPRODUCED), DERIVED)
ORDER = (*map(str, (Verdict.OTHER_UNIT, Verdict.NOT_REPRODUCED, Verdict.NOT_RUN, Verdict.ELSEWHERE)), *ALSO)
"""as the columns of a row are told: first what needs a look"""


def row_verdict(results: Sequence[Result], footnotes: list[str]) -> str:
    """One word where all cells came to the same; otherwise the columns of each, with why. Adds to the footnotes."""
    judged = [result for result in results if result.verdict is not Verdict.UNPUBLISHED]
    if not judged:
        return "not published"
    numbers = [_noted(footnotes, result.note) for result in judged if result.note]
    groups = {word: [result for result in judged if _word(result) == word] for word in ORDER}
    told = {word: members for word, members in groups.items() if members}
    said = [_said(word, members, told, footnotes) for word, members in told.items()]
    return " ".join(["; ".join(said), *dict.fromkeys(numbers)])


def _word(result: Result) -> str:
    """What is derived proves nothing, whether it comes out or not."""
    return DERIVED if result.origin == "derived" else str(result.verdict)


def _said(word: str, members: Sequence[Result], told: dict[str, list[Result]], footnotes: list[str]) -> str:
    why = [result.because for result in members if result.because and result.verdict is not Verdict.REPRODUCED]
    lost = ["LOST"] if any(result.is_lost for result in members) else []
    alone, last = len(told) == 1, word == list(told)[-1]
    where = "the rest" if last and word in ALSO else ", ".join(result.column for result in members)
    prefix = ("" if word in ALSO else "all: ") if alone else f"{where}: "
    return " ".join([f"{prefix}{word}", *lost, *dict.fromkeys(_noted(footnotes, text) for text in why)])


def _noted(footnotes: list[str], text: str) -> str:
    if text not in footnotes:
        footnotes.append(text)
    return f"[{footnotes.index(text) + 1}]"


def summary(found: Reproduction) -> str:
    """What came out, in one sentence."""
    counts = found.counts()
    total = sum(counts.values())
    come_out = f"{counts.get(Verdict.REPRODUCED, 0)} of {total}"
    said = [f"{come_out} cells that the paper prints or states come out to the last digit"]
    words = {
        Verdict.OTHER_UNIT: "in another unit",
        Verdict.NOT_REPRODUCED: "not",
        Verdict.NOT_RUN: "not run here",
        Verdict.ELSEWHERE: "measured on another device, which is no verdict",
    }
    said += [f"{counts[verdict]} {text}" for verdict, text in words.items() if counts.get(verdict)]
    if found.derived:
        said.append(f"{found.derived} more {'is' if found.derived == 1 else 'are'} derived by the same counting")
    if found.identities:
        holding = sum(each.holds for each in found.identities)
        said.append(f"{holding} of {len(found.identities)} identities among printed cells hold")
    return "; ".join(said) + "."


def failures(found: Reproduction) -> list[str]:
    """Cells that are expected to come out and do not, and identities that do not hold."""
    cells = [
        f"table {each.table}, {each.row}, {each.column}: published {each.published}, by formula "
        f"{NONE if each.ours is None else f'{each.ours:.4g} {each.unit}'.rstrip()}"
        for each in found.lost
    ]
    broken = [f"table {each.table}, {each.column}: {each.says}: off by {each.gap:.4g}" for each in found.broken]
    return [plain(text) for text in cells + broken]


def identity_lines(found: Reproduction) -> list[str]:
    """Every identity once, with the columns in which it holds."""
    lines = []
    for says in dict.fromkeys(each.says for each in found.identities):
        members = [each for each in found.identities if each.says == says]
        columns = ", ".join(each.column for each in members if each.column)
        verdict = "holds" if all(each.holds for each in members) else "does not hold"
        lines.append(plain(f"{says}: {verdict}{f' for {columns}' if columns else ''}."))
    return lines
