"""Explanations as text, against sentences and bars worked out by hand, at every width and without colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from memprof.explanation import Account, Explanation, Holding, Lever, Moment, Part
from memprof.record import History, Record
from memprof.report.diagnosis import diagnosis, headline, where
from memprof.report.explain import render
from memprof.report.series import signed
from memprof.report.step_chart import step_chart
from memprof.report.waterfall_text import bar, figure, waterfall_lines
from memprof.timeline import CATEGORIES

GIB = 2**30
MakeRecord = Callable[..., Record]
TIMELINE = History(
    events=40,
    event=(0, 10, 11, 20, 21, 40),
    phase=("forward", "forward", "backward", "backward", "optimizer", "optimizer"),
    param=(2 * GIB,) * 6,
    grad=(0, 0, GIB, 2 * GIB, 2 * GIB, 0),
    optimizer_state=(GIB,) * 6,
    activation=(0, GIB, GIB, 0, 0, 0),
    extra=(0, 0, 3 * GIB, 0, 0, 0),
)


def moment(sizes: tuple[int, ...], phase: str = "backward", place: str = "loss", event: int = 11) -> Moment:
    parts = {name: size * GIB for name, size in zip(CATEGORIES, sizes, strict=True)}
    return Moment(
        nbytes=sum(parts.values()), phase=phase, place=place, maker="aten::mm", event=event, by_category=parts
    )


@pytest.fixture
def galore(record: MakeRecord) -> Explanation:
    """AdamW holds 2 2 4 1 1 GiB at its peak of 10, GaLore 2 2 1 1 2 at its peak of 8."""
    before, after = record("adamw"), record("galore", (2, 2, 1, 1, 2), refresh=9 * GIB)
    assert after.trace is not None
    after = replace(after, trace=replace(after.trace, timeline=TIMELINE))
    levers = [
        Lever(changes=("chunked loss", "8-bit states"), options=("galore:inner=adamw-8bit", "--loss-chunks 8"),
              price="", peak=4 * GIB, saves=5 * GIB),
        Lever(changes=("chunked loss",), options=("--loss-chunks 8",), price="pieces", peak=6 * GIB, saves=3 * GIB),
        Lever(changes=("half the micro-batch",), options=("--batch-size 4",), price="x", peak=10 * GIB, saves=-GIB),
    ]  # fmt: skip
    return Explanation(
        record=after,
        baseline=before,
        peak=moment((2, 2, 1, 1, 2)),
        refresh=moment((2, 2, 1, 1, 3), "refresh", "update"),
        baseline_peak=moment((2, 2, 4, 1, 1), "optimizer", "update"),
        waterfall=(("param", 0), ("grad", 0), ("optimizer_state", -3 * GIB), ("activation", 0), ("extra", GIB)),
        accounts=(
            Account(key="total", countings=("paper:galore",), before=10 * GIB, after=6 * GIB),
            Account(key="optimizer_state", countings=("paper:a", "paper:b"), before=4 * GIB, after=GIB // 2),
        ),
        holdings=(
            Holding(category="param", name="layers.*.mlp", what="", tensors=3, nbytes=2 * GIB),
            Holding(category="extra", name="loss", what="nll_loss_backward", tensors=1, nbytes=2 * GIB),
            Holding(category="grad", name="layers.*.mlp", what="", tensors=3, nbytes=2 * GIB),
            Holding(category="activation", name="lm_head", what="mm", tensors=1, nbytes=GIB),
            Holding(category="optimizer_state", name="lm_head", what="basis", tensors=1, nbytes=GIB),
        ),
        parts=(
            Part(name="layers.*.mlp", modules=2, param=2 * GIB, grad=2 * GIB, optimizer_state=0, activation=0),
            Part(name="lm_head", modules=1, param=0, grad=0, optimizer_state=GIB, activation=GIB),
        ),
        state={"basis": GIB},
        levers=tuple(levers),
    )


def printed(explained: Explanation, width: int = 96, **options: Any) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(render(explained, **options))
    return stream.getvalue()


def test_the_first_line_is_the_answer(galore: Explanation) -> None:
    plain = replace(galore, refresh=None)
    answer = "galore on 1b: peak 8.00 GiB, 20.0 % below adamw's 10.00 GiB"
    assert headline(plain, "GiB") == answer
    assert printed(plain).split("\n")[0].rstrip() == answer


def test_a_heavier_refresh_is_part_of_the_answer(galore: Explanation) -> None:
    """9 GiB have to fit, 8 are what other steps need; at a size that reads the same there is one figure."""
    assert headline(galore, "GiB") == (
        "galore on 1b: peak 9.00 GiB in a step that refreshes or merges, 8.00 GiB in an ordinary one, "
        "10.0 % below and 20.0 % below adamw's 10.00 GiB"
    )
    assert galore.refresh is not None
    hardly = replace(galore, refresh=replace(galore.refresh, nbytes=8 * GIB + 1))
    assert headline(hardly, "GiB") == "galore on 1b: peak 8.00 GiB, 20.0 % below adamw's 10.00 GiB"


def test_adamw_is_said_to_have_the_same_options(galore: Explanation) -> None:
    """With its layers checkpointed AdamW's peak is another than its plain one."""
    options = {"checkpointing": True, "loss_chunks": 8, "clip_grad_norm": 1.0}
    given = replace(galore, record=replace(galore.record, scenario=galore.record.scenario | options))
    said = ", both with --checkpointing, --loss-chunks 8 and --clip-grad-norm 1.0"
    assert headline(given, "GiB").endswith(f"10.00 GiB{said}")
    assert "both with" not in headline(galore, "GiB")


