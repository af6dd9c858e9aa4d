"""Two stored runs compared: every verdict by hand, and what joins with what."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.diff import Tolerance, diff
from memprof.diff.judge import judge_speed
from memprof.difference import BYTES, SPEED, STATUS, Difference, Run
from memprof.errors import MemprofError, NothingToDoError
from memprof.record import Interval, Record
from tests.two_runs import SETTINGS, SIZES, SPEED_OF, record, scenario

MIRROR = {"improved": "worse", "worse": "improved", "new": "missing", "missing": "new"}


def run(*records: Record, name: str = "run", **environment: Any) -> Run:
    return Run(name=name, environment=environment, records=records)


def verdicts(difference: Difference) -> dict[str, str]:
    return {figure.key: figure.verdict for _, figure in difference.figures()}


def judged(before: Record, after: Record, tolerance: str = "0", by: str | None = None) -> dict[str, str]:
    return verdicts(diff(run(before), run(after), by=by, tolerance=Tolerance.parse(tolerance)))


@pytest.mark.parametrize("key", [key for key in BYTES if key != "refresh_peak"])
def test_one_byte_decides(key: str) -> None:
    same = dict.fromkeys(SIZES, "same")
    grown: dict[str, Any] = {key: SIZES[key] + 1}
    more = record(**grown)
    assert judged(record(), record()) == same
    assert judged(record(), more) == same | {key: "worse"}
    assert judged(more, record()) == same | {key: "improved"}


def test_a_figure_that_only_one_run_has_is_new_or_missing() -> None:
    assert judged(record(), record(refresh_peak=500))["refresh_peak"] == "new"
    assert judged(record(refresh_peak=500), record())["refresh_peak"] == "missing"
    assert judged(record(refresh_peak=500), record(refresh_peak=499))["refresh_peak"] == "improved"


@pytest.mark.parametrize(
    ("tolerance", "after", "verdict"),
    [("1%", 101, "same"), ("1%", 102, "worse"), ("0.5%", 101, "worse"), ("1%", 99, "worse"), ("2 B", 102, "same"),
     ("2 B", 103, "worse"), ("2B", 98, "same"), ("0", 101, "worse"), ("0%", 101, "worse")],
)  # fmt: skip
def test_tolerance_by_hand(tolerance: str, after: int, verdict: str) -> None:
    """A share counts from the smaller value, so 100 -> 99 is more than 1 % as 99 -> 100 is."""
    expected = "improved" if verdict == "worse" and after < 100 else verdict
    assert judged(record(), record(param=after), tolerance)["param"] == expected


def test_tolerances_are_exact() -> None:
    assert Tolerance.parse("0.1%").share == Fraction(1, 1000)
    assert Tolerance.parse(" 64 MiB ") == Tolerance(nbytes=2**26, text="64 MiB")
    huge = 10**18
    assert Tolerance.parse("0.1%").allows(huge, huge + huge // 1000)
    assert not Tolerance.parse("0.1%").allows(huge, huge + huge // 1000 + 1)


@pytest.mark.parametrize(
    "text", ["", "1", "0.5", "-1%", "1e3%", "64 mib", "\u0662%", "%", "nan%", "1%%", "9" * 500 + "B"]
)
def test_a_bare_or_odd_tolerance_is_refused(text: str) -> None:
    with pytest.raises(MemprofError, match="0.5% or 64MiB"):
        Tolerance.parse(text)


def interval(low: float, high: float) -> Interval:
    return Interval(median=(low + high) / 2, low=low, high=high)


@pytest.mark.parametrize(
    ("before", "after", "tolerance", "verdict"),
    [
        ((9, 11), (12, 13), "0", "improved"),
        ((12, 13), (9, 11), "0", "worse"),
        ((9, 11), (10, 12), "0", "inconclusive"),
        ((10, 12), (9, 11), "0", "inconclusive"),
        ((9, 11), (11, 12), "0", "inconclusive"),
        ((9, 11), (9, 11), "0", "same"),
        ((100, 101), (102, 103), "5%", "same"),
        ((100, 101), (104, 107), "5%", "inconclusive"),
        ((100, 101), (107, 108), "5%", "improved"),
        ((100, 101), (102, 103), "1 GiB", "improved"),
    ],
)
def test_speed_is_judged_by_interval(
    before: tuple[float, float], after: tuple[float, float], tolerance: str, verdict: str
) -> None:
    limit = Tolerance.parse(tolerance)
    assert judge_speed(interval(*before), interval(*after), limit) == verdict


def test_a_disturbed_speed_proves_nothing() -> None:
    fast = Interval(median=30.0, low=29.0, high=31.0)
    assert judged(record(speed=SPEED_OF), record(speed=fast))[SPEED] == "improved"
    assert judged(record(speed=SPEED_OF, flags=("throttled",)), record(speed=fast))[SPEED] == "inconclusive"
    assert judged(record(speed=SPEED_OF), record(speed=fast, flags=("host-bound",)))[SPEED] == "improved"


FAST = Interval(median=30.0, low=29.0, high=31.0)


@pytest.mark.parametrize("fact", ["gpu", "threads", "platform"])
def test_another_machines_speed_proves_nothing(fact: str) -> None:
    one, other = (run(record(speed=speed), **{fact: str(speed.low)}) for speed in (SPEED_OF, FAST))
    (found,) = [figure for _, figure in diff(one, other).figures() if figure.key == SPEED]
    assert (found.verdict, found.note) == ("inconclusive", f"{fact} 9.0 before, 29.0 after")
    assert verdicts(diff(one, run(record(speed=FAST), **{fact: "9.0"})))[SPEED] == "improved"
    assert verdicts(diff(one, run(record(speed=FAST))))[SPEED] == "improved"  # it does not say


@pytest.mark.parametrize(("steps", "verdict"), [(5, "inconclusive"), (6, "improved"), (None, "improved")])
def test_an_interval_of_few_steps_proves_nothing(steps: int | None, verdict: str) -> None:
    one, other = run(record(speed=SPEED_OF)), dataclasses.replace(run(record(speed=FAST)), steps=steps)
    assert verdicts(diff(one, other))[SPEED] == verdict
    assert verdicts(diff(other, other))[SPEED] == "same"


@pytest.mark.parametrize(("rounds", "verdict"), [(5, "inconclusive"), (6, "improved")])
def test_rounds_count_where_there_were_any(rounds: int, verdict: str) -> None:
    """A race's interval is over its rounds, however many steps these had."""
    one = run(record(speed=SPEED_OF))
    other = dataclasses.replace(run(record(speed=FAST)), steps=100, rounds=rounds)
    (found,) = [figure for _, figure in diff(one, other).figures() if figure.key == SPEED]
    assert found.verdict == verdict
    assert found.note == ("5 rounds are too few for an interval" if rounds == 5 else found.note)


