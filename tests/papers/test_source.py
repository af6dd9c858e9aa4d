"""What a paper's file may say. Oracle: the message names the place and the fault, in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memprof.counting import get_counting
from memprof.errors import MemprofError
from memprof.method import BASIS
from memprof.papers.cells import Cell
from memprof.papers.read import MAX_FILE, names, read_paper

Write = Callable[..., Path]


def layers(name: str, side: int) -> str:
    return f'weights = {{ {name} = ["m", "m"] }}\nsizes = [{{ m = {side} }}]\nsetting ='


TINY = """
[[table.column]]
label = "Param"
of = "param"
unit = "MB"

[[table.row]]
label = "Full"
cells = ["-"]
"""


@pytest.mark.parametrize("name", names())
def test_the_papers_that_come_along_are_valid_and_called_as_their_files(name: str) -> None:
    paper = read_paper(name)
    assert paper.name == name
    for table in paper.tables:
        for row in table.rows:
            for cell in row.cells:
                expected = cell.expect or table.expect
                assert (
                    expected in ("reproduced", "other unit")
                    or cell.value == "-"
                    or _why(cell, row.because, table.because)
                )


def _why(cell: Cell, *others: str) -> str:
    return cell.because or next(filter(None, others), "")


def test_the_three_papers_are_there() -> None:
    assert names() == ["approximations", "galore", "galore-mini"]


def test_a_file_of_one_s_own_is_read(paper_file: Write) -> None:
    paper = read_paper(str(paper_file()))
    assert (paper.name, paper.tables[0].rows[0].cells[0].value) == ("mine", "17.99")


def test_a_row_changes_the_counting_of_its_table_and_that_of_the_paper(paper_file: Write) -> None:
    file = paper_file(row=f'counting = {{ parts = {{ "{BASIS}" = 0.5 }} }}')
    paper = read_paper(str(file))
    table = paper.tables[0]
    counting = paper.convention(table, table.rows[0])
    assert counting.parts == {BASIS: 0.5}
    assert counting.activation == get_counting("memprof").activation


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cell": '"17.99", "1"'}, r"mine.toml: table\[1\]: row 'Full' has 2 cells; the table has 1 columns"),
        ({"cell": '"12!"'}, r"table\[1\].row\[1\].cells\[1\]: '12!' is neither a number nor a sum"),
        ({"cell": '"a lot"'}, r"table\[1\]: 'a lot' is no number; letters need `weights` and `sizes`"),
        ({"cell": "17.99"}, r"table\[1\].row\[1\].cells\[1\]: write a figure as text, such as \"17.99\""),
        ({"cell": '{ value = "1", expect = "maybe" }'}, r"cells\[1\].expect: Input should be 'reproduced'"),
        ({"row": 'colour = "red"'}, r"table\[1\].row\[1\].colour: no such key here; choose from label, method, cells"),
        ({"row": "setting = { rank = 0 }"}, r"row\[1\].setting.rank: Input should be greater than or equal to 1"),
        ({"row": 'setting = { rank = "8" }'}, r"row\[1\].setting.rank: Input should be a valid integer"),
        ({"row": "[[table.identity]]\nsays = 'x'\nterms = []"}, r"identity\[1\].terms: Tuple should have at least 2"),
        ({"row": '[[table.row]]\nlabel = "Full"\ncells = ["1"]'}, r"table 1: two rows have one label"),
        (
            {"row": "setting = { rnk = 1 }"},
            r"row\[1\].setting.rnk: no such key here; choose from model, rank, .*kernels",
        ),
        ({"row": 'label2 = "x"\nlabel3 = "y"'}, r"label2: no such key here; .* \(and \d more\)"),
        ({"cell": '"1"', "more": '[[table]]\nid = "1"\ntitle = "x"\n' + TINY}, "two tables have one id"),
        ({"more": '[[table.identity]]\nsays = "x"\nterms = [{ row = "Full" }, { row = "No" }]'}, "row 'No', which"),
        (
            {"more": '[[table.identity]]\nsays = "x"\nterms = [{ row = "Full" }, { row = "Full", table = "9" }]'},
            "table '9'",
        ),
        ({"more": "[[table]]\nid = 'x'"}, r"table\[2\].title: Field required \(and 2 more\)"),
    ],
)
def test_a_fault_is_told_with_its_place(paper_file: Write, fields: dict[str, str], said: str) -> None:
    with pytest.raises(MemprofError, match=said) as error:
        read_paper(str(paper_file(**fields)))
    assert "\n" not in str(error.value)


def test_an_unknown_convention_is_told_when_it_is_used(paper_file: Write) -> None:
    paper = read_paper(str(paper_file(row='counting = { params = "some" }')))
    with pytest.raises(MemprofError, match="params 'some' is unknown; choose from stored"):
        paper.convention(paper.tables[0], paper.tables[0].rows[0])


def test_what_is_no_toml_or_no_file_is_refused(paper_file: Write, tmp_path: Path) -> None:
    with pytest.raises(MemprofError, match=r"mine.toml is not TOML: "):
        read_paper(str(paper_file(text="name = [")))
    with pytest.raises(MemprofError, match=r"is larger than 262144 bytes"):
        read_paper(str(paper_file(text="#" * (MAX_FILE + 1))))
    (tmp_path / "latin.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(MemprofError, match="latin.toml is not TOML: it is not UTF-8"):
        read_paper(str(tmp_path / "latin.toml"))
    with pytest.raises(MemprofError, match="cannot read .*: No such file"):
        read_paper(str(tmp_path / "none.toml"))


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(MemprofError, match="unknown paper 'adam'; choose from approximations, galore, galore-mini, or"):
        read_paper("adam")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('name = "mine"', 'name = "../mine"'), "name: String should match pattern"),
        (('name = "mine"', 'name = "mine\\n"'), "name: String should match pattern"),
        (('id = "1"', 'id = "1 \\u001b[31m"'), r"table\[1\].id: String should match pattern"),
        (('label = "Param"', 'label = "Par\\u001b[2Jam"'), r"column\[1\].label: control characters, line breaks"),
        (('title = "One table"', 'title = "One\\ntable"'), r"table\[1\].title: control characters"),
        (('title = "One table"', 'title = "One\\u202etable"'), r"marks of direction are not allowed"),
        (('authors = "Nobody"', 'link = "javascript:alert(1)"'), "link: String should match pattern"),
        (('authors = "Nobody"', 'link = "https://x <script>"'), "link: String should match pattern"),
        (('authors = "Nobody"', '"a\\u001b[31m" = 1'), "no such key here"),
        (('unit = "MB"', ""), "bytes need a `unit`, such as GiB"),
        (('unit = "MB"', 'unit = "MB"\nflops = inf'), "flops: Input should be a finite number"),
        (('unit = "MB"', 'unit = "Mb"'), "unit 'Mb' is unknown"),
        (('"17.99"', '"１７.９９"'), "is neither a number nor a sum"),
        (
            ("setting =", 'weights = { training = ["m", "m"] }\nsizes = [{ m = 8 }]\nsetting ='),
            "weights name 'training'",
        ),
        (
            ("setting =", 'weights = { o_proj = ["m", "m"] }\nsizes = [{ m = -8 }]\nsetting ='),
            "greater than or equal to 1",
        ),
        (("setting =", 'weights = { o_proj = ["m", "m"] }\nsizes = [{ m = 8 }]\nsetting ='), "layers have elements of"),
    ],
)
def test_a_hostile_or_mistaken_file_is_refused_in_one_printable_line(
    paper_file: Write, change: tuple[str, str], said: str
) -> None:
    text = paper_file().read_text()
    assert change[0] in text
    with pytest.raises(MemprofError, match=said) as error:
        read_paper(str(paper_file(text=text.replace(*change, 1))))
    assert str(error.value).isprintable()


def test_a_row_may_have_an_expectation_of_its_own(paper_file: Write) -> None:
    paper = read_paper(str(paper_file(row='expect = "not reproduced"\nbecause = "made up"')))
    assert paper.tables[0].rows[0].expect == "not reproduced"