def test_heavier_equal_and_alone_are_said_so(galore: Explanation, record: MakeRecord) -> None:
    galore = replace(galore, refresh=None)
    lighter, same = record("adamw", (1, 1, 1, 1, 1)), record("adamw", (2, 2, 1, 1, 2))
    assert headline(replace(galore, baseline=lighter), "GiB").endswith("60.0 % above adamw's 5.00 GiB")
    assert headline(replace(galore, baseline=same), "GiB").endswith("the same as adamw's")
    alone = replace(galore, baseline=None, baseline_peak=None, waterfall=())
    assert headline(alone, "GiB") == "galore on 1b: peak 8.00 GiB, in the backward of the loss"
    assert "adamw" not in diagnosis(alone, "GiB") and "From adamw" not in printed(alone)


def test_settings_tell_a_method_from_its_plain_form(galore: Explanation, record: MakeRecord) -> None:
    named = record("adamw", (2, 2, 1, 1, 2), hyperparameters={"state_dtype": "fp32"}, given=["state_dtype"])
    found = replace(galore, record=replace(named, trace=galore.trace), refresh=None)
    assert headline(found, "GiB").startswith("adamw state_dtype=fp32 on 1b: peak 8.00 GiB, 20.0 % below adamw's")
    assert "From adamw's peak to adamw state_dtype=fp32's" in printed(found)


def test_the_diagnosis_by_hand(galore: Explanation) -> None:
    assert diagnosis(galore, "GiB") == (
        "It saves 75.0 % of the optimizer state, and optimizer state is 40.0 % of adamw's peak. "
        "At the peak optimizer state fell by 3.00 GiB, temporaries grew by 1.00 GiB; nothing else changed. "
        "The peak is in the backward of the loss, where parameters (2.00) and gradients (2.00) are 50.0 % of it; "
        "adamw's is in the optimizer's step. "
        "A step that refreshes or merges needs 9.00 GiB, in the step's refresh. "
        "Next: chunked loss, down to 6.00 GiB, with 8-bit states to 4.00 GiB."
    )


def test_what_is_counted_by_hand(galore: Explanation) -> None:
    table = printed(galore).partition("What is counted")[2].partition("One step")[0].split("\n")
    rows = [" ".join(line.split()) for line in table if line.strip().endswith("%") or line.strip().endswith("-")]
    assert rows == [
        "optimizer state 4.00 1.00 75.0 %",
        "between two steps 6.00 3.00 50.0 %",
        "optimizer state by paper:a, paper:b 4.00 0.50 87.5 %",
        "sum by paper:galore 10.00 6.00 40.0 %",
        "peak of a step 10.00 8.00 20.0 %",
        "peak of a refresh step - 9.00 -",
    ]


def test_a_paper_s_own_vocabulary_is_named(galore: Explanation, record: MakeRecord) -> None:
    account = Account(key="total", countings=("paper:approximations",), before=2, after=1)
    counted = replace(galore, accounts=(*galore.accounts, account))
    said = "paper:approximations counts a vocabulary of 32100, this model has 32000."
    assert said in " ".join(printed(counted).split())
    assert "vocabulary" not in printed(galore)
    other = replace(record("galore", (2, 2, 1, 1, 2), vocab_size=128_256), trace=galore.trace)
    assert "vocabulary" not in printed(replace(counted, record=other)), "its own stays"


