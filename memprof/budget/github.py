"""Checks as GitHub's workflow commands: an annotation on the line of the limit that failed.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands, escaped as actions/toolkit does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from memprof.budget.check import Verdict
from memprof.budget.run import Outcome
from memprof.budget.text import advice, headline

MAX_SUMMARY = 2**20
"""bytes of a step summary that GitHub takes"""
_LEVEL = {Verdict.FAIL: "error", Verdict.BROKEN: "error", Verdict.WARN: "warning", Verdict.INCONCLUSIVE: "notice"}


def workflow_commands(outcome: Outcome, root: str | None) -> Iterator[str]:
    """A command for each check that did not pass; paths count from `root`, the checked-out repository."""
    for check in outcome.checks:
        level = _LEVEL.get(check.verdict)
        if level is not None:
            lines = (headline(check), *check.why, *advice(outcome, check))
            title = f"memprof: {check.budget.name}, {check.limit.key}"
            yield command(level, "\n".join(lines), title, _from(root, outcome.file.source.path), check.limit.line)


def command(level: str, message: str, title: str, file: str, line: int | None) -> str:
    """`::error title=...,file=...,line=...::message`, in which the user's text cannot end a field."""
    place = f",line={line}" if line is not None else ""
    return f"::{level} title={_property(title)},file={_property(file)}{place}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _from(root: str | None, path: Path) -> str:
    return os.path.relpath(path, root) if root else path.name if path.is_absolute() else str(path)


def summary_within_limit(markdown: str) -> str:
    """The step summary, cut at a line where GitHub would drop the whole of it."""
    content = markdown.encode()
    if len(content) < MAX_SUMMARY:
        return markdown
    return content[: MAX_SUMMARY // 2].decode(errors="ignore").rpartition("\n")[0] + "\n\n(cut here)\n"
