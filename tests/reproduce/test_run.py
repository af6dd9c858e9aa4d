"""The papers' tables. Oracle: their own printed cells, and which of them must come out whatever the files expect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memprof.errors import MemprofError
from memprof.papers.read import names, read_paper
from memprof.papers.result import Reproduction, Verdict
from memprof.reproduce.measurements import measure, stored
from memprof.reproduce.run import choose, reproduce
from tests.papers.conftest import PARAM_MB


@pytest.fixture(scope="module")
def found() -> dict[str, Reproduction]:
    return {name: reproduce(read_paper(name), tracing=False) for name in names()}


@pytest.mark.parametrize("name", names())
def test_nothing_that_is_marked_as_reproducible_is_lost(found: dict[str, Reproduction], name: str) -> None:
    assert found[name].is_true, (found[name].lost, found[name].broken)


def test_every_cell_of_approximations_table_3_comes_out(found: dict[str, Reproduction]) -> None:
    cells = [each for each in found["approximations"].results if each.table == "3"]
    assert len(cells) == 48 and {each.verdict for each in cells} == {Verdict.REPRODUCED}


def test_all_totals_that_the_text_of_approximations_states_come_out(found: dict[str, Reproduction]) -> None:
    totals = [each for each in found["approximations"].results if each.table == "1" and each.column == "Total"]
    stated = [each for each in totals if each.origin == "stated" and each.published]
    assert {each.published for each in stated} == {"3.11", "2.31", "2.55", "2.26", "2.83"}
    assert {each.verdict for each in stated} == {Verdict.REPRODUCED}


def test_the_projector_lifts_galore_s_total(found: dict[str, Reproduction]) -> None:
    """methods.md 4.1: 2.346 GiB with the projector that the code stores, 2.42 with Adam-mini 1.1."""
    totals = {each.row: each.ours for each in found["approximations"].results if each.column == "Total"}
    assert totals["GaLore, projector counted"] == pytest.approx(2.346, abs=5e-4)
    assert totals["Adam-mini 1.1"] == pytest.approx(2.42, abs=5e-3)


@pytest.mark.parametrize(("row", "count"), [("GaLore", 400), ("GaLore-dynamics", 15)])
def test_svds_are_counted(found: dict[str, Reproduction], row: str, count: int) -> None:
    (cell,) = [
        each for each in found["approximations"].results if each.row == row and each.column == "SVDs in 20,000 steps"
    ]
    assert (cell.ours, cell.verdict) == (count, Verdict.REPRODUCED)


def test_galore_mini_s_formulas_coefficients_and_shares_come_out(found: dict[str, Reproduction]) -> None:
    cells = [each for each in found["galore-mini"].results if each.table in ("1", "layer") and each.published]
    assert len(cells) == 16 and {each.verdict for each in cells} == {Verdict.REPRODUCED}


def test_galore_s_estimates_are_within_a_tenth_and_obey_their_identities(found: dict[str, Reproduction]) -> None:
    """methods.md 4.3: full rank, low rank and LoRA within 7 % in the closer unit."""
    cells = [each for each in found["galore"].results if each.table in ("2", "6a", "6b") and each.row != "GaLore"]
    for each in cells:
        assert each.ours is not None and each.value is not None
        gibibytes, gigabytes = each.ours, each.ours * 2**30 / 1e9
        assert min(abs(figure / each.value - 1) for figure in (gibibytes, gigabytes)) <= 0.07, each
    identities = found["galore"].identities
    assert len(identities) == 11 * 4 and all(each.holds for each in identities)


def test_a_trace_stands_beside(paper_file: Callable[..., Path]) -> None:
    paper = read_paper(str(paper_file()))
    (traced,) = reproduce(paper).results
    (untraced,) = reproduce(paper, tracing=False).results
    assert traced.stored == pytest.approx(PARAM_MB) and untraced.stored is None
    assert traced.ours == untraced.ours


def test_a_measurement_stands_beside(paper_file: Callable[..., Path]) -> None:
    paper = read_paper(str(paper_file()))
    seen: list[tuple[int, int]] = []
    measurements = measure(paper, paper.tables, "cpu", lambda done, total: seen.append((done, total)), rounds=0)
    (result,) = reproduce(paper, tracing=False, measurements=measurements.found).results
    assert result.measured == pytest.approx(PARAM_MB)
    assert seen == [(1, 1)]
    assert (measurements.on, measurements.failed) == ("cpu", [])


def test_a_stored_run_speaks_for_the_scenarios_that_it_has(tmp_path: Path, paper_file: Callable[..., Path]) -> None:
    from memprof.api import compare
    from memprof.record import document

    run = tmp_path / "run.json"
    records = compare(["9m"], ["adamw"], rank=8, batch_size=1, seq_len=16, measure=True, device="cpu", rounds=0)
    run.write_text(document(records, {}))
    paper = read_paper(str(paper_file(row='[[table.row]]\nlabel = "Other"\nmethod = "lion"\ncells = ["-"]')))
    full, other = reproduce(paper, tracing=False, measurements=stored(str(run)).found).results
    assert full.measured == pytest.approx(PARAM_MB) and other.measured is None


def test_tables_are_chosen_by_id() -> None:
    paper = read_paper("galore")
    assert [table.id for table in choose(paper, ["6a", "text"])] == ["6a", "text"]
    assert choose(paper, []) == paper.tables
    with pytest.raises(MemprofError, match="galore has no table '9'; choose from 1, 2, 6a, 6b, 11, intro, figure-1"):
        choose(paper, ["9"])


@pytest.mark.parametrize(
    ("text", "said"),
    [("galor", "unknown method 'galor'"), ("galore:rank=4000", "rank 4000 is larger than")],
)
def test_a_method_that_is_not_to_be_had_is_told_with_its_row(
    paper_file: Callable[..., Path], text: str, said: str
) -> None:
    paper = read_paper(str(paper_file(row=f'[[table.row]]\nlabel = "Other"\nmethod = "{text}"\ncells = ["-"]')))
    with pytest.raises(MemprofError, match=f"^table 1, row 'Other': .*{said}"):
        reproduce(paper, tracing=False)


def test_a_peak_under_a_sum_is_memprof_s_own(paper_file: Callable[..., Path]) -> None:
    text = paper_file().read_text().replace('of = "param"', 'of = "peak"').replace('"17.99"', '"-"')
    text = text.replace('name = "mine"', 'name = "mine"\ncounting = "paper:galore"')
    (result,) = reproduce(read_paper(str(paper_file(text=text)))).results
    assert result.ours == result.stored
