"""A paper's page. Oracles: the small paper of tests/papers, and sentences that say what the code stores."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from memprof.papers.read import read_paper
from memprof.papers.result import Reproduction
from memprof.report.paper.counted import conventions, counted_otherwise, stored_otherwise
from memprof.report.paper.page import Maker, markdown
from memprof.reproduce.run import reproduce

MAKER = Maker("memprof reproduce ./mine.toml -o 'my out'", "1.2.3", "2.13.0")


def of_paper(found: Reproduction, **update: object) -> Reproduction:
    return replace(found, paper=found.paper.model_copy(update=update))


def test_the_page_shows_markup_in_names_as_text(found: Reproduction) -> None:
    page = markdown(found, MAKER, "mine.png")
    assert "<script>" not in page and "&lt;script&gt;\\|x" in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
    assert "(mine.png)" in page


def test_no_control_character_of_a_file_gets_through(found: Reproduction) -> None:
    dirty = of_paper(found, title="A\x1b[31m paper", about="a\x07b", conflicts=("<b>\x1b]0;x",), authors="C\x00D")
    page = markdown(dirty, MAKER, "mine.png")
    assert all(char.isprintable() or char == "\n" for char in page)
    assert "# A paper\n" in page and "* &lt;b&gt;" in page


@pytest.mark.parametrize("link", ["javascript:alert(1)", "https://a.b/<script>", "https://a b", " https://a.b"])
def test_only_a_plain_address_becomes_a_link(found: Reproduction, link: str) -> None:
    assert "<https://arxiv.org/abs/1>" in markdown(of_paper(found, link="https://arxiv.org/abs/1"), MAKER, "x.png")
    page = markdown(of_paper(found, link=link), MAKER, "x.png")
    assert link not in page and "<http" not in page


def test_the_page_says_what_made_it(found: Reproduction) -> None:
    page = markdown(replace(found, measured_on="run a on GPU"), MAKER, "mine.png")
    made = "Made by `memprof reproduce ./mine.toml -o 'my out'` (memprof 1.2.3, torch 2.13.0; measured: run a on GPU)."
    assert made in page
    assert "torch 2.13.0)." in markdown(found, MAKER, "mine.png")
    ticks = markdown(found, replace(MAKER, command="memprof `x`\n"), "mine.png")
    assert "`` memprof `x` ``" in ticks


def test_the_verdict_stands_first(found: Reproduction) -> None:
    page = markdown(of_paper(found, review=("It is {1|Full|Param|published} *MB*.",)), MAKER, "mine.png")
    assert "## In short\n\n* It is 17.99 \\*MB\\*.\n" in page
    assert page.index("## In short") == page.index("## ")
    assert "## In short" not in markdown(found, MAKER, "mine.png")


def test_the_page_tells_what_the_code_stores_otherwise() -> None:
    paper = read_paper("approximations")
    table = next(table for table in paper.tables if table.id == "1")
    some = tuple(row for row in table.rows if row.label in ("GaLore", "ReDoRA"))
    paper = paper.model_copy(update={"tables": (table.model_copy(update={"rows": some}),)})
    found = reproduce(paper)
    page = markdown(found, MAKER, "y.png")
    assert "GaLore counted 0.53, stored 0.61 GiB" in page
    assert "The vocabulary has 32,100 tokens." in page
    assert "Not counted: the projector between a gradient and its subspace." in page
    act = [each for each in found.results if each.column == "Act" and each.published and each.stored]
    low, high = (pick(each.stored or 0 for each in act) for pick in (min, max))
    assert {each.sequences for each in act} == {48}
    said = f"Act: {low:.2f} to {high:.2f} GiB for 48 sequences, {low / 48:.3f} to {high / 48:.3f} each, where 0.305"
    assert said in page
    assert "with the activations of 48 sequences where those of one are counted" in page
    assert "Total: ReDoRA counted 2.31, traced peak " in page


def test_a_single_row_of_several_sequences_has_no_range() -> None:
    found = reproduce(read_paper("approximations"), ["1"], tracing=False)
    results = tuple(
        replace(each, stored=12.05) for each in found.results if each.column == "Act" and each.row == "GaLore"
    )
    assert stored_otherwise(replace(found, results=results)) == [
        "Table 1, Act: 12.05 GiB for 48 sequences, 0.251 each, where 0.305 is counted."
    ]


def test_figures_that_differ_are_told_to_the_digit_in_which_they_do(found: Reproduction) -> None:
    each = replace(found.results[0], published="0.251", ours=0.251, stored=0.254)
    assert stored_otherwise(replace(found, results=(each,))) == ["Table 1, Param: Full counted 0.251, stored 0.254 MB."]


def test_a_table_that_is_counted_otherwise_says_so(found: Reproduction) -> None:
    paper, table = found.paper, found.paper.tables[0]
    other = table.model_copy(update={"counted_as": "paper:galore"})
    assert counted_otherwise(paper, table) == ""
    said = counted_otherwise(paper, other)
    assert said.startswith("Counted otherwise than the paper's other tables. ") and "Activations are not" in said
    assert "every byte" in counted_otherwise(paper.model_copy(update={"counting": "paper:galore"}),
                                             table.model_copy(update={"counted_as": "memprof"}))  # fmt: skip
    title = "\n\nCounted otherwise than"
    assert title in markdown(replace(found, tables=(other,)), MAKER, "x.png")


def test_every_convention_is_told() -> None:
    from memprof.counting import Counting

    said = conventions(Counting(sums=True, params="trainable", grads="none", activation="none"))
    assert said == [
        "Of the parameters those that are trained; frozen weights are not counted.",
        "Gradients are not counted.",
        "Activations are not counted.",
    ]
