"""A recorded allocator history as a file: gzipped JSON of whole numbers, with a version. Never a pickle.

Columns of one length, an entry for each allocation and each free, in order: `address`; `nbytes`, below 0 for a free;
`maker` and `stream`, as places in the lists `makers` and `streams`. `marks` gives for each mark of the run how many
of them went before it, and `phases` the phase that begins there. What is read back is checked: whoever replays it may
rely on it.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from memprof.device.contract import Allocation, Recording
from memprof.durable import replace
from memprof.errors import MemprofError
from memprof.schema import MAX_BYTES, check_plain, is_bytes

VERSION = 1
MAX_FILE = 2**29
"""bytes of the JSON; an event takes about 25"""
COLUMNS = ("address", "nbytes", "maker", "stream")
KEYS = {"memprof_history", "id", "device", "settings", "makers", "streams", "phases", "marks", *COLUMNS}


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """A history with what it is of."""

    id: str
    """of the record that it stands behind"""
    device: str
    recording: Recording
    phases: tuple[str, ...]
    """that begin at each mark"""


def history_path(folder: Path, cell: str) -> Path:
    """Where the history of the cell with this id lies."""
    return folder / f"{cell}.history.json.gz"


def refuse_no_folder(folder: Path) -> None:
    """`MemprofError` where histories cannot be kept under that name: each cell would be measured, and crash then."""
    taken = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if taken is not None and not taken.is_dir():
        raise MemprofError(f"--histories: {taken} is a file; name a folder")


def refuse_existing(folder: Path, cells: Iterable[str]) -> None:
    """`MemprofError` where one of these cells has a history in the folder already."""
    there = [path for path in (history_path(folder, cell) for cell in cells) if path.exists()]
    if there:
        others = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise MemprofError(f"{there[0]}{others} exists; choose another folder for --histories, or add --force")


def write_history(path: Path, cell: str, device: str, recording: Recording, phases: Sequence[str]) -> None:
    """Keep a recording; it is there in whole or not at all, after a power cut too. Takes the place of an older one."""
    content = json.dumps(_document(cell, device, recording, phases), separators=(",", ":")).encode()
    if len(content) > MAX_FILE:
        raise MemprofError(f"the history of {cell} is larger than {MAX_FILE} bytes; leave out --histories")
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(gzip.compress(content, mtime=0))
        replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise MemprofError(f"cannot write {path}: {error.strerror or error}") from None


def read_history(path: str | Path) -> HistoryFile:
    """What `write_history` kept, checked: `MemprofError` where it is anything else."""
    given = Path(path)
    try:
        with gzip.open(given) as opened:
            content = opened.read(MAX_FILE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise MemprofError(f"cannot read {given}: {getattr(error, 'strerror', None) or 'it is no gzip file'}") from None
    try:
        if len(content) > MAX_FILE:
            raise ValueError(f"it is larger than {MAX_FILE} bytes")
        return _read(json.loads(content))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else "a value is of another kind"
        raise MemprofError(
            f"{given} is not an allocator history of version {VERSION}: {' '.join(why.split())}"
        ) from None


def _document(cell: str, device: str, recording: Recording, phases: Sequence[str]) -> dict[str, Any]:
    events = [event for event in recording.events if isinstance(event, Allocation)]
    makers = {name: place for place, name in enumerate(dict.fromkeys(event.maker for event in events))}
    streams = {name: place for place, name in enumerate(dict.fromkeys(event.stream for event in events))}
    marks = [place for place, event in enumerate(recording.events) if isinstance(event, int)]
    return {
        "memprof_history": VERSION,
        "id": cell,
        "device": device,
        "settings": recording.settings,
        "makers": list(makers),
        "streams": list(streams),
        "phases": list(phases),
        "marks": [place - number for number, place in enumerate(marks)],
        "address": [event.address for event in events],
        "nbytes": [event.nbytes for event in events],
        "maker": [makers[event.maker] for event in events],
        "stream": [streams[event.stream] for event in events],
    }


def _read(data: Any) -> HistoryFile:
    if not isinstance(data, dict) or data.get("memprof_history") != VERSION or set(data) != KEYS:
        raise ValueError("its keys are others")
    if not isinstance(data["makers"], list) or not isinstance(data["phases"], list):
        raise ValueError("its makers and phases must be lists")
    settings, texts = data["settings"], [data["id"], data["device"], *data["makers"], *data["phases"]]
    if not isinstance(settings, dict) or not all(isinstance(text, str) for text in texts):
        raise ValueError("its settings must be a table, and its id, device, makers and phases text")
    check_plain(settings, "settings")
    columns = {name: _numbers(data, name) for name in (*COLUMNS, "streams", "marks")}
    events = _events(columns, data["makers"])
    marks = columns["marks"]
    inside = all(0 <= place <= len(events) for place in marks)
    if not inside or any(one > other for one, other in pairwise(marks)) or len(marks) != len(data["phases"]):
        raise ValueError("its marks must rise, lie within it and have a phase each")
    for number, place in reversed(list(enumerate(marks))):
        events.insert(place, number)
    return HistoryFile(data["id"], data["device"], Recording(events, settings=settings), tuple(data["phases"]))


def _events(columns: dict[str, list[int]], makers: list[str]) -> list[Allocation | int]:
    rows = [columns[name] for name in COLUMNS]
    if len({len(column) for column in rows}) != 1:
        raise ValueError(f"{', '.join(COLUMNS)} must be of one length")
    for name, names in (("maker", makers), ("stream", columns["streams"])):
        if not all(place < len(names) for place in columns[name]):
            raise ValueError(f"a {name} is not among the {name}s")
    return [
        Allocation(address, nbytes, makers[maker], columns["streams"][stream])
        for address, nbytes, maker, stream in zip(*rows, strict=True)
    ]


def _numbers(data: dict[str, Any], name: str) -> list[int]:
    found = data[name]
    if not isinstance(found, list) or not all(map(is_bytes if name == "nbytes" else _is_address, found)):
        raise ValueError(f"{name} must be a list of whole numbers")
    return cast(list[int], found)


def _is_address(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2 * MAX_BYTES
