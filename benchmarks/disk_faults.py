"""Faults of the disk: files that are torn or have a byte put wrong, and a disk that is full."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.program import METHODS, program
from benchmarks.row import Row
from memprof.errors import MemprofError
from memprof.run_file import RECORDS, load
from memprof.store import RunStore


def torn_files(folder: Path) -> Iterator[Row]:
    """A finished run, cut at 400 places and then with a byte put wrong at 400."""
    run = program(folder / "whole").start()
    run.wait()
    whole, rng = (run.folder / RECORDS).read_bytes(), random.Random(0)
    finished = run.records()
    copy = folder / "copy" / RECORDS
    copy.parent.mkdir(parents=True)
    lost = 0
    for _ in range(400):
        end = rng.randrange(len(whole))
        copy.write_bytes(whole[:end])
        store = RunStore.create(copy.parent, resume=True)
        lost += max(0, whole[:end].count(b"\n") - 1 - sum(record in finished for record in store.load()))
        store.close()
    cells = len(finished)
    yield Row(
        fault="records.jsonl cut at 400 places, then continued", before=cells, lost=lost,
        message="a torn last line is left out", says="a torn",
    )  # fmt: skip
    refused = sum(_is_refused(copy, whole, rng.randrange(len(whole)), rng.randrange(256)) for _ in range(400))
    text = f"{refused} refused with their line, {400 - refused} still a run; no other error"
    says = r"[1-9]\d* refused with their line, [1-9]\d* still a run; no other error$"
    yield Row(fault="one byte of records.jsonl put wrong, 400 times", before=cells, message=text, says=says)
    lines = whole.splitlines(keepends=True)
    torn = b"".join([*lines[:1], lines[1][:99] + b"\n", *lines[2:]])
    (run.folder / RECORDS).write_bytes(torn)
    again = run.continued()
    changed = (run.folder / RECORDS).read_bytes() != torn
    yield Row(
        fault="a line in the middle of records.jsonl torn", before=cells - 1, lost=changed * (cells - 1),
        children=again.left(), code=again.code, message=again.said(),
        wanted=2, says=r"memprof: run/records.jsonl:2 is not JSON; the run is damaged there; without that line",
    )  # fmt: skip


def _is_refused(file: Path, whole: bytes, place: int, byte: int) -> bool:
    file.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    try:
        load(file)
    except MemprofError:
        return True
    return False


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[str]:
    """A file system of that size, mounted while open; yields why not, or nothing."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    yield "" if done.returncode == 0 else "not injected: no file system can be mounted here (it takes root)"
    if done.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)


def full_disk(folder: Path) -> Iterator[Row]:
    for size, what in ((4, "a record comes"), (16, "the tables come")):
        name, disk = f"the disk is full when {what} (a tmpfs of {size} KiB)", folder / f"{size}"
        with small_disk(disk, f"{size}k") as why_not:
            if why_not:
                yield Row(fault=name, message=why_not, skipped=True)
                continue
            run = program(folder / f"outside{size}")
            run.folder = disk
            code, kept, told = run.start().wait(), run.records(), run.said()
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            again = run.continued()
            whole = again.code == 0 and len(again.records()) == len(METHODS)
            lost = sum(record not in again.records() for record in kept)
            message = told if whole else f"NOT CONTINUED: {again.said()}"
            yield Row(
                fault=name, before=len(kept), lost=lost, children=run.left() + again.left(), code=code, message=message,
                wanted=2, says=rf"memprof: no space left in {size}; make some and go on with --resume$",
            )  # fmt: skip
