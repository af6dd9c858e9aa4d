"""`memprof check` as a user and a CI server meet it: exit codes, streams, files, and a regression that is caught."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import memprof.api
import memprof.runner
from memprof import catalogue
from memprof.budget.baseline import read_baseline
from memprof.budget.config import Budget, read_budgets
from memprof.budget.run import check_file
from memprof.errors import MemprofError
from memprof.methods.adamw import AdamW
from memprof.record import Record
from memprof.runner import run_cell
from memprof.scenario import Scenario
from tests.cells import MEASURED, without_race
from tests.cli.budgets import BUDGET, DEFAULTS, FAILING, PASSING, RELATIVE, ROOT, Main, write

pytestmark = pytest.mark.usefixtures("here")


@dataclass(frozen=True, slots=True)
class ForeachAdamW(AdamW):
    """A temporary for every weight at once, where the fused kernel has none."""

    def prepare(self, model: nn.Module) -> torch.optim.Optimizer:  # type: ignore[override]
        return torch.optim.AdamW(model.parameters(), self.lr, self.betas, self.eps, self.weight_decay, foreach=True)


def test_a_budget_that_holds(memprof_main: Main) -> None:
    write(PASSING)
    done = memprof_main("check")
    assert (done.code, done.err) == (0, "")
    assert "small" in done.out and done.out.endswith("memprof.toml, by trace: 1 pass\n")


def test_a_budget_that_fails(memprof_main: Main) -> None:
    write(FAILING)
    done = memprof_main("check")
    assert (done.code, done.err) == (1, "")
    assert "small: peak is" in done.out and "over the limit of 1 KiB" in done.out
    assert "  at the peak, in " in done.out and "optimizer_state" in done.out
    assert done.out.endswith("  if this is meant, edit peak at memprof.toml:9\n")


@pytest.mark.parametrize(
    "text, code, said",
    [
        (None, 5, "no budgets here; write memprof.toml, or [tool.memprof] in pyproject.toml"),
        ("", 5, "memprof.toml has no budgets; add [[budget]]"),
        (
            RELATIVE,
            5,
            "memprof.toml:8: budget 'small': max_increase counts from memprof-baseline.json, which is not there",
        ),
        (PASSING + "peek = 1\n", 2, "memprof.toml:10: unknown key 'peek'; choose from"),
        (PASSING + 'method = "nope"\n', 2, "memprof.toml:8: budget 'small': unknown method 'nope'; choose from adamw"),
        (PASSING + 'method = "galore:rank=9999"\n', 2, "memprof.toml:8: budget 'small': galore: rank 9999"),
        (PASSING + 'kernels = "tpu"\n', 2, "memprof.toml:8: budget 'small': unknown kernels 'tpu'"),
        (PASSING + 'dtype = "amp"\n', 4, "memprof.toml:8: budget 'small': dtype amp is not built yet"),
        (PASSING + 'refresh_peak = "1 GiB"\n', 2, "memprof.toml:10: adamw has no periodic work and so no refresh_peak"),
        (
            DEFAULTS + BUDGET + 'device = "1 GiB"\n',
            5,
            "memprof.toml:8: budget 'small' has no limit that a trace can check; use --measure",
        ),
        (
            PASSING + '[[budget]]\nname = "fast"\nmin_examples_per_second = 9\ngate_throughput = true\n',
            5,
            "memprof.toml:11: budget 'fast' has no limit that a trace can check; use --measure",
        ),
        (PASSING + "rank = 4\n", 2, "memprof.toml:10: rank 4 is not used: adamw has no rank; remove it"),
        (
            PASSING + 'rank = 4\nmethod = "galore:rank=8"\n',
            2,
            "memprof.toml:10: rank 4 is not used: galore has rank 8 from its own settings; remove it",
        ),
    ],
)
def test_an_error_is_one_line_and_a_code(memprof_main: Main, text: str | None, code: int, said: str) -> None:
    if text is not None:
        write(text)
    done = memprof_main("check")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"memprof: {said}") and done.err.count("\n") == 1


def test_a_named_file_that_is_not_there(memprof_main: Main) -> None:
    done = memprof_main("check", "mine.toml")
    assert (done.code, done.err.split(";")[0]) == (2, "memprof: no budget file mine.toml")


def test_a_baseline_that_is_broken(memprof_main: Main) -> None:
    write(RELATIVE)
    write("{", "memprof-baseline.json")
    for arguments in ((), ("--update",)):
        done = memprof_main("check", *arguments)
        assert done.code == 2 and done.err.startswith("memprof: memprof-baseline.json is no baseline (")


def test_update_accepts_and_touches_the_toml_in_no_byte(memprof_main: Main) -> None:
    path = write(RELATIVE)
    done = memprof_main("check", "--update")
    assert (done.code, done.err) == (0, "memprof: accepted 1 record as the baseline\n")
    assert path.read_text() == RELATIVE
    first = Path("memprof-baseline.json").read_bytes()
    assert memprof_main("check").code == 0
    assert memprof_main("check", "--update").code == 0
    assert Path("memprof-baseline.json").read_bytes() == first


def test_a_changed_scenario_is_shown_beside_the_accepted_one_and_is_no_pass(memprof_main: Main) -> None:
    """A model's config.json that grew is the commonest regression of all."""
    other = '[[budget]]\nname = "other"\nseed = 1\npeak = "1 GiB"\n'
    write(RELATIVE + other)
    assert memprof_main("check", "--update").code == 0
    write(RELATIVE + "batch_size = 3\n" + other)  # before the other budget, of [[budget]] small
    done = memprof_main("check")
    assert (done.code, done.err) == (5, "")
    assert "memprof.toml, by trace: 1 pass, 1 scenario changed\n" in done.out
    told = done.out.splitlines()[-6:]
    assert told[0].startswith("small: peak is ") and told[0].endswith(", of another scenario than was accepted")
    assert told[1] == (
        "  memprof-baseline.json has another scenario for this budget: batch_size (1 before, 3 after)"
    )  # fmt: skip
    assert told[2].startswith("  since memprof-baseline.json peak grew by ") and "activation +" in told[2]
    assert told[-1] == "  if this is meant, accept it: memprof check --update"
    assert memprof_main("check", "--update").code == 0 and memprof_main("check").code == 0


