"""A paper's files: whole, never over others', and the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from memprof.errors import MemprofError
from memprof.papers.result import Reproduction
from memprof.report.paper.files import ENDINGS, free, write
from memprof.report.paper.page import Maker

MAKER = Maker("memprof reproduce mine", "1", "2")


def test_files_are_written_whole_and_never_over_others(found: Reproduction, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    free(str(folder), "mine", force=False)
    written = write(str(folder), found, MAKER)
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"mine.{end}" for end in ENDINGS)
    assert all(path.stat().st_size for path in written)
    with pytest.raises(MemprofError, match="holds mine.md already; --force overwrites it"):
        free(str(folder), "mine", force=False)
    before = {path: path.read_bytes() for path in written}
    free(str(folder), "mine", force=True)
    write(str(folder), found, MAKER)
    assert {path: path.read_bytes() for path in written} == before


def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MemprofError, match="is no folder; name one with -o"):
        free(str(tmp_path / "file"), "mine", force=True)


@pytest.mark.parametrize("folder", ["", "  "])
def test_a_folder_without_a_name_is_refused(folder: str) -> None:
    with pytest.raises(MemprofError, match="-o is empty; name a folder"):
        free(folder, "mine", force=True)
