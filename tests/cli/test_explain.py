"""`memprof explain` as a user runs it: the answer, the same as data, errors in one line, no escape codes in a pipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memprof import profile

Main = Callable[..., Any]
README = (Path(__file__).parents[2] / "README.md").read_text()
TINY = ("--model", "9m", "--num-layers", "1", "--vocab-size", "64", "--batch", "2", "--seq", "16")
GIVEN: dict[str, Any] = {"num_layers": 1, "vocab_size": 64, "batch_size": 2, "seq_len": 16}


def test_the_screen_says_what_the_trace_found(memprof_main: Main) -> None:
    outcome = memprof_main("explain", "galore", *TINY, "--unit", "B")
    traced = profile("9m", "galore", **GIVEN).trace
    assert outcome.code == 0 and traced is not None
    assert outcome.out.startswith(f"galore on 9m: peak {traced.refresh_peak} B in a step that refreshes or merges")
    assert f"{traced.peak} B in an ordinary one" in " ".join(outcome.out.split())
    assert "\x1b" not in outcome.out and outcome.err == ""
    for heading in ("From adamw's peak", "What is counted", "One step", "Alive at the peak", "Module by module"):
        assert heading in outcome.out


def test_json_is_the_same_as_data(memprof_main: Main) -> None:
    outcome = memprof_main("explain", "galore:rank=8", *TINY, "--json", "--depth", "3")
    found = json.loads(outcome.out)
    traced = profile("9m", "galore:rank=8", **GIVEN).trace
    adamw = profile("9m", "adamw", **GIVEN).trace
    assert traced is not None and adamw is not None
    assert found["record"]["trace"]["peak"] == traced.peak == found["peak"]["nbytes"]
    assert sum(found["waterfall"].values()) == traced.peak - adamw.peak
    assert sum(holding["nbytes"] for holding in found["holdings"]) == traced.peak
    assert "layers.*.mlp.up_proj" in {part["name"] for part in found["parts"]}
    assert found["diagnosis"] and found["record"]["trace"]["timeline"]["event"][0] == 0
    assert outcome.out == memprof_main("explain", "galore:rank=8", *TINY, "--json", "--depth", "3").out


def test_the_scenario_is_the_one_asked_for(memprof_main: Main) -> None:
    options = ("--accumulation", "2", "--dtype", "fp32", "--kernels", "cpu", "--loss-chunks", "2", "--checkpointing",
               "--clip-grad-norm", "1")  # fmt: skip
    found = json.loads(memprof_main("explain", "lora", *TINY, *options, "--rank", "4", "--json").out)
    asked = {"accumulation": 2, "dtype": "fp32", "kernels": "cpu", "loss_chunks": 2, "checkpointing": True,
             "clip_grad_norm": 1.0}  # fmt: skip
    scenario = found["record"]["scenario"]
    assert {key: scenario[key] for key in asked} == asked and scenario["hyperparameters"]["rank"] == 4
    assert found["baseline"]["scenario"]["method"] == "adamw"


@pytest.mark.slow
def test_the_readme_shows_what_the_program_prints(memprof_main: Main) -> None:
    command, shown = README.partition("## Why did my peak not move?")[2].split("```\n")[1:4:2]
    outcome = memprof_main(*command.split()[1:])
    assert [line.rstrip() for line in outcome.out.split("\n")] == shown.split("\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "unknown method 'nothing'"),
        (("adamw", "--unit", "GiBs"), "unknown unit 'GiBs'"),
        (("adamw", "--model", "none"), "unknown model 'none'"),
        (("galore:rank=1000", *TINY), "rank 1000 is larger"),
        (("galore", "--rank", "32,64"), "one value here; sweep with memprof compare --rank 32,64"),
        (("galore", "--batch", "1,2"), "sweep with memprof compare --batch-size 1,2"),
        (("galore", "--seq", "0"), "'0' is no whole number"),
        ((), "Missing argument"),
    ],
)
def test_mistakes_end_in_one_line(memprof_main: Main, arguments: tuple[str, ...], said: str) -> None:
    outcome = memprof_main("explain", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err and outcome.err.count("\n") == 1


def test_charts_are_drawn_where_asked_and_overwritten_only_when_told(memprof_main: Main, tmp_path: Path) -> None:
    asked = ("explain", "galore", "--model", "9m", "--batch", "1", "--seq", "8", "-o", str(tmp_path / "charts"))
    assert memprof_main(*asked).code == 0
    assert "modules.png" in {file.name for file in (tmp_path / "charts").iterdir()}
    refused = memprof_main(*asked)
    assert refused.code == 2 and "--force" in refused.err and refused.out == ""
    assert memprof_main(*asked, "--force").code == 0