def test_a_baseline_by_trace_is_not_said_to_have_changed(memprof_main: Main) -> None:
    write(RELATIVE)
    assert memprof_main("check", "--update").code == 0
    done = memprof_main("check", "--device", "cpu")
    said = "memprof-baseline.json has no record measured on cpu; accept it with memprof check --device cpu --update"
    assert done.code == 5 and said in done.err


def test_a_new_budget_beside_an_accepted_one_has_no_baseline(memprof_main: Main) -> None:
    write(RELATIVE)
    assert memprof_main("check", "--update").code == 0
    write(RELATIVE + '[[budget]]\nname = "new"\nseed = 1\nmax_increase = "0%"\n')
    done = memprof_main("check")
    assert done.code == 5 and "memprof-baseline.json has no record of this scenario, which is new" in done.err


def test_update_limits_changes_that_value_alone(memprof_main: Main) -> None:
    path = write(FAILING)
    done = memprof_main("check", "--update-limits")
    assert (done.code, done.err) == (0, "memprof: set 1 limit in memprof.toml\n")
    before, after = FAILING.splitlines(), path.read_text().splitlines()
    assert before[:-1] == after[:-1] and after[-1].startswith('peak = "') and after[-1].endswith(' KiB"  # tight')
    assert not Path("memprof-baseline.json").exists()
    assert memprof_main("check").code == 0