def test_speed_can_be_left_out() -> None:
    one, other = run(record(speed=SPEED_OF, status="oom")), run(record(speed=FAST, peak=461))
    found = verdicts(diff(one, other, speed=False))
    assert SPEED not in found and (found["peak"], found[STATUS]) == ("worse", "improved")


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [("ok", "oom", "worse"), ("ok", "crashed", "worse"), ("timeout", "ok", "improved"), ("oom", "oom", "same"),
     ("oom", "timeout", "inconclusive"), ("ok", "skipped", "inconclusive"), ("interrupted", "ok", "inconclusive")],
)  # fmt: skip
def test_how_a_cell_ended_is_a_figure(before: str, after: str, verdict: str) -> None:
    found = judged(record(status=before), record(status=after))
    assert found[STATUS] == verdict and found["peak"] == "same"
    assert STATUS not in judged(record(), record())


def test_the_strongest_witness_that_both_have_speaks() -> None:
    measured = record(speed=SPEED_OF)
    assert diff(run(measured), run(measured)).pairs[0].witness == "measured"
    found = diff(run(measured), run(record()))
    assert found.pairs[0].witness == "trace" and SPEED not in verdicts(found)
    assert diff(run(measured), run(measured), by="trace").pairs[0].witness == "trace"
    with pytest.raises(NothingToDoError, match="measured on one device"):
        diff(run(measured), run(record()), by="measured")
    with pytest.raises(MemprofError, match="unknown witness"):
        diff(run(measured), run(measured), by="guess")


