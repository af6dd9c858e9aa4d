"""Verdicts: every kind, exact to the byte and to the end of an interval."""

from __future__ import annotations

import dataclasses

import pytest

from memprof.budget.baseline import Baseline
from memprof.budget.check import Check, Verdict, check_records
from memprof.errors import NothingToDoError
from memprof.record import Record
from tests.budget.conftest import MIB, MakeRecord, WriteBudgets

PEAK = 500 * MIB
"""bytes of the made-up record's peak"""


def baseline(*records: Record, **environment: str) -> Baseline:
    return Baseline("base.json", {record.id: record for record in records}, dict(environment))


def one(checks: list[Check]) -> Check:
    (check,) = checks
    return check


@pytest.mark.parametrize("limit, verdict, headroom", [(PEAK, Verdict.PASS, 0), (PEAK - 1, Verdict.FAIL, -1),
                                                      (PEAK + 1, Verdict.PASS, 1)])  # fmt: skip
def test_a_limit_is_met_to_the_byte(
    budgets: WriteBudgets, record: MakeRecord, limit: int, verdict: Verdict, headroom: int
) -> None:
    check = one(check_records(budgets(f'peak = "{limit} B"').budgets, [record()]))
    assert (check.verdict, check.headroom, check.bound, check.actual) == (verdict, headroom, limit, PEAK)


@pytest.mark.parametrize(
    "key, actual",
    [("param", 100), ("grad", 100), ("optimizer_state", 200), ("activation", 50), ("extra", 50), ("peak", 500),
     ("steady", 300), ("total", 777), ("refresh_peak", 600)],
)  # fmt: skip
def test_every_key_has_its_figure(budgets: WriteBudgets, record: MakeRecord, key: str, actual: int) -> None:
    check = one(check_records(budgets(f'{key} = "1 GiB"').budgets, [record(refresh=600 * MIB)]))
    assert check.actual == actual * MIB and check.verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("reserved", "a trace of CPU kernels has none: no allocator reserves memory on a CPU"),
        ("device", "a trace has no such figure; --measure has"),
    ],
)
def test_what_a_trace_has_not_is_not_called_a_pass(
    budgets: WriteBudgets, record: MakeRecord, key: str, why: str
) -> None:
    check = one(check_records(budgets(f'{key} = "1 GiB"').budgets, [record()]))
    assert check.verdict is Verdict.NOT_MEASURED and check.why == (why,)
    measured = one(check_records(budgets(f'{key} = "1 GiB"').budgets, [record(device="cpu")]))
    ways = {"reserved": "limit `device`", "device": "memprof doctor"}
    assert measured.verdict is Verdict.BROKEN and ways[key] in measured.why[0]


def test_a_measured_record_is_gated_by_its_measurement(budgets: WriteBudgets, record: MakeRecord) -> None:
    seen = record(device="cuda", reserved=MIB)
    assert seen.measured is not None
    seen = dataclasses.replace(seen, measured=dataclasses.replace(seen.measured, peak=7))
    peak, reserved = check_records(budgets('peak = "1 GiB"\nreserved = "1 MiB"').budgets, [seen])
    assert (peak.actual, reserved.actual, reserved.verdict) == (7, MIB, Verdict.PASS)


@pytest.mark.parametrize(
    "more, allowed", [("0%", 1000), ("1%", 1010), ("0.55%", 1005), ("64 B", 1064), ("1000%", 11_000)]
)
def test_increases_count_from_the_baseline_exactly(
    budgets: WriteBudgets, record: MakeRecord, more: str, allowed: int
) -> None:
    """0.55 % of 1,000 bytes are 5.5: five may come, six may not."""
    file, old = budgets(f'max_increase = "{more}"'), baseline(record((1000, 0, 0, 0, 0), unit=1))
    met = one(check_records(file.budgets, [record((allowed, 0, 0, 0, 0), unit=1)], old))
    missed = one(check_records(file.budgets, [record((allowed + 1, 0, 0, 0, 0), unit=1)], old))
    assert (met.verdict, met.bound, missed.verdict) == (Verdict.PASS, allowed, Verdict.FAIL)


