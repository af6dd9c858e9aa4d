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
_LEVEL = {
    Verdict.FAIL: "error",
    Verdict.BROKEN: "error",
    Verdict.CHANGED: "error",
    Verdict.WARN: "warning",
    Verdict.INCONCLUSIVE: "notice",
}


def workflow_commands(outcome: Outcome, root: str | None) -> Iterator[str]:
    """A command for each check that did not pass; paths count from `root`, the checked-out repository."""
    for check in outcome.checks:
        level = _LEVEL.get(check.verdict)
        if level is not None:
            lines = (headline(check), *check.why, *advice(outcome, check))
            title = f"memprof: {check.budget.name}, {check.limit.key}"
            file = _from(root, outcome.file.source.path)
            yield inert(command(level, "\n".join(lines), title, file, check.limit.line))


def error_command(message: str) -> str:
    """A check that came to no result, annotated nowhere in particular: the message names the place."""
    return inert(f"::error title=memprof::{_data(message)}")


def inert(text: str) -> str:
    """Text in which a runner finds no command: it still takes its first form, `##[...]`, anywhere in a line."""
    return text.replace("##[", "## [")


def inert_json(text: str) -> str:
    """The same for a JSON document, which means what it meant."""
    return text.replace("##[", "#\\u0023[")


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
