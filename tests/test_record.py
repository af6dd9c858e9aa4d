"""Records through JSON and back; what is not one is refused in one line."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import MemprofError
from memprof.record import Formula, History, Interval, Measured, Record, Trace, document, measured_from_dict

PARTS = {"param": 5, "grad": 4, "optimizer_state": 3, "activation": 2, "extra": 1}
MEMORY: dict[str, Any] = {**PARTS, "peak": 15, "peak_phase": "backward", "peak_by_category": PARTS, "steady": 8}
RECORD = Record(
    id="0123456789ab",
    scenario={"model": "9m", "method": "adamw", "hyperparameters": {"lr": 0.1}},
    flags=("throttled",),
    formula=Formula(**MEMORY, total=20, refresh_peak=16, peak_at="update"),
    trace=Trace(**MEMORY, extra_largest="aten::mm (1 B)", extra_by_maker={"aten::mm": 1}),
    measured=Measured(
        **MEMORY, examples_per_second=Interval(median=2.0, low=1.0, high=3.0), step_seconds={"forward": 0.5}
    ),
)


def test_json_round_trip() -> None:
    for record in (RECORD, replace(RECORD, formula=None, trace=None, measured=None, status="oom", reason="too large")):
        assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def with_timeline(**columns: Any) -> Record:
    """The record with a timeline of two instants, at the peak and between two steps."""
    sizes = {name: (size, size if name in ("param", "optimizer_state") else 0) for name, size in PARTS.items()}
    made: dict[str, Any] = {"events": 7, "event": (0, 7), "phase": ("backward", "optimizer"), **sizes, **columns}
    assert RECORD.trace is not None
    return replace(RECORD, trace=replace(RECORD.trace, timeline=History(**made)))


def test_a_timeline_is_stored_and_kept_out_of_documents() -> None:
    record = with_timeline()
    assert Record.from_dict(json.loads(json.dumps(record.to_dict(timeline=True)))) == record
    assert json.loads(document([record], {})) == json.loads(document([RECORD], {}))
    assert Record.from_dict(record.to_dict()) == RECORD


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"event": (0, 8)}, "must rise"),
        ({"event": (1, 7)}, "must rise"),
        ({"event": (0,)}, "one length"),
        ({"event": (0, 7.5)}, "integers of bytes"),
        ({"phase": ("backward", 3)}, "names of phases"),
        ({"phase": "ab"}, "lists"),
        ({"param": {}}, "lists"),
        ({"events": 2**64}, "events"),
        ({"param": (5, -5)}, "integers of bytes"),
        ({"param": (6, 5)}, "peak 16"),
        ({"grad": (4, 1)}, "ends with 9"),
        ({name: (0,) * 241 for name in ("event", "phase", *PARTS)}, "one length"),
        ({name: () for name in ("event", "phase", *PARTS)}, "one length"),
    ],
)
def test_a_timeline_that_makes_no_sense_is_refused(columns: dict[str, Any], said: str) -> None:
    data = json.loads(json.dumps(with_timeline(**columns).to_dict(timeline=True)))
    with pytest.raises(MemprofError, match=said):
        Record.from_dict(data)


@pytest.mark.parametrize("timeline", [3, [], {}, {"events": 1}])
def test_a_timeline_that_is_none_is_refused(timeline: Any) -> None:
    data = RECORD.to_dict()
    data["trace"]["timeline"] = timeline
    with pytest.raises(MemprofError, match="a timeline must have"):
        Record.from_dict(data)


def test_document_gives_the_same_bytes() -> None:
    one = document([RECORD], {"torch": "2"})
    assert one == document([copy.deepcopy(RECORD)], {"torch": "2"})
    read = json.loads(one)
    assert list(read) == ["schema_version", "environment", "records"]
    assert [Record.from_dict(record) for record in read["records"]] == [RECORD]


def test_a_measurement_round_trip() -> None:
    assert RECORD.measured is not None
    assert measured_from_dict(json.loads(json.dumps(RECORD.to_dict()["measured"]))) == RECORD.measured
    with pytest.raises(MemprofError, match="not a measurement of schema 1"):
        measured_from_dict({"param": 1})


def test_difference_by_hand() -> None:
    assert RECORD.formula is not None
    assert RECORD.difference() == ("param", 0.0)
    apart = replace(RECORD, formula=replace(RECORD.formula, grad=5, activation=1))
    assert apart.difference() == ("activation", -0.5)
    assert apart.difference("trace", "formula") == ("activation", 1.0)
    assert replace(RECORD, trace=None).difference() is None


def test_a_difference_from_nothing_is_infinite_and_stays_out_of_json() -> None:
    assert RECORD.trace is not None
    apart = replace(RECORD, trace=replace(RECORD.trace, grad=0))
    assert apart.difference() == ("grad", math.inf)
    assert "Infinity" not in document([apart], {})


def test_json_has_no_infinity() -> None:
    assert RECORD.measured is not None
    with pytest.raises(ValueError, match="not JSON compliant"):
        document([replace(RECORD, measured=replace(RECORD.measured, loss_last=math.inf))], {})


def test_best_is_the_strongest_witness_that_ran() -> None:
    assert RECORD.best is RECORD.measured
    assert replace(RECORD, measured=None).best is RECORD.trace
    assert replace(RECORD, measured=None, trace=None).best is RECORD.formula
    assert replace(RECORD, measured=None, trace=None, formula=None).best is None


BROKEN: list[tuple[tuple[str, ...], Any]] = [
    (("id",), 7),
    (("status",), "fine"),
    (("status",), []),
    (("scenario",), []),
    (("scenario",), {"model": "9m"}),
    (("scenario", "method"), 3),
    (("flags",), "throttled"),
    (("flags",), [1]),
    (("flags",), None),
    (("reason",), 3),
    (("formula",), 3),
    (("formula", "param"), 1.5),
    (("formula", "param"), True),
    (("formula", "peak"), None),
    (("formula", "peak"), "15"),
    (("formula", "peak_phase"), None),
    (("formula", "unknown"), 1),
    (("formula", "refresh_peak"), "16"),
    (("formula", "refresh_peak"), 1.5),
    (("trace", "peak_by_category"), None),
    (("trace", "peak_by_category"), {}),
    (("trace", "peak_by_category"), {**PARTS, "other": 0}),
    (("trace", "peak_by_category", "extra"), 0.5),
    (("trace", "peak_by_category", "extra"), None),
    (("measured", "examples_per_second"), 3.0),
    (("measured", "examples_per_second"), {"median": 1.0}),
    (("trace", "peak"), 14),
    (("trace", "peak_by_category", "extra"), 2),
]


@pytest.mark.parametrize(("path", "value"), BROKEN, ids=lambda part: str(part))
def test_a_broken_record_is_refused(path: tuple[str, ...], value: Any) -> None:
    data = json.loads(json.dumps(RECORD.to_dict()))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(MemprofError, match="not a memprof record of schema 1") as error:
        Record.from_dict(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["id", "scenario", "status", "reason", "flags", "formula", "trace", "measured"])
def test_a_record_without_a_key_is_refused(key: str) -> None:
    data = RECORD.to_dict()
    del data[key]
    with pytest.raises(MemprofError, match=key):
        Record.from_dict(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths(data: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inside = (
        [path for key, value in data.items() for path in paths(value, (*prefix, key))] if isinstance(data, dict) else []
    )
    return [prefix, *inside] if prefix else inside


@given(st.data())
def test_a_record_with_anything_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    broken = json.loads(json.dumps(RECORD.to_dict()))
    path = data.draw(st.sampled_from(paths(broken)))
    place = broken
    for key in path[:-1]:
        place = place[key]
    if data.draw(st.booleans()):
        place[path[-1]] = data.draw(JSON)
    else:
        del place[path[-1]]
    try:
        record = Record.from_dict(broken)
    except MemprofError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert record.to_dict() == Record.from_dict(record.to_dict()).to_dict()
        assert isinstance(record.method, str) and isinstance(record.model, str)
        record.difference()


@given(JSON)
def test_any_json_but_a_record_is_refused(value: Any) -> None:
    with pytest.raises(MemprofError):
        Record.from_dict(value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("examples_per_second", {"median": "fast", "low": 1.0, "high": 2.0}),
        ("examples_per_second", {"median": float("nan"), "low": 1.0, "high": 2.0}),
        ("examples_per_second", {"median": -5, "low": 10, "high": -20}),
        ("examples_per_second", {"median": 3.0, "low": 1.0, "high": 2.0}),
        ("examples_per_second", {"median": 1.0, "low": 1.5, "high": 2.0}),
        ("examples_per_second", {"median": 1.0, "low": 0, "high": 2.0}),
        ("examples_per_second", {"median": True, "low": True, "high": True}),
        ("examples_per_second", {"median": 1.0, "low": 1.0, "high": 1e16}),
        ("examples_per_second", {"median": 1.0, "low": 1.0, "high": 1.0, "mean": 1.0}),
        ("tokens_per_second", -1.0),
        ("joules_per_example", -1.0),
        ("step_seconds", {"forward": -3}),
        ("peak", 0),
        ("tokens_per_second", float("inf")),
        ("loss_first", float("nan")),
        ("step_seconds", [1.0]),
        ("step_seconds", {"forward": "soon"}),
        ("step_seconds", None),
        ("device", 1.5),
        ("context", "much"),
        ("extra_by_maker", {"aten::mul": 0.5}),
        ("extra_largest", None),
        ("peak", -1),
        ("peak", 2**63),
    ],
)
def test_a_measurement_with_a_figure_of_another_kind_is_refused(key: str, value: object) -> None:
    """It comes out of a child or a file: what is let in here is written, compared and shown."""
    sizes = dict.fromkeys(("param", "grad", "optimizer_state", "activation", "extra"), 1)
    good: dict[str, object] = {**sizes, "peak": 5, "peak_phase": "backward", "peak_by_category": sizes, "steady": 3}
    assert measured_from_dict(good | {"residual": -5, "context": None}).residual == -5
    with pytest.raises(MemprofError, match="not a measurement"):
        measured_from_dict(good | {key: value})


@pytest.mark.parametrize(
    "change",
    [
        {"hyperparameters": "|"},
        {"hyperparameters": [1]},
        {"lr": float("inf")},
        {"seed": 10**400},
        {"x": json.loads("[" * 4 + "]" * 4)},
        {"x": json.loads('{"a":' * 4 + "1" + "}" * 4)},
        {"x": json.loads("[" * 500 + "]" * 500)},
    ],
    ids=["text", "list", "inf", "digits", "lists", "tables", "deep"],
)
def test_a_scenario_that_cannot_be_shown_or_written_is_refused(change: dict[str, object]) -> None:
    scenario = {"model": "1b", "method": "adamw", "hyperparameters": {}}
    good = Record(id="0" * 12, scenario=scenario).to_dict()
    assert Record.from_dict(good | {"scenario": scenario | {"x": [[[1]]]}}).method == "adamw"
    with pytest.raises(MemprofError, match="not a memprof record"):
        Record.from_dict(good | {"scenario": scenario | change})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("formula", {}, "'param' is missing"),
        ("flags", 3, "a value is of another kind"),
        ("status", "fine", "status 'fine'"),
        ("trace", {**MEMORY, "peak": 16}, "peak_by_category sums to 15 and the peak is 16"),
    ],
)
def test_what_is_wrong_is_said_in_words(key: str, value: object, said: str) -> None:
    with pytest.raises(MemprofError) as error:
        Record.from_dict(RECORD.to_dict() | {key: value})
    assert str(error.value) == f"not a memprof record of schema 1: {said}"


@pytest.mark.parametrize("text", ["", "\ud800", "\x1b[31mred", "x\ny", "noon", "ü", "x" * 65, None, 3, ["forward"]])
def test_only_known_phases_and_short_plain_ids_are_let_in(text: Any) -> None:
    """A name that nobody checks again reaches charts, a page and a terminal: no escape code, no lone surrogate."""
    good = json.loads(json.dumps(RECORD.to_dict()))
    for key in ("formula", "trace", "measured"):
        with pytest.raises(MemprofError, match="peak_phase is not what the schema says|another kind"):
            Record.from_dict(good | {key: {**good[key], "peak_phase": text}})
    if text != "noon":
        with pytest.raises(MemprofError, match="the id must be text of 1 to 64 printable ASCII characters"):
            Record.from_dict(good | {"id": text})


@pytest.mark.parametrize("phase", ["forward", "backward", "optimizer", "refresh", "sum"])
def test_every_phase_there_is_is_let_in(phase: str) -> None:
    good = json.loads(json.dumps(RECORD.to_dict()))
    read = Record.from_dict(good | {"formula": {**good["formula"], "peak_phase": phase}})
    assert read.formula is not None and read.formula.peak_phase == phase


@pytest.mark.parametrize("given", ["rank", None, [1], [None], {"a": 1}, [["rank"]]])
def test_what_was_given_is_a_list_of_names(given: Any) -> None:
    good = json.loads(json.dumps(RECORD.to_dict()))
    with pytest.raises(MemprofError, match="given must be a list of text"):
        Record.from_dict(good | {"scenario": {**good["scenario"], "given": given}})


def test_runs_from_before_it_was_stored_stay_readable() -> None:
    good = json.loads(json.dumps(RECORD.to_dict()))
    good["scenario"].pop("given", None)
    assert Record.from_dict(good).scenario == good["scenario"]
