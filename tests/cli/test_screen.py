"""Where output goes: data to stdout, progress to stderr, escape codes only where somebody watches."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from memprof.api import compare, plan
from memprof.cli.screen import Progress, note, print_table
from memprof.record import Record
from memprof.report.table import render
from memprof.runner import unfinished

Main = Callable[..., Any]
TINY: dict[str, Any] = {"num_layers": 1, "vocab_size": 64, "batch_size": 1, "seq_len": 8}
QUICK = ["compare", "--model", "9m", "--num-layers", "1", "--vocab-size", "64", "--batch", "1", "--seq", "8"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(compare(["9m"], ["adamw", "lora"], **TINY))


def test_a_pipe_gets_the_whole_table_without_escape_codes(
    records: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    print_table(render(records, unit="KiB"))
    out = capsys.readouterr().out
    assert "\x1b" not in out and "No room" not in out
    assert "adamw" in out and "lora" in out and "Paper" in out


def test_a_note_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("kept in x")
    assert capsys.readouterr() == ("", "memprof: kept in x\n")


def progress(cells: Sequence[Record], live: bool = False) -> Progress:
    return Progress(cells, live=live, by=None, unit="GiB", fits=None)


def test_a_log_gets_a_line_for_each_cell(records: list[Record], capsys: pytest.CaptureFixture[str]) -> None:
    done: list[Record] = []
    failed = replace(records[1], status="oom", reason="of memory\nthere was none")
    progress(records, live=True).watch([records[0], failed], done)
    assert done == [records[0], failed]
    assert capsys.readouterr() == (
        "",
        "memprof: 1 of 2 done: adamw\nmemprof: 2 of 2 done: lora, oom: of memory there was none\n",
    )


def test_a_line_names_what_tells_its_cell_from_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [unfinished(s, "interrupted", "") for s in plan(["9m", "20m"], ["adamw"], **TINY | {"batch_size": [1, 2]})]
    progress(cells).watch([replace(cell, status="ok") for cell in cells[2:]], cells[:2])
    assert capsys.readouterr().err == (
        "memprof: 3 of 4 done: 20m adamw batch_size=1\nmemprof: 4 of 4 done: 20m adamw batch_size=2\n"
    )


def test_a_log_that_is_gone_ends_no_run(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    done: list[Record] = []
    progress(records).watch(records, done)
    assert done == records


def test_a_live_table_names_rows_as_they_will_be_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch is told from the second before the second is there."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    records = list(compare(["9m"], ["adamw"], **TINY | {"batch_size": [1, 2]}))
    shown: list[str] = []

    def coming() -> Iterator[Record]:
        yield records[0]
        shown.append(screen.getvalue())
        yield records[1]

    progress(records, live=True).watch(coming(), [])
    assert "adamw batch_size=1" in shown[0] and "adamw batch_size=2" in shown[0]
    assert "Running adamw batch_size=2, 2 of 2." in shown[0]


def test_a_race_is_told_as_it_begins(
    records: list[Record], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a log a line; on a terminal that the table is drawn on, below it."""

    def raced(shown: Progress) -> Iterator[Record]:
        shown.racing(2, 6)
        yield from records

    plain = progress(records)
    plain.watch(raced(plain), [])
    assert capsys.readouterr().err.splitlines()[0] == "memprof: timing 2 methods in 6 rounds"
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    live = progress(records, live=True)
    live.watch(raced(live), [])
    assert "Timing 2 methods in 6 rounds." in screen.getvalue() and capsys.readouterr().err == ""


def test_a_terminal_on_stderr_gets_one_line_that_is_wiped(
    records: list[Record], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress(records).watch(records, [])
    shown = terminal.getvalue()
    assert "\n" not in shown and shown.endswith("\r\x1b[K")
    assert "1 of 2 done" in shown and "2 of 2 done" in shown
    assert capsys.readouterr().out == ""


def test_what_finished_stays_when_an_interrupt_comes(records: list[Record]) -> None:
    def interrupted() -> Iterator[Record]:
        yield records[0]
        raise KeyboardInterrupt

    done: list[Record] = []
    with pytest.raises(KeyboardInterrupt):
        progress(records).watch(interrupted(), done)
    assert done == records[:1]


@pytest.mark.parametrize("quiet", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_piped_output_has_no_escape_codes(memprof_process: Main, quiet: dict[str, str]) -> None:
    outcome = memprof_process(*QUICK, "--method", "adamw", **quiet)
    assert outcome.code == 0 and "\x1b" not in outcome.out + outcome.err


def test_no_color_means_no_colour_on_a_terminal_too(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = [number for number in (*range(30, 38), *range(90, 98))]

    def shown() -> str:
        screen = Terminal()
        monkeypatch.setattr(sys, "stdout", screen)
        print_table(render(records, fits=1))
        return screen.getvalue()

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert any(f"\x1b[{number}m" in shown() for number in coloured), "yellow for what does not fit"
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any(f"{number}m" in shown() for number in coloured)