def test_a_table_of_increases_is_about_its_keys(budgets: WriteBudgets, record: MakeRecord) -> None:
    file = budgets('max_increase = { optimizer_state = "0%", grad = "10 MiB" }')
    old, new = record(), record((100, 110, 201, 50, 50))
    state, grad = check_records(file.budgets, [new], baseline(old))
    assert (state.limit.key, state.verdict) == ("optimizer_state", Verdict.FAIL)
    assert (grad.limit.key, grad.verdict, grad.headroom) == ("grad", Verdict.PASS, 0)
    assert state.why == ("since base.json optimizer_state grew by 1.00 MiB (+0.5%)",)


def test_no_baseline_is_never_a_pass(budgets: WriteBudgets, record: MakeRecord) -> None:
    file = budgets('max_increase = "1%"')
    with pytest.raises(NothingToDoError, match="'b': max_increase counts from the baseline, which is not there"):
        check_records(file.budgets, [record()])
    with pytest.raises(NothingToDoError, match="base.json has no record of this scenario"):
        check_records(file.budgets, [record()], baseline(record(record_id="other")))
    with pytest.raises(NothingToDoError, match="base.json has no record of this scenario"):
        check_records(file.budgets, [record()], baseline(record(status="oom")))
    with pytest.raises(NothingToDoError, match="no record measured on cuda; accept it with .* --device cuda --update"):
        check_records(file.budgets, [record(device="cuda")], baseline(record(record_id="traced")))
    of_reserved = budgets('max_increase = { reserved = "1%" }')
    with pytest.raises(NothingToDoError, match="base.json has no reserved for this scenario"):
        check_records(of_reserved.budgets, [record(device="cuda", reserved=5)], baseline(record(device="cuda")))
    with pytest.raises(NothingToDoError, match="base.json has no examples_per_second"):
        check_records(
            budgets("min_examples_per_second_ratio = 0.9").budgets,
            [record(device="cuda", speed=(9, 10, 11))],
            baseline(record(device="cuda")),
        )


def test_an_absolute_limit_needs_no_baseline(budgets: WriteBudgets, record: MakeRecord) -> None:
    assert one(check_records(budgets('peak = "1 GiB"').budgets, [record()])).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "speed, gated, ungated",
    [
        ((10.0, 12.0, 14.0), Verdict.PASS, Verdict.PASS),  # the limit of 10 is met at its end
        ((9.9, 12.0, 14.0), Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE),
        ((7.0, 8.0, 10.0), Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE),
        ((7.0, 8.0, 9.9), Verdict.FAIL, Verdict.WARN),
    ],
)
def test_speed_fails_only_where_asked_and_clear(
    budgets: WriteBudgets, record: MakeRecord, speed: tuple[float, float, float], gated: Verdict, ungated: Verdict
) -> None:
    seen = record(device="cpu", speed=speed)
    text = "min_examples_per_second = 10"
    assert one(check_records(budgets(text).budgets, [seen])).verdict is ungated
    check = one(check_records(budgets(text + "\ngate_throughput = true").budgets, [seen]))
    assert check.verdict is gated and check.headroom == speed[1] - 10


@pytest.mark.parametrize(
    "speed, verdict",
    [((11.0, 12, 13), Verdict.PASS), ((10.9, 12, 13), Verdict.INCONCLUSIVE), ((8.0, 8.5, 8.9), Verdict.FAIL),
     ((8.0, 8.5, 9.0), Verdict.INCONCLUSIVE)],
)  # fmt: skip
def test_a_ratio_holds_both_intervals_apart(
    budgets: WriteBudgets, record: MakeRecord, speed: tuple[float, float, float], verdict: Verdict
) -> None:
    """0.5 of a baseline of 18 to 22 is 9 to 11."""
    file = budgets("min_examples_per_second_ratio = 0.5\ngate_throughput = true")
    old = baseline(record(device="cpu", speed=(18, 20, 22)))
    assert one(check_records(file.budgets, [record(device="cpu", speed=speed)], old)).verdict is verdict


@pytest.mark.parametrize(
    "speed, verdict", [((40.0, 41, 42), Verdict.INCONCLUSIVE), ((1.0, 1.1, 1.2), Verdict.INCONCLUSIVE)]
)
@pytest.mark.parametrize("fact", ["gpu", "threads", "platform"])
def test_another_machines_speed_gives_no_verdict(
    budgets: WriteBudgets, record: MakeRecord, fact: str, speed: tuple[float, float, float], verdict: Verdict
) -> None:
    file = budgets("min_examples_per_second_ratio = 0.9\ngate_throughput = true")
    old, seen = baseline(record(device="cuda", speed=(18, 20, 22)), **{fact: "old"}), record(device="cuda", speed=speed)
    check = one(check_records(file.budgets, [seen], old, {fact: "new"}))
    assert check.verdict is verdict and check.why == (f"the baseline is of {fact} old, this is {fact} new",)
    assert one(check_records(file.budgets, [seen], old, {fact: "old"})).verdict is not Verdict.INCONCLUSIVE


