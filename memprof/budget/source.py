"""Where budgets are written: finds the TOML file, reads it within bounds, and knows on which line each key stands."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memprof.errors import MemprofError, NothingToDoError
from memprof.report.describe import plain

BUDGET_FILE = "memprof.toml"
PYPROJECT = "pyproject.toml"
MAX_BYTES = 2**18
MAX_SHOWN = 60
"""characters of a user's own text in an error"""

KeyPath = tuple[int | str, ...]
"""(2, "max_increase", "peak") is that key of the third budget"""


@dataclass(frozen=True, slots=True)
class Source:
    """A budget file as it was read. `data` is memprof's own part of it."""

    path: Path
    text: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    """the line of each key of each budget, counted from 1; a key that cannot be placed is not in it"""

    @property
    def name(self) -> str:
        return shown(self.path)

    def where(self, *path: int | str) -> str:
        """`memprof.toml:12`; the file alone where the line is not known."""
        line = self.line(*path)
        return self.name if line is None else f"{self.name}:{line}"

    def line(self, *path: int | str) -> int | None:
        """The line of a key, or the first line of what is below it."""
        below = [line for key, line in self.lines.items() if path and key[: len(path)] == path]
        return min(below, default=None)


def shown(path: Path) -> str:
    """A path as reports name it: relative to here, or the bare name, so that no folder of the user's is told."""
    here = Path.cwd()
    absolute = Path(os.path.normpath(here / path))
    return plain(absolute.relative_to(here) if absolute.is_relative_to(here) else path.name)


def quote(text: object) -> str:
    """A user's own text in an error: one line, cut where it is long."""
    line = plain(text)
    return repr(line if len(line) <= MAX_SHOWN else line[:MAX_SHOWN] + "...")


def load_source(file: str | Path | None = None) -> Source:
    """The named file; or else memprof.toml here; or else pyproject.toml here, if it has [tool.memprof]."""
    if file is not None:
        return _read(Path(file))
    if Path(BUDGET_FILE).is_file():
        return _read(Path(BUDGET_FILE))
    if Path(PYPROJECT).is_file():
        return _read(Path(PYPROJECT))
    raise NothingToDoError(f"no budgets here; write {BUDGET_FILE}, or [tool.memprof] in {PYPROJECT}, or name a file")


def passed_over(file: str | Path | None = None) -> str | None:
    """Budgets that nobody reads, because another file goes before theirs."""
    if file is not None or not (Path(BUDGET_FILE).is_file() and Path(PYPROJECT).is_file()):
        return None
    try:
        _read(Path(PYPROJECT))
    except MemprofError:
        return None
    return f"[tool.memprof] in {PYPROJECT} is not read: {BUDGET_FILE} goes before it"


def _read(path: Path) -> Source:
    text = _text(path)
    try:
        data: Any = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else plain(error)
        raise MemprofError(f"{shown(path)} is not TOML: {reason}") from None
    if path.name == PYPROJECT:
        tool = data.get("tool")
        data = tool.get("memprof") if isinstance(tool, dict) else None
        if data is None:
            raise NothingToDoError(f"{shown(path)} has no [tool.memprof]; add it, or write {BUDGET_FILE}")
        if not isinstance(data, dict):
            raise MemprofError(f"{shown(path)}: tool.memprof must be a table, [tool.memprof]")
    found = list(_lines(text, data, inside=path.name == PYPROJECT))
    return Source(path, text, data, dict(sorted(found, key=lambda item: -item[1])))  # of several, the first counts


def _text(path: Path) -> str:
    if not path.is_file():
        raise MemprofError(_no_file(path))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MemprofError(f"cannot read {shown(path)}: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise MemprofError(f"{shown(path)} is larger than {MAX_BYTES} bytes; a budget file must be smaller")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise MemprofError(f"{shown(path)} is not TOML: it is not UTF-8") from None
    if text.startswith("\ufeff"):
        raise MemprofError(f"{shown(path)} is not TOML: it begins with a byte order mark; save it without")
    return text


def _no_file(path: Path) -> str:
    """What a path is that is no file."""
    if path.is_dir():
        return f"budget file {shown(path)} is a folder; name a file in it"
    if path.is_symlink():
        return f"budget file {shown(path)} is a link to nothing"
    if path.exists():
        return f"budget file {shown(path)} is no regular file"
    return f"no budget file {shown(path)}; write one, or leave FILE out for {BUDGET_FILE}"


_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MARK = "_memprof-mark-"


def _lines(text: str, data: Mapping[str, Any], inside: bool) -> Iterator[tuple[KeyPath, int]]:
    """The line of every key of every budget.

    No parser says on which line a key stood. So every word that might be such a key is marked with its place and the
    text parsed once more: a word that was a key has become another key, and one in a value or a comment has not.
    """
    words = sorted({word for word in _words(_tables(data)) if _BARE_KEY.fullmatch(word)}, key=len, reverse=True)
    if not words or _MARK in text:
        return
    pattern = re.compile(rf"(?<![\w-])({'|'.join(words)})(?![\w-])")
    try:
        marked: Any = tomllib.loads(pattern.sub(lambda match: f"{match[0]}{_MARK}{match.start()}", text))
        table = marked["tool"]["memprof"] if inside else marked
    except (ValueError, LookupError, TypeError):
        return  # a key called like a value, such as `true`: the errors go without lines
    for path, start in _marks(_tables(table), ()):
        yield path, text.count("\n", 0, start) + 1


def _tables(data: Mapping[str, Any]) -> dict[int | str, Any]:
    """The tables whose keys have lines: each budget under its number, and the defaults."""
    found, defaults = data.get("budget"), data.get("defaults")
    return {"defaults": defaults} | dict(enumerate(found if isinstance(found, list) else []))


def _words(tables: Mapping[Any, Any]) -> Iterator[str]:
    """Every key in these tables."""
    for table in tables.values():
        if isinstance(table, dict):
            yield from table
            yield from _words(table)


def _marks(tables: Mapping[Any, Any], path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    """Every marked key below `path`, with the place that its mark tells."""
    for name, table in tables.items():
        key, _, start = name.partition(_MARK) if isinstance(name, str) else (name, "", "")
        if start:
            yield (*path, key), int(start)
        if isinstance(table, dict):
            yield from _marks(table, (*path, key))
