"""A text is its bytes: what identifies it, what is no text, and that nobody trains on another one unawares."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import memprof.text
from memprof.errors import MemprofError
from memprof.text import Text, read_text

ABC = "ba7816bf8f01"
"""the SHA-256 of the bytes abc begins so: FIPS 180-2, appendix B.1"""


@pytest.fixture
def abc(tmp_path: Path) -> Path:
    file = tmp_path / "abc.txt"
    file.write_bytes(b"abc")
    return file


def test_a_text_is_known_by_its_content_and_not_by_its_folder(abc: Path) -> None:
    text = read_text(abc)
    assert text.to_dict() == {"sha256": ABC, "nbytes": 3, "name": "abc.txt"}
    assert str(abc.parent) not in repr(text)
    assert text == Text(sha256=ABC, nbytes=3, name="abc.txt", path=Path("/elsewhere/abc.txt"))
    assert text.content() == b"abc"


def test_a_path_counts_from_where_it_was_given(abc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(abc.parent)
    text = read_text("abc.txt")
    monkeypatch.chdir("/")
    assert text.content() == b"abc"


def test_no_more_than_the_limit_is_read(abc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    abc.write_bytes(b"abcdef")
    monkeypatch.setattr(memprof.text, "MAX_BYTES", 3)
    monkeypatch.setattr(memprof.text, "BLOCK", 2)
    text = read_text(str(abc))
    assert (text.sha256, text.nbytes) == (ABC, 3) and text.content() == b"abc"


def test_bytes_are_not_decoded(abc: Path) -> None:
    abc.write_bytes(b"\xff\xfe\x00\r\n")
    assert read_text(abc).content() == b"\xff\xfe\x00\r\n"


def test_a_name_that_is_not_unicode_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"t\xff.txt")
    file.write_bytes(b"abc")
    text = read_text(file)
    assert text.name.encode() == b"t\\udcff.txt" and text.content() == b"abc"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("missing", ".*missing' is not there; give the path of a file"),
        ("", ".*/' is not a file"),
        ("empty", ".*empty' is empty; .* with bytes in it"),
        ("pipe", ".*pipe' is not a file"),
        ("n" * 300, ".* cannot be read .File name too long."),
        ("nul\0", ".*nul.*(cannot be read .*null byte|is not there)"),
    ],
)
def test_what_is_no_text_is_one_line(tmp_path: Path, path: str, says: str) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MemprofError, match=f"^text {says}") as error:
        read_text(f"{tmp_path}/{path}")
    assert error.value.exit_code == 2 and "\n" not in str(error.value)


def test_what_may_not_be_read_is_one_line(abc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read whatever the mode says
    with pytest.raises(MemprofError, match=r"^text '.*abc\.txt' cannot be read \(Permission denied\); give"):
        read_text(abc)


def test_no_path_is_one_line() -> None:
    with pytest.raises(MemprofError, match="^text 5 is no path"):
        read_text(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"abd", b"ab", b"abcd", b""], ids=["other", "shorter", "longer", "emptied"])
def test_a_text_that_has_changed_is_not_trained_on(abc: Path, content: bytes) -> None:
    text = read_text(abc)
    abc.write_bytes(content)
    with pytest.raises(MemprofError, match=r"^text abc\.txt has changed since this run was planned") as error:
        text.content()
    assert str(abc.parent) not in str(error.value)


def test_a_text_that_is_gone_is_one_line(abc: Path) -> None:
    text = read_text(abc)
    abc.unlink()
    with pytest.raises(MemprofError, match=r"^text abc\.txt can no longer be read \(No such file or directory\)$"):
        text.content()


def test_a_text_is_read_once_in_a_process(abc: Path) -> None:
    text = read_text(abc)
    first = text.content()
    abc.unlink()
    assert text.content() is first


@pytest.fixture(autouse=True)
def _forget() -> None:
    """Every test reads for itself."""
    memprof.text._content.cache_clear()
