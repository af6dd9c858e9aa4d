"""Reads a paper's file: one of those that come along, or a user's own, with every fault told with its place."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from memprof.errors import MemprofError, shown
from memprof.papers.cells import Cell, Changes, Column, Row, Setting, Strict
from memprof.papers.source import Identity, Paper, Table, Term

MAX_FILE = 2**18
KINDS: dict[str, type[Strict]] = {
    "table": Table, "column": Column, "row": Row, "cells": Cell, "setting": Setting, "counting": Changes,
    "identity": Identity, "terms": Term,
}  # fmt: skip
"""what stands under each key"""


def names() -> list[str]:
    """The papers that come with memprof."""
    return sorted(
        file.name.removesuffix(".toml") for file in files(__package__).iterdir() if file.name.endswith(".toml")
    )


def read_paper(which: str) -> Paper:
    """A paper by its name, or a file of the user's own by its path."""
    if "/" not in which and not which.endswith(".toml"):
        if which not in names():
            raise MemprofError(
                f"unknown paper {shown(repr(which))}; choose from {', '.join(names())}, or give the path of a TOML file"
            )
        return _parse(files(__package__).joinpath(f"{which}.toml").read_text("utf-8"), f"{which}.toml")
    return _parse(_text(Path(which)), Path(which).name)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise MemprofError(f"{shown(path.name)} is larger than {MAX_FILE} bytes; a paper's file must be smaller")
        return content.decode()
    except UnicodeDecodeError:
        raise MemprofError(f"{shown(path.name)} is not TOML: it is not UTF-8") from None
    except OSError as error:
        raise MemprofError(f"cannot read {shown(str(path))}: {error.strerror or error}") from None


def _parse(text: str, name: str) -> Paper:
    try:
        return Paper.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise MemprofError(f"{shown(name)}: {_said(error)}") from None
    except (ValueError, RecursionError) as error:
        raise MemprofError(f"{shown(name)} is not TOML: {shown(str(error))}") from None


def _said(error: ValidationError) -> str:
    """The first fault with its place, as TOML names it: `table[2].row[3].cells: ...`, counted from 1."""
    faults = {_place(fault["loc"]): fault for fault in reversed(error.errors(include_url=False, include_input=False))}
    where, first = next(reversed(faults.items()))
    what = " ".join(str(first["msg"]).removeprefix("Value error, ").split())
    if first["type"] == "extra_forbidden":
        what = f"no such key here; choose from {', '.join(_keys(first['loc']))}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{where}: {what}{more}" if where else f"{what}{more}"


def _keys(loc: Sequence[int | str]) -> list[str]:
    """The keys of the table in which an unknown one stands."""
    parents = [part for part in loc[:-1] if isinstance(part, str)]
    kind = KINDS[parents[-1]] if parents else Paper
    return [spec.alias or name for name, spec in kind.model_fields.items()]


def _place(loc: Sequence[int | str]) -> str:
    return "".join(f"[{part + 1}]" if isinstance(part, int) else f".{shown(part)}" for part in loc).lstrip(".")
