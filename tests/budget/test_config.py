"""Budget files: what they may say, and for everything else one line that names file, line and key."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.budget.config import BUDGET_KEYS, MAX_BUDGETS, read_budgets
from memprof.budget.limits import Kind, parse_increase
from memprof.budget.source import MAX_BYTES
from memprof.errors import MemprofError, NothingToDoError

GOOD = """\
baseline = "memory/accepted.json"
[defaults]
model = "60m"
batch_size = 2
[[budget]]
name = "first"
method = "galore:rank=8"
batch_size = 4
peak = "9.5 GiB"
max_increase = { peak = "1%", grad = "64 MiB" }
[[budget]]
name = "second"
optimizer_state = "1 GB"
max_increase = "0.5%"
min_examples_per_second = 3
min_examples_per_second_ratio = 0.9
gate_throughput = true
message = "ask first"
"""


def test_a_file_is_read_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "memprof.toml").write_text(GOOD)
    file = read_budgets(tmp_path / "memprof.toml")
    first, second = file.budgets
    assert file.baseline == tmp_path / "memory" / "accepted.json"
    assert first.scenario == {"model": "60m", "batch_size": 4, "method": "galore:rank=8"}
    assert [(limit.key, limit.kind, limit.size, limit.share, limit.line) for limit in first.limits] == [
        ("peak", Kind.SIZE, 19 * 2**29, 0, 9),
        ("peak", Kind.INCREASE, 0, Fraction(1, 100), 10),
        ("grad", Kind.INCREASE, 2**26, 0, 10),
    ]
    assert second.scenario == {"model": "60m", "batch_size": 2}
    assert [(limit.key, limit.line) for limit in second.limits] == [
        ("optimizer_state", 13),
        ("peak", 14),
        ("examples_per_second", 15),
        ("examples_per_second", 16),
    ]
    assert second.gate_throughput and second.message == "ask first"


def test_pyproject_holds_the_same_in_its_own_table(tmp_path: Path) -> None:
    ours = '[tool.memprof.defaults]\nmodel = "60m"\n[[tool.memprof.budget]]\nname = "b"\npeak = "1 GiB"\n'
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "x"\n{ours}')
    (budget,) = read_budgets(tmp_path / "pyproject.toml").budgets
    assert budget.scenario == {"model": "60m"} and budget.limits[0].line == 7


def test_memprof_toml_is_found_before_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NothingToDoError, match="no budgets here; write memprof.toml"):
        read_budgets()
    Path("pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(NothingToDoError, match=r"pyproject.toml has no \[tool.memprof\]"):
        read_budgets()
    Path("pyproject.toml").write_text('[[tool.memprof.budget]]\nname = "inner"\npeak = "1 GiB"\n')
    assert read_budgets().budgets[0].name == "inner"
    Path("memprof.toml").write_text('[[budget]]\nname = "own"\npeak = "1 GiB"\n')
    assert read_budgets().budgets[0].name == "own"


def test_a_model_path_counts_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "memprof.toml").write_text('[[budget]]\nname = "b"\nmodel = "llama/config.json"\npeak = "1 GiB"\n')
    (budget,) = read_budgets(tmp_path / "memprof.toml").budgets
    assert budget.scenario["model"] == str(tmp_path / "llama" / "config.json")


def test_two_files_in_a_folder_have_a_baseline_each(tmp_path: Path) -> None:
    for name, baseline in (("memprof.toml", "memprof"), ("big.toml", "big")):
        (tmp_path / name).write_text('[[budget]]\nname = "b"\npeak = "1 GiB"\n')
        assert read_budgets(tmp_path / name).baseline == tmp_path / f"{baseline}-baseline.json"


def test_a_baseline_is_no_link_out_of_its_folder(tmp_path: Path) -> None:
    """The file is data: it must not choose what --update writes, nor what a check reads."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "memprof.toml").write_text('[[budget]]\nname = "b"\npeak = "1 GiB"\n')
    (inner / "memprof-baseline.json").symlink_to("accepted.json")
    assert read_budgets(inner / "memprof.toml").baseline == inner / "memprof-baseline.json"
    (inner / "memprof-baseline.json").unlink()
    (inner / "memprof-baseline.json").symlink_to("../outside.json")
    with pytest.raises(MemprofError, match="is a link that leads out of its folder"):
        read_budgets(inner / "memprof.toml")


