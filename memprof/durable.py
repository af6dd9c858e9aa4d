"""Files that are still there after a power cut: what is written reaches the disk, and so does the file's name."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Put the folder's list of files on the disk: a new or renamed file is in it and nowhere else."""
    with suppress(OSError):  # some file systems cannot
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def replace(unfinished: Path, file: Path) -> None:
    """Put `unfinished` in the file's place. A reader sees the old one or the new one, after a power cut too."""
    with unfinished.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(unfinished, file)
    sync_folder(file.parent)