def test_what_was_measured_elsewhere_is_compared_by_trace() -> None:
    cpu = record("a", speed=SPEED_OF, in_scenario=scenario(device="cpu"))
    gpu = record("b", speed=SPEED_OF, in_scenario=scenario(device="cuda"))
    pair = diff(run(cpu), run(gpu)).pairs[0]
    assert (pair.witness, pair.joined_on) == ("trace", "scenario")


def test_scenarios_that_only_one_run_has_are_one_figure_each() -> None:
    shared, lost, found = record("a"), record("b"), record("c", in_scenario=scenario("lora"), peak=7)
    failed = record("d", in_scenario=scenario("dora"), traced=False, status="crashed")
    lost = dataclasses.replace(lost, scenario=scenario("galore"))
    pairs = diff(run(lost, shared), run(found, shared, failed)).pairs
    told = [(pair.record.id, [(f.key, f.before, f.after, f.verdict) for f in pair.figures][:1]) for pair in pairs]
    assert told == [
        ("b", [("peak", 460, None, "missing")]),
        ("a", [("param", 100, 100, "same")]),
        ("c", [("peak", None, 7, "new")]),
        ("d", [("status", None, "crashed", "new")]),
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (scenario(), scenario(device="cuda")),
        (scenario(), scenario(checkpointing=False, loss_chunks=1, clip_grad_norm=None, counting="memprof")),
        (
            scenario("galore", hyperparameters={"rank": 8}),
            scenario("galore", hyperparameters={"rank": 8, "scale": 0.25}),
        ),
    ],
)
def test_ids_may_differ_by_device_and_by_fields_left_to_defaults(one: dict[str, Any], other: dict[str, Any]) -> None:
    pair = diff(run(record("a", in_scenario=one)), run(record("b", in_scenario=other))).pairs[0]
    assert pair.joined_on == "scenario" and pair.before and pair.after


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (scenario(batch_size=16), r"the nearest two, of adamw, differ in batch_size \(8 before, 16 after\)$"),
        (scenario(hyperparameters={"lr": 0.1}), r"differ in lr \(0.001 before, 0.1 after\)$"),
        (scenario(checkpointing=True), r"differ in checkpointing \(not said before, true after\)$"),
        (scenario(model="2b", seed=7, shape={"d": 1}), r"model \(1b before, 2b after\), seed \(0 before, 7 after\)$"),
        (scenario(shape={"hidden_size": 8}), r"differ in hidden_size \(not said before, 8 after\)$"),
        (scenario() | dict.fromkeys("abcdef", 1), r", d \(not said before, 1 after\) and 2 more$"),
        (scenario(note="x\n\x1b[31m" * 99), r"differ in note \(not said before, x \[31mx \[31m.*\.\.\. after\)$"),
        (scenario("lora"), "the methods differ: adamw before, lora after$"),
    ],
)
def test_nothing_in_common_says_what_differs(other: dict[str, Any], named: str) -> None:
    with pytest.raises(NothingToDoError, match=named):
        diff(run(record("a")), run(record("b", in_scenario=other)))


def test_a_scenario_without_a_partner_says_in_what_the_nearest_differs() -> None:
    """Each partner is named once, and what has a partner already is nobody's nearest."""
    ranks = {rank: scenario("galore", hyperparameters={"rank": rank}) for rank in (8, 16, 32)}
    before = run(record("a"), record("b", in_scenario=ranks[8]), record("c", in_scenario=scenario("lora")))
    after = run(record("a"), record("d", in_scenario=ranks[16]), record("e", in_scenario=ranks[32]))
    notes = {pair.record.id: figure.note for pair, figure in diff(before, after).figures() if figure.note}
    assert notes == {"b": "the nearest scenario of the other run differs in rank (8 before, 16 after)"}