BUDGET = '[[budget]]\nname = "b"\n'
ERRORS = {
    "peek": (BUDGET + 'peek = "1 GiB"', "memprof.toml:3: unknown key 'peek'; choose from name, model"),
    "top level": ("limit = 1\n" + BUDGET, "memprof.toml: unknown key 'limit'; choose from baseline, defaults, budget"),
    "defaults": ('[defaults]\npeak = "1 GiB"', "memprof.toml:2: defaults: unknown key 'peak'; choose from model"),
    "a bare number": (BUDGET + "peak = 9500", "memprof.toml:3: peak must be text with a unit, such as \"9.5 GiB\""),
    "no unit": (BUDGET + 'peak = "9500"', "memprof.toml:3: peak: size '9500' is not a number with a unit"),
    "half a percent sign": (BUDGET + 'max_increase = "one %"', "memprof.toml:3: max_increase: increase 'one %'"),
    "a long size": (BUDGET + f'peak = "1 GiB{" " * 100}but I meant 1 KiB"', "peak is too long; it may have 100 char"),
    "a long increase": (BUDGET + f'max_increase = "1%{" " * 120}x"', "max_increase is too long; it may have 100 char"),
    "a far too large percentage": (BUDGET + 'max_increase = "1000000%"', "it may be 0% to 1000%"),
    "a float for a size": (BUDGET + "peak = 9.5", 'must be text with a unit, such as "9.5 GiB", not 9.5'),
    "a gate of nothing": (BUDGET + 'peak = "1 GiB"\ngate_throughput = true', "memprof.toml:4: gate_throughput gates n"),
    "endless accumulation": (BUDGET + "accumulation = 2147483647", "must be from 1 to 1024"),
    "an empty setting": (BUDGET + 'method = "galore:"', "memprof.toml:3: method 'galore:' has no settings after its c"),
    "nearly a key": (BUDGET + 'optimiser_state = "1 GiB"', "; perhaps optimizer_state is meant"),
    "too large a percentage": (BUDGET + 'max_increase = "1001%"', "it may be 0% to 1000%"),
    "a bare increase": (BUDGET + "max_increase = 1", 'max_increase must be text with a unit, such as "1%"'),
    "an increase of nothing": (BUDGET + "max_increase = {}", "budget 'b' has no limit; add one of param"),
    "an increase of what is not": (BUDGET + 'max_increase = { pek = "1%" }', "max_increase: unknown key 'pek'"),
    "an inner increase": (BUDGET + 'max_increase = { peak = "1" }', "memprof.toml:3: max_increase.peak: size '1'"),
    "no limit": (BUDGET, "memprof.toml:2: budget 'b' has no limit; add one of param"),
    "no name": ('[[budget]]\npeak = "1 GiB"', "memprof.toml:2: a budget needs a name"),
    "a name like a CI command": ('[[budget]]\nname = "::error::x"\npeak = "1 GiB"', "a budget needs a name"),
    "a name of two lines": ('[[budget]]\nname = "a\\nb"\npeak = "1 GiB"', "a budget needs a name"),
    "two of a name": ((BUDGET + 'peak = "1 GiB"\n') * 2, "memprof.toml:5: two budgets are called 'b'"),
    "a table": ('[budget]\nname = "b"', "budget must be a list of tables"),
    "numbers": ("budget = [1]", "budget must be a list of tables"),
    "text for an integer": (BUDGET + 'batch_size = "8"', "memprof.toml:3: batch_size must be an integer, not '8'"),
    "true for an integer": (BUDGET + "batch_size = true", "batch_size must be an integer, not true"),
    "0": (BUDGET + "batch_size = 0", "memprof.toml:3: batch_size 0 is out of range; it must be from 1"),
    "a huge integer": (BUDGET + "seed = 9999999999", "seed 9999999999 is out of range"),
    "an integer for text": (BUDGET + "model = 1", "memprof.toml:3: model must be text in quotes"),
    "a NUL": (BUDGET + 'model = "a\\u0000.json"', "model must be printable text"),
    "text for a gate": (BUDGET + 'peak = "1 GiB"\ngate_throughput = "no"', "gate_throughput must be true or false"),
    "a long message": (BUDGET + f'peak = "1 GiB"\nmessage = "{"x" * 501}"', "memprof.toml:4: message is too long"),
    "no speed": (BUDGET + "min_examples_per_second = 0", "min_examples_per_second 0.0 is out of range"),
    "nan": (BUDGET + "min_examples_per_second = nan", "min_examples_per_second nan is out of range"),
    "defaults as a list": ("defaults = []", "memprof.toml: defaults must be a table"),
    "a baseline elsewhere": ('baseline = "../x.json"\n' + BUDGET + 'peak = "1 GiB"', "must be a .json file in"),
    "an absolute baseline": ('baseline = "/x.json"\n' + BUDGET + 'peak = "1 GiB"', "must be a .json file in"),
    "a baseline of another kind": ('baseline = "x.py"\n' + BUDGET + 'peak = "1 GiB"', "must be a .json file in"),
    "no TOML": ("[[budget", "memprof.toml is not TOML: "),
    "too deep": ("x = " + "[" * 5000, "memprof.toml is not TOML: nested too deeply"),
    "too many": ("".join(f'[[budget]]\nname = "b{n}"\n' for n in range(MAX_BUDGETS + 1)), "201 budgets are too many"),
    "too large": ("#" * (MAX_BYTES + 1), "memprof.toml is larger than 262144 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("text, said", ERRORS.values(), ids=list(ERRORS))
def test_an_error_names_file_line_and_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "memprof.toml").write_text(text)
    with pytest.raises(MemprofError) as error:
        read_budgets(tmp_path / "memprof.toml")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "# nothing\n", "budget = []", '[defaults]\nmodel = "1b"'])
