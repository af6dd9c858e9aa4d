"""Values of a budget file, taken with their types; anything else is one line that names file, line and key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, NoReturn

from memprof.budget.source import KeyPath, Source, quote
from memprof.errors import MemprofError

MAX_INT = 2**31 - 1
_WORDS = {str: "text in quotes", int: "an integer", bool: "true or false", float: "a number", dict: "a table"}


def fail(source: Source, what: str, *path: int | str) -> NoReturn:
    """One line: the file with the key's line, then the fact and what is allowed."""
    raise MemprofError(f"{source.where(*path)}: {what}")


def known_keys(source: Source, table: Iterable[str], known: Iterable[str], *place: int | str) -> None:
    """Raise at a key that nothing would look at: a limit that is spelled wrong must not pass in silence."""
    for key in table:
        if key not in known:
            inside = f"{dotted(place)}: " if dotted(place) else ""
            alike = difflib.get_close_matches(key, list(known), n=1)
            meant = f"; perhaps {alike[0]} is meant" if alike else ""
            fail(source, f"{inside}unknown key {quote(key)}; choose from {', '.join(known)}{meant}", *place, key)


def typed(source: Source, value: Any, kind: type, path: KeyPath) -> Any:
    """`value` if it has its type; TOML tells integers, floats and booleans apart, and so does this."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and is_integer and abs(value) <= MAX_INT:
        return float(value)
    if not (is_integer if kind is int else isinstance(value, kind)):
        fail(source, f"{dotted(path)} must be {_WORDS[kind]}, not {_said(value)}", *path)
    return value


def text_with_unit(source: Source, value: object, path: KeyPath, example: str) -> str:
    """A size or percentage as text: a bare number says neither GB nor GiB."""
    if not isinstance(value, str):
        fail(source, f"{dotted(path)} must be text with a unit, such as {example}, not {_said(value)}", *path)
    return value


def _said(value: object) -> str:
    """A value as TOML writes it: only text has quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    return quote(value)[1:-1] if isinstance(value, int | float) else quote(value)


def dotted(path: KeyPath) -> str:
    """A key as TOML writes it, without the number of its budget."""
    return ".".join(part for part in path if isinstance(part, str))
