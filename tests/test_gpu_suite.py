"""The script for a GPU, without one: every command it would run is understood, and what it leaves keeps to its limits.

The oracles are the command line's own parser, the plan of a comparison and the catalogue.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from memprof.api import plan
from memprof.catalogue import CORE, METHODS
from memprof.cli.compare import swept
from memprof.cli.main import app
from memprof.report.captions import ENOUGH_ROUNDS
from memprof.scenario import Scenario

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "gpu_suite.sh"
PLANNED = ("rank", "batch_size", "seq_len")
FIELDS = ("accumulation", "dtype", "vocab_size", "num_layers", "checkpointing", "loss_chunks", "clip_grad_norm", "seed")
MOST_FILES, MOST_BYTES = 8, 16_000_000
DEVICES = ("cuda", "cpu")
PARSER: Any = typer.main.get_command(app)


def suite(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=60)


@cache
def dry_run(device: str) -> dict[str, list[list[str]]]:
    """Part to its commands, each as words without the Python in front."""
    done = suite("no such folder", "--dry-run", "--device", device)
    assert (done.returncode, done.stderr) == (0, "") and not Path("no such folder").exists()
    found: dict[str, list[list[str]]] = {}
    for line in done.stdout.splitlines():
        part, command = line.split("\t")
        python, *words = shlex.split(command)
        assert python == sys.executable
        found.setdefault(part, []).append(words)
    return found


def listed() -> list[str]:
    return [line.split()[0] for line in suite("--list").stdout.splitlines()]


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """A command of memprof's and its options, as its own parser takes them; one that it does not know is an error."""
    assert words[:2] == ["-m", "memprof"]
    return words[2], PARSER.commands[words[2]].make_context(words[2], words[3:]).params


def comparisons(commands: list[list[str]]) -> Iterator[dict[str, Any]]:
    for words in commands:
        if words[:3] == ["-m", "memprof", "compare"]:
            yield parsed(words)[1]


@cache
def cells(device: str) -> dict[str, list[Scenario]]:
    """Part to every scenario that it measures; a method or a setting that is not there is an error."""
    found: dict[str, list[Scenario]] = {}
    for part, commands in dry_run(device).items():
        found[part] = []
        for options in comparisons(commands):
            lists = {name: swept(name, options[name] or []) or None for name in PLANNED}
            fields = lists | {name: options[name] for name in FIELDS}
            found[part] += plan(options["model"], options["method"], **fields)
    return found


@pytest.mark.parametrize("device", DEVICES)
def test_every_command_is_understood(device: str) -> None:
    for words in (words for part in dry_run(device).values() for words in part):
        if words[:2] == ["-m", "memprof"]:
            name, options = parsed(words)
            assert name in ("compare", "doctor", "explain") and options
        elif words[:2] == ["-m", "pytest"]:
            files = [word for word in words if word.endswith(".py")]
            assert files and all((ROOT / file).is_file() for file in files)
        else:
            assert (ROOT / words[0]).is_file()


@pytest.mark.parametrize("device", DEVICES)
def test_every_part_is_listed_and_stands_in_the_readme(device: str) -> None:
    section = (ROOT / "README.md").read_text().partition("## On a GPU")[2].partition("\n## ")[0]
    rows = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)))
    assert list(dry_run(device)) == listed() == rows


@pytest.mark.parametrize("device", DEVICES)
def test_a_part_measures_no_cell_twice_and_can_be_continued(device: str) -> None:
    for part, commands in dry_run(device).items():
        ids = [scenario.id for scenario in cells(device)[part]]
        assert len(set(ids)) == len(ids), part
        folders = [options["output"] for options in comparisons(commands)]
        assert len(set(folders)) == len(folders), "two commands in one folder: the second is refused"
        assert all(options["resume"] and options["measure"] for options in comparisons(commands))


def test_every_method_is_measured_at_every_size_but_the_largest() -> None:
    measured: dict[str, list[str]] = {}
    for part, scenarios in cells("cuda").items():
        if part.startswith("memory-"):
            measured.setdefault(part.split("-")[1], []).extend(scenario.method.name for scenario in scenarios)
    assert {size: sorted(names) for size, names in measured.items()} == {
        "60m": sorted(METHODS), "350m": sorted(METHODS), "1b": sorted(METHODS), "7b": sorted(CORE),
    }  # fmt: skip


def test_every_speed_is_raced_beside_adamw_in_rounds_enough_for_an_interval() -> None:
    for part, commands in dry_run("cuda").items():
        for options in comparisons(commands):
            assert options["rounds"] == 0 or options["rounds"] >= ENOUGH_ROUNDS, part
            assert options["rounds"] == 0 or (part.startswith("speed-") and options["method"][0] == "adamw")


def test_a_rehearsal_is_small() -> None:
    sizes = {(each.model, each.shape.num_hidden_layers) for scenarios in cells("cpu").values() for each in scenarios}
    assert sizes == {("9m", 1)}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([], "OUTDIR is missing"), (["out", "lunch"], "unknown part lunch"), (["out", "--device", "tpu"], "device tpu"),
     (["out", "--device"], "needs a value"), (["out", "--most", "0"], "--most 0"), (["out", "--frob"], "--frob")],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_leaves_nothing(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = suite(*(tmp_path / word if word == "out" else word for word in arguments))
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_is_too_large_or_too_much_is_left_out_by_name(tmp_path: Path) -> None:
    """The log is a file of the eight, and lies there already."""
    work, out = tmp_path / "a work", tmp_path / "an out"
    work.mkdir()
    for number in range(9):
        (work / f"{number}.csv").write_text("x")
    for name, size in (("large.gz", MOST_BYTES + 1), ("0.csv", MOST_BYTES)):
        with (work / name).open("w") as file:
            file.truncate(size)
    done = suite("--select", work, out)
    assert done.returncode == 0
    kept = sorted(file.name for file in out.iterdir())
    assert kept == [f"{number}.csv" for number in range(MOST_FILES - 1)]
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
        "left out: 7.csv", "left out: 8.csv", "left out: large.gz",
    ]  # fmt: skip
    assert f"{MOST_BYTES + 1} bytes" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_at_once(tmp_path: Path) -> None:
    refused = suite(tmp_path / "out", "gpu")
    assert refused.returncode == 4 and not (tmp_path / "out").exists()
    assert (
        refused.stderr == "gpu_suite.sh: torch sees no CUDA device here; --device cpu rehearses the parts without one\n"
    )