def test_a_file_without_budgets_is_nothing_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "memprof.toml").write_text(text)
    with pytest.raises(NothingToDoError, match="memprof.toml has no budgets") as error:
        read_budgets(tmp_path / "memprof.toml")
    assert error.value.exit_code == 5


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(MemprofError, match="no budget file nowhere.toml"):
        read_budgets(tmp_path / "nowhere.toml")
    with pytest.raises(MemprofError, match="is a folder; name a file in it"):
        read_budgets(tmp_path)
    (tmp_path / "link.toml").symlink_to("nothing")
    with pytest.raises(MemprofError, match="budget file link.toml is a link to nothing"):
        read_budgets(tmp_path / "link.toml")
    with pytest.raises(MemprofError, match="budget file null is no regular file"):
        read_budgets("/dev/null")
    (tmp_path / "memprof.toml").write_text("\ufeff" + GOOD)
    with pytest.raises(MemprofError, match="it begins with a byte order mark; save it without"):
        read_budgets(tmp_path / "memprof.toml")
    (tmp_path / "memprof.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(MemprofError, match="it is not UTF-8"):
        read_budgets(tmp_path / "memprof.toml")


@pytest.mark.parametrize("text, size, share", [("1%", 0, Fraction(1, 100)), (" 0.125 % ", 0, Fraction(1, 800)),
                                               ("64 MiB", 2**26, Fraction(0)), ("0%", 0, Fraction(0))])  # fmt: skip
def test_increases_are_exact(text: str, size: int, share: Fraction) -> None:
    assert parse_increase(text) == (size, share)


def only_memprof_errors(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        read_budgets(path)
    except MemprofError as error:
        assert "\n" not in str(error) and len(str(error)) < 1_000


@given(content=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    only_memprof_errors(tmp_path_factory.getbasetemp() / "bytes.toml", content)


VALUES = st.one_of(
    st.integers(), st.floats().map(repr), st.booleans().map(lambda b: str(b).lower()), st.just("[1, 2]"), st.just("{}"),
    st.sampled_from(['"1%"', '"9.5 GiB"', '"adamw"', "{ peak = '1%' }", "1979-05-27", '"""a\nb"""']),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters='"\\'), max_size=9).map(
        '"{}"'.format
    ),
)  # fmt: skip
ENTRIES = st.tuples(st.sampled_from([*BUDGET_KEYS, "defaults", "x", '"a b"', "max_increase.peak"]), VALUES)


@given(
    entries=st.lists(ENTRIES, max_size=6), head=st.sampled_from(["[[budget]]\nname = 'n'", "[defaults]", "[[budget]]"])
)
def test_any_values_are_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, object]], head: str
) -> None:
    text = "\n".join([head, *(f"{key} = {value}" for key, value in entries)])
    only_memprof_errors(tmp_path_factory.getbasetemp() / "values.toml", text.encode())


@given(place=st.integers(0, len(GOOD) - 1), byte=st.binary(min_size=0, max_size=2))
def test_a_damaged_file_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: bytes
) -> None:
    content = GOOD.encode()
    only_memprof_errors(tmp_path_factory.getbasetemp() / "damaged.toml", content[:place] + byte + content[place + 1 :])
