"""History files: what is written is read back, and nothing else is let in."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.allocator import AllocatorSettings, replay
from memprof.api import plan
from memprof.device import Allocation, CpuDevice, Recording
from memprof.device.allocator_history import history_events
from memprof.errors import MemprofError
from memprof.measure import history_file
from memprof.measure.history_file import HistoryFile, history_path, read_history, write_history
from memprof.measure.memory import measure_memory
from tests.device.histories import END, HISTORY, MARKS

SETTINGS = {"PYTORCH_CUDA_ALLOC_CONF": "", "max_split_size": -1, "roundup_power2_divisions": {"1": 0}}
PHASES = ("forward", "backward", "optimizer", "end")


def kept(path: Path) -> HistoryFile:
    write_history(path, "12ab", "cuda", Recording(history_events(HISTORY, MARKS, END), settings=SETTINGS), PHASES)
    return read_history(path)


def test_a_history_comes_back_as_it_went(tmp_path: Path) -> None:
    found = kept(tmp_path / "new" / "folder" / "it.json.gz")
    assert (found.id, found.device, found.phases) == ("12ab", "cuda", PHASES)
    assert (found.recording.events, found.recording.settings) == (history_events(HISTORY, MARKS, END), SETTINGS)
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["it.json.gz"], (
        "nothing unfinished is left"
    )


def test_the_same_history_is_the_same_bytes(tmp_path: Path) -> None:
    kept(tmp_path / "one")
    kept(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_it_is_gzipped_json_of_whole_numbers(tmp_path: Path) -> None:
    kept(tmp_path / "it")
    data = json.loads(gzip.decompress((tmp_path / "it").read_bytes()))
    assert data["memprof_history"] == 1
    assert data["nbytes"] == [1000, 2000, 500, -4096, 300, 40, -40, 1000, 60, -300, -60, 700, -700, -1000]
    assert data["marks"] == [4, 7, 11, 14]
    assert data["makers"] == ["", "methods/galore.py:120"] and data["maker"].index(1) == 11


event = st.builds(
    Allocation, st.integers(0, 2**48), st.integers(-(2**40), 2**40), st.sampled_from(["", "a"]), st.integers(0, 3)
)


@given(st.lists(st.one_of(event, st.none()), max_size=20))
def test_any_history_comes_back(tmp_path_factory: pytest.TempPathFactory, plan: list[Allocation | None]) -> None:
    """None stands for a mark: any number of them, anywhere."""
    marks = iter(range(len(plan)))
    events: list[Allocation | int] = [next(marks) if each is None else each for each in plan]
    path = tmp_path_factory.mktemp("any") / "it"
    write_history(path, "id", "cpu", Recording(events), ["x"] * plan.count(None))
    assert read_history(path).recording.events == events


def broken(path: Path, **changes: Any) -> str:
    """What is said of a history in which these keys are others; None leaves one out."""
    kept(path)
    data = json.loads(gzip.decompress(path.read_bytes())) | changes
    path.write_bytes(gzip.compress(json.dumps({key: each for key, each in data.items() if each is not None}).encode()))
    with pytest.raises(MemprofError) as caught:
        read_history(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"memprof_history": 2}, "version 1"),
        ({"extra": 1}, "keys"),
        ({"stream": None}, "keys"),
        ({"nbytes": [1, 2]}, "one length"),
        ({"nbytes": "many"}, "whole numbers"),
        ({"nbytes": [1.5] * 14}, "whole numbers"),
        ({"nbytes": [True] * 14}, "whole numbers"),
        ({"nbytes": [2**70] * 14}, "whole numbers"),
        ({"address": [-1] * 14}, "whole numbers"),
        ({"maker": [2] * 14}, "maker is not among"),
        ({"maker": [-1] * 14}, "whole numbers"),
        ({"stream": [1] * 14}, "stream is not among"),
        ({"makers": "ab"}, "lists"),
        ({"makers": [1, 2]}, "text"),
        ({"settings": [1]}, "table"),
        ({"settings": {"a": {"b": {"c": {"d": {"e": 1}}}}}}, "nests deeper"),
        ({"marks": [1, 2, 3, 15]}, "marks"),
        ({"marks": [2, 1, 3, 4]}, "marks"),
        ({"marks": [1, 2, 3]}, "marks"),
        ({"id": 7}, "text"),
    ],
)
def test_what_is_not_a_history_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    said = broken(tmp_path / "it", **changes)
    assert why in said and "\n" not in said


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"[1"), gzip.compress(b"x" * 99)[:30], b"\x80\x04."],
    ids=["empty", "plain", "half JSON", "half gzip", "pickle"],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(MemprofError, match="cannot read|not an allocator history"):
        read_history(tmp_path / "it")
    with pytest.raises(MemprofError, match="cannot read"):
        read_history(tmp_path / "absent")


def test_a_file_that_unpacks_without_end_is_not_read_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path / "it")
    monkeypatch.setattr(history_file, "MAX_FILE", 100)
    with pytest.raises(MemprofError, match="larger than 100 bytes"):
        read_history(tmp_path / "it")
    with pytest.raises(MemprofError, match="leave out --histories"):
        kept(tmp_path / "it")


def test_a_folder_that_takes_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MemprofError, match="cannot write"):
        kept(tmp_path / "file" / "it")


def test_a_measurement_keeps_its_history_and_a_replay_gives_what_its_closure_says(
    tmp_path: Path, fake_device: Callable[..., Any]
) -> None:
    (scenario,) = plan(["9m"], ["adamw"], dtype="fp32", kernels="cpu", num_layers=1, vocab_size=64, batch_size=2,
                       seq_len=16)  # fmt: skip
    path = history_path(tmp_path, scenario.id)
    closure = measure_memory(scenario, fake_device(kind="cuda", held=2**32, allocated=2**31), path).closure
    found = read_history(path)
    assert closure is not None and (found.id, found.device) == (scenario.id, "cuda")
    again = replay(found.recording.events, AllocatorSettings.of(found.recording.settings))
    assert again.reserved == closure.replayed_reserved
    assert len(found.recording.events) - len(found.phases) == closure.events


def test_a_processors_events_are_kept_likewise(tmp_path: Path) -> None:
    (scenario,) = plan(["9m"], ["adamw"], dtype="fp32", kernels="cpu", num_layers=1, vocab_size=64, batch_size=2,
                       seq_len=16)  # fmt: skip
    measured = measure_memory(scenario, CpuDevice(), tmp_path / "it")
    found = read_history(tmp_path / "it")
    assert (found.phases, measured.closure) == (PHASES, None)
    assert "aten::mm" in {event.maker for event in found.recording.events if isinstance(event, Allocation)}
