"""A real text to train the measured steps on: a file's bytes, each a token, and which file it was.

Bytes are read and never decoded, let alone executed. What identifies a text is its content: a record has its hash, its
length and its name, and not where it lay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from memprof.errors import MemprofError, shown

VOCABULARY = 256
"""token ids are the bytes 0 to 255"""
MAX_BYTES = 2**30
"""what lies behind is not read: each measuring process holds the whole text"""
DIGITS = 12
"""hex digits of the SHA-256 that are kept"""
BLOCK = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The bytes of a file, at most the first `MAX_BYTES`."""

    sha256: str
    """its first digits"""
    nbytes: int
    name: str
    """of the file, without its folder"""
    path: Path = field(compare=False, repr=False)
    """where it lies on this machine; in no record"""

    def to_dict(self) -> dict[str, object]:
        """As a scenario says it: the hash first, which tells two texts apart."""
        return {"sha256": self.sha256, "nbytes": self.nbytes, "name": self.name}

    def content(self) -> bytearray:
        """The bytes, read once in a process; a `MemprofError` where they are no longer those that were hashed."""
        return _content(self)


def read_text(path: str | Path) -> Text:
    """Which text lies at `path`; a `MemprofError` in one line where there is none."""
    if not isinstance(path, str | Path):
        raise MemprofError(f"text {path!r} is no path; give that of a file")
    file, digest, nbytes = Path(path).absolute(), hashlib.sha256(), 0
    try:
        if not file.is_file():
            raise MemprofError("not there" if not file.exists() else "not a file")
        for block in _blocks(file):
            digest.update(block)
            nbytes += len(block)
        if not nbytes:
            raise MemprofError("empty")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MemprofError(f"text {shown(str(path))!r} cannot be read ({reason}); give the path of a file") from None
    except MemprofError as error:
        raise MemprofError(f"text {shown(str(path))!r} is {error}; give the path of a file with bytes in it") from None
    name = file.name.encode(errors="backslashreplace").decode()
    return Text(sha256=digest.hexdigest()[:DIGITS], nbytes=nbytes, name=name, path=file)


def _blocks(file: Path) -> Iterator[bytes]:
    left = MAX_BYTES
    with file.open("rb") as opened:
        while left and (block := opened.read(min(BLOCK, left))):
            left -= len(block)
            yield block


@lru_cache(maxsize=1)
def _content(text: Text) -> bytearray:
    """Of one text at a time. Writable, as torch asks for of what it looks at without a copy."""
    content = bytearray(text.nbytes)
    try:
        with text.path.open("rb") as opened:
            filled = opened.readinto(content)
            longer = text.nbytes < MAX_BYTES and opened.read(1)
    except OSError as error:
        raise MemprofError(f"text {text.name} can no longer be read ({error.strerror or error})") from None
    if filled < text.nbytes or longer or hashlib.sha256(content).hexdigest()[:DIGITS] != text.sha256:
        raise MemprofError(f"text {text.name} has changed since this run was planned; leave it alone until the end")
    return content