def test_small_changes_are_not_told_one_by_one(galore: Explanation) -> None:
    changes = tuple((name, GIB // 20 if name == "grad" else 0) for name in CATEGORIES)
    assert "next to nothing changed" in diagnosis(replace(galore, waterfall=changes), "GiB")
    assert "At the peak nothing changed" in diagnosis(
        replace(galore, waterfall=tuple((n, 0) for n in CATEGORIES)), "GiB"
    )
    assert "None of the usual levers" in diagnosis(replace(galore, levers=galore.levers[2:]), "GiB")


@pytest.mark.parametrize(
    ("phase", "place", "event", "said"),
    [
        ("backward", "loss", 3, "in the backward of the loss"),
        ("forward", "model.layers.3.mlp", 3, "in the forward of layers.3.mlp"),
        ("optimizer", "update", 3, "in the optimizer's step"),
        ("refresh", "lm_head.weight", 3, "in the step's refresh, at lm_head.weight"),
        ("forward", "", 0, "between two steps"),
    ],
)
def test_instants_in_words(phase: str, place: str, event: int, said: str) -> None:
    assert where(moment((1, 1, 1, 1, 1), phase, place, event)) == said


def test_bars_begin_where_the_last_one_ended(galore: Explanation) -> None:
    """44 characters leave 20 for 10 GiB: two a GiB."""
    lines = [line for line, _ in waterfall_lines(galore, "GiB", 44)]
    assert lines == [
        "adamw            10.00  " + "█" * 20,
        "parameters           0",
        "gradients            0",
        "optimizer state  -3.00  " + " " * 14 + "▒" * 6,
        "activations          0",
        "temporaries      +1.00  " + " " * 14 + "▓" * 2,
        "galore            8.00  " + "█" * 16,
    ]


def test_what_is_there_is_seen() -> None:
    assert bar(0, 1, 10**9, 10) == "█" and bar(10**9 - 1, 10**9, 10**9, 10) == " " * 9 + "█"
    assert bar(5, 5, 10, 10).strip() == "" and bar(0, 0, 0, 10) == ""
    assert (signed(0, "GiB"), signed(-1, "GiB"), signed(GIB, "GiB")) == ("0", "-<0.01", "+1.00")
    assert (figure(0, "GiB"), figure(1, "GiB")) == ("0", "<0.01")


def test_the_curve_by_hand() -> None:
    """41 instants on 41 columns: 3 GiB between steps, 8 at the peak; four rows of eight steps, four a GiB."""
    lines = step_chart(TIMELINE, 47, "GiB", "here")
    assert [line[:6] for line in lines[:4]] == ["8.00 │", "     │", "     │", "   0 │"]
    columns = ["".join(line.ljust(47)[6 + place] for line in lines[:4]) for place in range(41)]
    assert columns[0] == columns[9] == columns[40] == "  ▄█"
    assert columns[10] == "  ██"
    assert columns[11] == "████"
    assert columns[20] == columns[30] == " ▄██"
    assert lines[4] == "      |forward   |backward |optimizer"
    assert lines[5] == "                 ▲ here"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(galore: Explanation, width: int) -> None:
    text = printed(galore, width)
    assert max(len(line) for line in text.split("\n")) <= width
    assert "\x1b" not in text


def test_a_long_name_leaves_room_for_what_the_rows_are(galore: Explanation, record: MakeRecord) -> None:
    """The method that the levers name themselves: its settings stand in the headline, its column has its name alone."""
    settings = {"inner": "adamw-8bit", "per_layer": True}
    named = record("galore", (2, 2, 1, 1, 2), hyperparameters=settings, given=list(settings))
    text = printed(replace(galore, record=replace(named, trace=galore.trace)), 60)
    assert text.startswith("galore inner=adamw-8bit per_layer=true on 1b")
    assert "optimizer state    " in text and "between two steps  " in text


@pytest.mark.parametrize("width", [40, 60, 80, 96])
def test_an_option_to_copy_is_whole(galore: Explanation, width: int) -> None:
    """As long a one as GaLore's with two settings, 38 characters: what is broken cannot be copied."""
    option = "galore:inner=adamw-8bit,per_layer=true"
    levers = (replace(galore.levers[0], options=(option, "--loss-chunks 8")), *galore.levers[1:])
    text = printed(replace(galore, levers=levers), width)
    assert option in text and max(map(len, text.split("\n"))) <= width


def test_colours_only_repeat_what_the_text_says(galore: Explanation) -> None:
    """A fall is green and a rise red on a terminal with colours; with NO_COLOR the same words stand there without."""
    shown = {}
    for no_color in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, width=96, force_terminal=True, color_system="standard", no_color=no_color)
        console.print(render(galore))
        shown[no_color] = stream.getvalue()
    assert "\x1b[32moptimizer state  -3.00" in shown[False] and "\x1b[31mtemporaries      +1.00" in shown[False]
    assert "\x1b[3" not in shown[True]
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown[False]) == re.sub(r"\x1b\[[0-9;]*m", "", shown[True])


def test_rows_beyond_the_top_are_summed(galore: Explanation) -> None:
    text = printed(galore, top=2)
    assert "3 others" in text and [line.split()[2:] for line in text.split("\n") if "3 others" in line] == [["4.00"]]
    assert "others" not in printed(galore, top=5)


def test_names_from_elsewhere_stay_on_their_line(galore: Explanation) -> None:
    nasty = replace(galore.record, scenario=galore.record.scenario | {"method": "a\x1b[31m\nb"})
    assert "a b on 1b" in printed(replace(galore, record=nasty)).replace("ab", "a b")
    assert "\x1b" not in printed(replace(galore, record=nasty))
