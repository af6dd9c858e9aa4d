"""The line of a key, which a failure sends its reader to: right or not told at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.budget.source import load_source, shown

TRICKY = '''\
# peak = "1 GiB"
[defaults]
model = "peak"
[[budget]]
name = "peak = 3" # peak

message = """
peak = "7 GiB"
"""
  "peak" = "1 GiB"
max_increase.grad = "1%"
max_increase.peak = '2%'
[other]
peak = [1,
2]
[[budget]]
steady = "1 GiB"

[budget.max_increase]
peak = "1%"
'''


def test_lines_by_hand(tmp_path: Path) -> None:
    (tmp_path / "memprof.toml").write_text(TRICKY)
    source = load_source(tmp_path / "memprof.toml")
    assert source.lines == {
        ("defaults", "model"): 3,
        (0, "name"): 5,
        (0, "message"): 7,
        (0, "peak"): 10,
        (0, "max_increase"): 11,
        (0, "max_increase", "grad"): 11,
        (0, "max_increase", "peak"): 12,
        (1, "steady"): 17,
        (1, "max_increase"): 19,
        (1, "max_increase", "peak"): 20,
    }
    assert source.where(0, "max_increase", "peak") == "memprof.toml:12"
    assert source.where(1) == "memprof.toml:17" and source.where() == "memprof.toml"


@pytest.mark.parametrize("text", ["budget = [{ name = 'a', peak = '1 GiB' },\n{ name = 'b',  peak = '2 GiB' }]\n"])
def test_inline_tables_have_lines_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "memprof.toml").write_text(text)
    source = load_source(tmp_path / "memprof.toml")
    assert (source.line(0, "peak"), source.line(1, "peak")) == (1, 2)


def test_windows_line_ends_count_once(tmp_path: Path) -> None:
    (tmp_path / "memprof.toml").write_bytes(b'[[budget]]\r\nname = "a"\r\npeak = "1 GiB"\r\n')
    assert load_source(tmp_path / "memprof.toml").line(0, "peak") == 3


@pytest.mark.parametrize("key", ["true", "inf", '"a b"'])
def test_a_key_that_cannot_be_told_from_a_value_has_no_line(tmp_path: Path, key: str) -> None:
    (tmp_path / "memprof.toml").write_text(f"[[budget]]\n{key} = 1\nx = true\ny = inf\n")
    assert load_source(tmp_path / "memprof.toml").line(0, key) is None


LINES = st.sampled_from(['peak = "1 GiB"', "grad = '1 MiB'", 'message = """\npeak\n"""', "# peak = 1", "", "steady=1"])


@given(budgets=st.lists(st.lists(LINES, max_size=5, unique=True), min_size=1, max_size=4))
def test_a_line_is_where_the_key_was_written(
    tmp_path_factory: pytest.TempPathFactory, budgets: list[list[str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.toml"
    path.write_text("\n".join("\n".join(["[[budget]]", *lines]) for lines in budgets))
    source, written = load_source(path), path.read_text().split("\n")
    for index, lines in enumerate(budgets):
        for key in (line.partition("=")[0].strip() for line in lines if "=" in line and not line.startswith("#")):
            line = source.line(index, key)
            assert line is not None and written[line - 1].startswith(key)
            assert written[:line].count("[[budget]]") == index + 1


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("memprof.toml", "memprof.toml"),
        ("below/memprof.toml", "below/memprof.toml"),
        ("below/../memprof.toml", "memprof.toml"),
        ("../../alice/secret/memprof.toml", "memprof.toml"),
        ("/home/alice/memprof.toml", "memprof.toml"),
    ],
)
def test_a_report_names_a_file_without_folders_that_lie_elsewhere(path: str, named: str) -> None:
    assert shown(Path(path)) == named