def test_what_could_join_in_two_ways_joins_in_none() -> None:
    ones = [record(ident, in_scenario=scenario(device=ident)) for ident in ("x", "y")]
    with pytest.raises(NothingToDoError):
        diff(run(*ones), run(record("z", in_scenario=scenario(device="z"))))


def test_a_changed_peak_says_what_changed_at_that_instant() -> None:
    after = record(extra=74, peak=524, peak_phase="optimizer", extra_largest="aten::add (64 B)")
    figures = {figure.key: figure for _, figure in diff(run(record()), run(after)).figures()}
    assert dict(figures["peak"].parts) == {"extra": 64} and figures["peak"].change == 64
    assert figures["peak"].note == "now in optimizer, before in backward"
    assert figures["extra"].note == "largest now aten::add (64 B)"


def test_environments_are_compared() -> None:
    found = diff(run(record(), torch="2.11", python="3.11"), run(record(), torch="2.12", python="3.11", gpu="H200"))
    assert found.environment_changes() == {"torch": ("2.11", "2.12"), "gpu": (None, "H200")}


sizes = st.integers(0, 4)
speeds = st.lists(st.integers(1, 6), min_size=3, max_size=3).map(sorted)


@st.composite
def records(draw: st.DrawFn, method: str) -> Record:
    figures: dict[str, Any] = {key: draw(sizes) for key in SIZES}
    ends = draw(st.none() | speeds)
    device = draw(st.sampled_from([None, "cpu", "cuda"])) if ends else None
    return record(
        ident=f"{method} {device if draw(st.booleans()) else ''}",
        speed=Interval(low=ends[0], median=ends[1], high=ends[2]) if ends else None,
        status=draw(st.sampled_from(["ok", "oom", "timeout", "skipped"])),
        flags=draw(st.sampled_from([(), ("contaminated",)])),
        in_scenario=scenario(method, device=device),
        **figures,
        refresh_peak=draw(st.none() | sizes),
    )


def runs() -> st.SearchStrategy[Run]:
    methods = st.lists(st.sampled_from(["adamw", "lora", "mine"]), min_size=1, max_size=3, unique=True)
    return methods.flatmap(lambda names: st.tuples(*map(records, names))).map(lambda each: run(*each))


def told(difference: Difference, mirrored: bool = False) -> set[tuple[Any, ...]]:
    """Each figure with its verdict; mirrored, as the same comparison the other way round should say it."""
    found = set()
    for pair, figure in difference.figures():
        ids = (pair.before.id if pair.before else None, pair.after.id if pair.after else None)
        verdict = MIRROR.get(figure.verdict, figure.verdict) if mirrored else figure.verdict
        found.add((ids[::-1] if mirrored else ids, pair.witness, figure.key, verdict))
    return found


@SETTINGS
@given(runs(), runs(), st.sampled_from(["0", "1 B", "30%", "100%"]), st.sampled_from([None, "trace", "measured"]))
def test_exchanging_the_runs_exchanges_the_verdicts(one: Run, other: Run, tolerance: str, by: str | None) -> None:
    limit = Tolerance.parse(tolerance)
    try:
        forth = diff(one, other, by=by, tolerance=limit)
    except NothingToDoError:
        with pytest.raises(NothingToDoError):
            diff(other, one, by=by, tolerance=limit)
        return
    assert told(forth) == told(diff(other, one, by=by, tolerance=limit), mirrored=True)


@SETTINGS
@given(runs())
def test_a_run_is_the_same_as_itself(one: Run) -> None:
    assert {figure.verdict for _, figure in diff(one, one).figures()} == {"same"}