@pytest.mark.parametrize("now", [4, 6])
def test_what_another_machine_reserves_gives_no_verdict(budgets: WriteBudgets, record: MakeRecord, now: int) -> None:
    file = budgets('max_increase = { reserved = "0%", peak = "0%" }')
    old = baseline(record(device="cuda", reserved=5), gpu="Tesla T4")
    found = check_records(file.budgets, [record(device="cuda", reserved=now)], old, {"gpu": "NVIDIA H200"})
    assert [check.verdict for check in found] == [Verdict.INCONCLUSIVE, Verdict.PASS]


def test_a_disturbed_run_proves_no_speed(budgets: WriteBudgets, record: MakeRecord) -> None:
    seen = dataclasses.replace(record(device="cpu", speed=(1, 2, 3)), flags=("throttled",))
    check = one(check_records(budgets("min_examples_per_second = 10\ngate_throughput = true").budgets, [seen]))
    assert check.verdict is Verdict.INCONCLUSIVE and check.why == ("the run is flagged throttled",)


def test_what_is_inconclusive_says_whose_interval_it_is(budgets: WriteBudgets, record: MakeRecord) -> None:
    """288 (268 to 302) holds 259, the limit, with room; the baseline's own interval is what has none."""
    seen = record(device="cpu", speed=(268, 288, 302))
    check = one(check_records(budgets("min_examples_per_second_ratio = 0.9").budgets, [seen], baseline(seen)))
    assert check.verdict is Verdict.INCONCLUSIVE and check.why[0] == (
        "the interval of 268 to 302 examples per second is not clear of the limit, the interval of 241 to 272"
    )


def changed(record: MakeRecord, **sizes: int) -> tuple[Baseline, Record]:
    old, new = record(record_id="old"), record((100, 100, 300, 50, 50), record_id="new")
    old.scenario["batch_size"], new.scenario["batch_size"] = 2, 3
    return dataclasses.replace(baseline(old), budgets={"b": ["old"]}), new


def test_a_changed_scenario_is_held_against_the_budgets_former_one(budgets: WriteBudgets, record: MakeRecord) -> None:
    old, new = changed(record)
    check = one(check_records(budgets('max_increase = "1%"').budgets, [new], old))
    assert (check.verdict, check.bound, check.actual) == (Verdict.CHANGED, 505 * MIB, 600 * MIB)
    assert check.why[:2] == (
        "base.json has another scenario for this budget: batch_size (2 before, 3 after)",
        "since base.json peak grew by 100.00 MiB (+20.0%): optimizer_state +100.00 MiB (1.00 x param)",
    )
    lighter = one(check_records(budgets('max_increase = { grad = "1%" }').budgets, [new], old))
    assert lighter.verdict is Verdict.CHANGED and lighter.why[1:] == (
        "grad did not grow: there it was 100.00 MiB",
    )  # fmt: skip


def test_a_trace_has_no_speed(budgets: WriteBudgets, record: MakeRecord) -> None:
    checks = check_records(
        budgets("min_examples_per_second = 1\nmin_examples_per_second_ratio = 1").budgets, [record()]
    )
    assert [check.verdict for check in checks] == [Verdict.NOT_MEASURED] * 2


def test_a_broken_cell_breaks_all_its_limits(budgets: WriteBudgets, record: MakeRecord) -> None:
    file = budgets('peak = "1 GiB"\nmax_increase = "1%"')
    checks = check_records(file.budgets, [record(device="cuda", status="oom", reason="tried\n8 GiB")])
    assert [check.verdict for check in checks] == [Verdict.BROKEN] * 2
    assert checks[0].why == ("oom: tried 8 GiB",) and checks[0].headroom is None


def test_every_budget_has_its_record(budgets: WriteBudgets, record: MakeRecord) -> None:
    with pytest.raises(ValueError):
        check_records(budgets('peak = "1 GiB"').budgets, [record(), record()])