def test_a_regression_is_caught_and_explained(memprof_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW with foreach temporaries in the place of the fused kernel."""
    write('[[budget]]\nname = "adamw"\nmodel = "9m"\nbatch_size = 1\nseq_len = 32\nmax_increase = "1%"\n')
    assert memprof_main("check", "--update").code == 0
    monkeypatch.setitem(catalogue.METHODS, "adamw", ForeachAdamW)
    done = memprof_main("check")
    assert done.code == 1
    assert done.out.splitlines()[-5:] == [
        "adamw: peak is 85.79 MiB, 16.46 MiB over the limit of 69.33 MiB (+1%)",
        "  since memprof-baseline.json peak grew by 17.15 MiB (+25.0%): extra +17.15 MiB (1.00 x param), "
        "optimizer_state -156 B",
        "  the peak is in optimizer; it was in backward",
        "  extra grew in aten::_foreach_sqrt +17.16 MiB",
        "  if this is meant, edit max_increase at memprof.toml:6; or accept the new figures: memprof check --update",
    ]


def test_a_broken_cell_is_3_and_nothing_is_updated(memprof_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(scenario: Scenario, **_: object) -> Record:
        return Record(id=scenario.id, scenario={"model": "9m", "device": None}, status="crashed", reason="it fell")

    path = write(RELATIVE + 'peak = "1 GiB"\n')
    monkeypatch.setattr(memprof.api, "run_cell", broken)
    done = memprof_main("check", "--update", "--update-limits")
    assert done.code == 3 and "  crashed: it fell\n" in done.out
    assert done.err == "memprof: nothing was updated, because not every scenario ran to its end\n"
    assert path.read_text() == RELATIVE + 'peak = "1 GiB"\n' and not Path("memprof-baseline.json").exists()


def test_budgets_that_share_a_scenario_run_it_once(memprof_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def counted(scenario: Scenario, **options: Any) -> Record:
        ran.append(scenario.id)
        return run_cell(scenario, **options)

    write(
        PASSING + '[[budget]]\nname = "again"\npeak = "2 GiB"\n[[budget]]\nname = "other"\nseed = 1\npeak = "1 GiB"\n'
    )
    monkeypatch.setattr(memprof.api, "run_cell", counted)
    assert memprof_main("check").code == 0
    assert len(ran) == len(set(ran)) == 2


def test_measured_on_a_cpu(memprof_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    write(PASSING + 'device = "1 TiB"\nreserved = "1 TiB"\nmin_examples_per_second = 1e9\n')
    done = memprof_main("check", "--device", "cpu", "--steps", "6")
    assert done.code == 3  # speed was not gated, but nobody has a figure for reserved
    assert "memprof.toml, measured on cpu: 2 pass, 1 warn, 1 broken\n" in done.out
    without_race(monkeypatch)
    monkeypatch.setattr(memprof.runner, "measure_in_child", lambda *_: MEASURED)
    write(PASSING + "min_examples_per_second = 1e9\ngate_throughput = true\n")
    assert memprof_main("check", "--device", "cpu", "--steps", "6").code == 1


def test_a_figure_that_is_not_to_be_had_says_why(memprof_main: Main) -> None:
    """Once for all the limits that have the same reason."""
    more = '[[budget]]\nname = "other"\ndevice = "2 TiB"\nparam = "1 TiB"\n'
    write(PASSING + 'device = "1 TiB"\n' + more)
    told = memprof_main("check").out.splitlines()
    assert told[-1] == "device of small, other is not measured: a trace has no such figure; --measure has"


def test_what_the_allocator_would_hold_is_gated_by_trace_and_not_to_be_had_on_a_cpu(
    memprof_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_race(monkeypatch)
    monkeypatch.setattr(memprof.runner, "measure_in_child", lambda *_: MEASURED)
    write(PASSING + 'reserved = "1 TiB"\n')
    assert "memprof.toml, by trace: 2 pass" in memprof_main("check").out
    write(PASSING + 'reserved = "1 KiB"\n')
    failed = memprof_main("check")
    assert failed.code == 1 and "by trace: 1 pass, 1 FAIL" in failed.out
    assert "(of it cuBLAS 64.00 MiB" in failed.out and "with expandable_segments" in failed.out
    measured = memprof_main("check", "--device", "cpu", "--steps", "6")
    assert measured.code == 3 and "memprof.toml, measured on cpu: 1 pass, 1 broken" in measured.out
    why = "no allocator reserves memory on a CPU; limit `device`, the resident set, instead"
    assert measured.out.splitlines()[-2:] == ["small: reserved is not known", f"  {why}"]


def test_too_few_rounds_for_an_interval_are_refused(memprof_main: Main, here: Path) -> None:
    """Of 2 rounds the interval holds the true median half the time: no ground for a verdict."""
    file = read_budgets(write(PASSING + "min_examples_per_second = 1e9\ngate_throughput = true\n"))
    with pytest.raises(MemprofError, match="5 rounds are too few for an interval; a check runs at least 6"):
        check_file(file, device="cpu", rounds=5)
    assert memprof_main("check", "--device", "cpu", "--steps", "5").code == 2


@pytest.mark.parametrize("option", ["--rounds", "--steps", "--timeout"])
def test_what_only_a_measurement_heeds_is_refused_without_one(memprof_main: Main, option: str) -> None:
    write(PASSING)
    done = memprof_main("check", option, "100")
    assert (done.code, done.err) == (2, f"memprof: {option} is for what is measured; add --measure, or leave it out\n")


def test_budgets_that_nobody_reads_are_named(memprof_main: Main) -> None:
    write(PASSING)
    write('[[tool.memprof.budget]]\nname = "b"\npeak = "1 KiB"\n', "pyproject.toml")
    done = memprof_main("check")
    said = "memprof: [tool.memprof] in pyproject.toml is not read: memprof.toml goes before it\n"
    assert (done.code, done.err) == (0, said)
    assert memprof_main("check", "memprof.toml").err == ""


def test_no_cuda_is_4(memprof_main: Main) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    write(PASSING)
    assert memprof_main("check", "--device", "cuda").code == 4


def test_the_budgets_of_this_repository_have_their_baseline() -> None:
    """CI runs them; here only that the committed baseline is of these scenarios, so that a change is seen at once."""
    file = read_budgets(ROOT / "memprof.toml")
    baseline = read_baseline(file.baseline)
    assert baseline is not None
    scenarios = [_scenario(budget) for budget in file.budgets]
    assert [scenario.id for scenario in scenarios] == list(baseline.records)


def _scenario(budget: Budget) -> Scenario:
    fields = dict(budget.scenario)
    return memprof.api.plan([fields.pop("model")], [fields.pop("method")], **fields)[0]
