"""The pytest plugin, seen from a user's test file: what passes, what fails and with which words, what it costs."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401  what loads late is loaded here: an inner run forgets it, and torch loads only once

import memprof.ledger  # noqa: F401
import memprof.pytest_plugin  # noqa: F401

ROOT = Path(__file__).parents[1]
PLUGIN = ("-p", "memprof.pytest_plugin")
MODEL = """
import pytest
import torch
from torch import nn

def make(device="meta"):
    model = nn.Sequential(nn.Linear(256, 256, bias=False), nn.ReLU(), nn.Linear(256, 256, bias=False)).to(device)
    return model, torch.optim.AdamW(model.parameters(), foreach=False)

def step(model, optimizer):
    device = next(model.parameters()).device
    model(torch.ones(64, 256, device=device)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""
PARAM = 2 * 256 * 256 * 4
"""bytes: 512 KiB; the gradients take as many, AdamW's two moments twice as many"""
COUNTERS = {"meta": 0, "cpu": 2 * 4}
"""AdamW counts each tensor's steps in a number of 4 bytes, always on the processor: with the model only there"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty folder of tests, where only this plugin and what a test names are loaded."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return pytester


def run(suite: pytest.Pytester, body: str, *options: str) -> pytest.RunResult:
    suite.makepyfile(MODEL + body)
    return suite.runpytest_inprocess(*PLUGIN, "--strict-markers", *options)


def watched(limits: str, device: str = "meta", calls: int = 1) -> str:
    return f"""
@pytest.mark.memory_budget({limits})
def test_step(memory_ledger):
    model, optimizer = make("{device}")
    for _ in range({calls}):
        with memory_ledger(model, optimizer):
            step(model, optimizer)
"""


def exact(device: str) -> dict[str, int]:
    state = 2 * PARAM + COUNTERS[device]
    return {"param": PARAM, "grad": PARAM, "optimizer_state": state, "steady": PARAM + state}


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_limits_that_are_met_exactly_pass(suite: pytest.Pytester, device: str) -> None:
    limits = ", ".join(f'{key}="{nbytes} B"' for key, nbytes in exact(device).items())
    run(suite, watched(limits, device)).assert_outcomes(passed=1)


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("key", ["param", "grad", "optimizer_state", "steady"])
def test_one_byte_more_fails(suite: pytest.Pytester, device: str, key: str) -> None:
    result = run(suite, watched(f'{key}="{exact(device)[key] - 1} B"', device))
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([rf"  {key}: .*, 1 B \(0\.0%\) over the limit of .*"])


def test_a_failure_names_the_categories_the_phase_and_the_makers(suite: pytest.Pytester) -> None:
    result = run(suite, watched('peak="1 MiB", param="1 GiB"'))
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([
        r"memory budget exceeded: peak by 1\.\d\d MiB",
        r"  peak: 2\.\d\d MiB, 1\.\d\d MiB \(\d+\.\d%\) over the limit of 1\.00 MiB",
        r"at the peak, in optimizer: 2\.\d\d MiB",
        r"  param: 512\.00 KiB",
        r"  grad: 512\.00 KiB",
        r"  optimizer_state: 1\.00 MiB",
        r"  activation: .*",
        r"  extra: .*",
        r"made there by",
        r"  aten::zeros_like \(optimizer_state\): .*|  aten::empty_like \(optimizer_state\): .*",
    ])  # fmt: skip
    result.stdout.no_re_match_line(r"  param: .*over the limit.*")
    result.stdout.no_fnmatch_line("*Traceback*")


def test_every_watched_step_counts(suite: pytest.Pytester) -> None:
    result = run(suite, watched('peak="1 MiB"', calls=2))
    result.stdout.fnmatch_lines(["memory budget exceeded in watched step 1 of 2: *", "*in watched step 2 of 2: *"])


def test_the_activation_and_extra_of_a_step_have_limits_too(suite: pytest.Pytester) -> None:
    """Kept for backward: at the least the input and what ReLU made of it, 64 x 256 numbers of 4 bytes each."""
    result = run(suite, watched(f'activation="{2 * 64 * 256 * 4 - 1} B", extra="1 B"'))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  activation: *over the limit of 128.00 KiB", "  extra: *over the limit of 1 B"])


def test_without_a_marker_the_ledger_just_watches(suite: pytest.Pytester) -> None:
    body = f"""
def test_step(memory_ledger):
    model, optimizer = make()
    with memory_ledger(model, optimizer) as ledger:
        step(model, optimizer)
    assert ledger.at_peak["param"] == {PARAM} and ledger.peak == sum(ledger.at_peak.values())
"""
    run(suite, body).assert_outcomes(passed=1)


def test_a_marker_without_the_fixture_is_an_error_that_says_so(suite: pytest.Pytester) -> None:
    body = """
@pytest.mark.memory_budget(peak="1 GiB")
def test_nobody_watches():
    pass

@pytest.mark.memory_budget(peak="1 GiB")
def test_nothing_runs_inside(memory_ledger):
    step(*make())
"""
    result = run(suite, body)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*limits nothing here: no step ran inside `with memory_ledger(model, optimizer):`*"])


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ('peak="2"', "size '2' is not a number with a unit*"),
        ("peak=2", 'peak must be text with a unit, such as peak="2 GiB", not 2'),
        ('peak="2 gib"', "size '2 gib' has no known unit; write GiB"),
        ('"2 GiB"', 'name what is limited, as in memory_budget(peak="2 GiB")*'),
        ("", 'name what is limited, as in memory_budget(peak="2 GiB")*'),
        ('peek="2 GiB"', "unknown figure 'peek'; choose from param, grad, *, peak, steady"),
    ],
)
def test_a_mistaken_limit_is_an_error_before_anything_runs(suite: pytest.Pytester, limits: str, said: str) -> None:
    result = run(suite, watched(limits))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"@pytest.mark.memory_budget: {said}".replace("[", "[[]")])
    result.stdout.no_re_match_line(r".*MemprofError.*|.*Traceback.*|.*During handling.*|.*direct cause.*")


def test_a_class_sets_limits_and_a_test_its_own(suite: pytest.Pytester) -> None:
    body = """
@pytest.mark.memory_budget(peak="1 B", param="1 GiB")
class TestSteps:
    @pytest.mark.memory_budget(peak="1 GiB")
    def test_step(self, memory_ledger):
        model, optimizer = make()
        with memory_ledger(model, optimizer):
            step(model, optimizer)
"""
    run(suite, body).assert_outcomes(passed=1)


def test_a_body_that_fails_fails_as_itself(suite: pytest.Pytester) -> None:
    result = run(suite, watched('peak="1 B"') + "    assert model is None\n")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*memory budget*exceeded*")


def test_xfail_and_skip_keep_their_meaning(suite: pytest.Pytester) -> None:
    marks = "\n@pytest.mark.xfail(strict=True)" + watched('peak="1 B"')
    skipped = "\n@pytest.mark.skip" + watched('peak="1 B"').replace("test_step", "test_skipped")
    run(suite, marks + skipped).assert_outcomes(xfailed=1, skipped=1)


def test_a_model_without_parameters_is_refused(suite: pytest.Pytester) -> None:
    body = """
def test_step(memory_ledger):
    with memory_ledger(nn.ReLU()):
        pass
"""
    run(suite, body).stdout.fnmatch_lines(["*memory_ledger was given a model without parameters*"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("optimizer, model", "takes a model and its one optimizer, (model, optimizer), not AdamW and Sequential"),
        ("model, [optimizer]", "takes a model and its one optimizer, (model, optimizer), not Sequential and list"),
    ],
)
def test_what_is_no_model_and_optimizer_is_refused_in_words(suite: pytest.Pytester, arguments: str, said: str) -> None:
    body = f"""
def test_step(memory_ledger):
    model, optimizer = make()
    with memory_ledger({arguments}):
        pass
"""
    pattern = said.replace("[", "[[]")
    run(suite, body).stdout.fnmatch_lines([f"*MemprofError: memory_ledger {pattern}"])


NOTHING_SEEN = {
    "an empty block": "pass",
    "another thread": "thread = threading.Thread(target=step, args=(model, optimizer)); thread.start(); thread.join()",
    "another model": "step(*make('cpu'))",
}


@pytest.mark.parametrize("inside", NOTHING_SEEN.values(), ids=list(NOTHING_SEEN))
@pytest.mark.parametrize("before", ["", "    with memory_ledger(model, optimizer):\n        step(model, optimizer)\n"])
def test_a_block_in_which_nothing_is_seen_is_an_error(suite: pytest.Pytester, inside: str, before: str) -> None:
    """Whatever else was watched: its limit would be kept by a step that nobody looked at."""
    body = f"""
import threading

@pytest.mark.memory_budget(peak="1 GiB")
def test_step(memory_ledger):
    model, optimizer = make()
{before}    with memory_ledger(model, optimizer):
        {inside}
"""
    result = run(suite, body)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*limits nothing here: no step ran inside `with memory_ledger(model, optimizer):`; none on *"]
    )


def test_a_limit_on_state_needs_the_optimizer(suite: pytest.Pytester) -> None:
    body = """
@pytest.mark.memory_budget(optimizer_state="1 GiB")
def test_step(memory_ledger):
    model, optimizer = make()
    with memory_ledger(model):
        step(model, optimizer)
"""
    result = run(suite, body)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*limits optimizer_state, and memory_ledger was given no optimizer whose state*"])


BY_HAND = """
        model(torch.ones(64, 256, device="{device}")).sum().backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight.sub_(weight.grad, alpha=1e-3)
                weight.grad = None
"""


@pytest.mark.parametrize("step", [BY_HAND, "\n        step(model, optimizer)\n"], ids=["by hand", "not given"])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_gradients_are_seen_whoever_takes_the_step(suite: pytest.Pytester, device: str, step: str) -> None:
    body = f"""
@pytest.mark.memory_budget(grad="{PARAM - 1} B")
def test_step(memory_ledger):
    model, optimizer = make("{device}")
    with memory_ledger(model) as ledger:{step.format(device=device)}
    assert ledger.grad_bytes == {PARAM}
"""
    result = run(suite, body)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["memory budget exceeded: grad by 1 B"])


def test_a_multiple_of_a_limit_is_told_as_one(suite: pytest.Pytester) -> None:
    result = run(suite, watched('param="1 KiB"'))
    result.stdout.fnmatch_lines(["  param: 512.00 KiB, 511.00 KiB (512 times it) over the limit of 1.00 KiB"])


def test_a_model_is_let_go_after_its_test(suite: pytest.Pytester) -> None:
    body = """
import gc, weakref
alive = []

def test_step(memory_ledger):
    model, optimizer = make()
    with memory_ledger(model, optimizer):
        step(model, optimizer)
    alive.append(weakref.ref(model))

def test_it_is_gone():
    gc.collect()
    assert alive[0]() is None
"""
    run(suite, body).assert_outcomes(passed=2)


def test_the_peak_is_in_the_junit_report(suite: pytest.Pytester) -> None:
    run(suite, watched('peak="1 GiB"'), "--junit-xml=report.xml").assert_outcomes(passed=1)
    assert 'name="memory_peak_bytes"' in (suite.path / "report.xml").read_text()


def test_it_works_with_xdist(suite: pytest.Pytester) -> None:
    body = watched('peak="1 GiB"') + watched('peak="1 B"').replace("test_step", "test_too_much")
    suite.makepyfile(MODEL + body)
    result = suite.runpytest_subprocess(*PLUGIN, "-p", "xdist", "-n", "1", "--strict-markers")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["memory budget exceeded: peak by *", "  peak: * over the limit of 1 B"])


def test_installing_it_brings_the_marker_and_not_torch(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an installation: pytest finds the entry point that pyproject.toml declares, in an empty suite."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    ((name, module),) = points.items()
    suite.makefile(".txt", **{"memprof-9.dist-info/entry_points": f"[pytest11]\n{name} = {module}\n"})
    (suite.path / "memprof-9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: memprof\nVersion: 9\n")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    monkeypatch.setenv("PYTHONPATH", f"{suite.path}:{ROOT}")
    suite.makeconftest("""
        import sys
        def pytest_sessionfinish(session):
            heavy = {"torch", "pandas", "matplotlib", "typer", "rich"} & set(sys.modules)
            print("loaded:", session.config.pluginmanager.has_plugin("memprof"), sorted(heavy))
    """)
    result = suite.runpytest_subprocess("--co", "--strict-markers", "-W", "error")
    result.stdout.fnmatch_lines(["loaded: True []"])
    shown = suite.runpytest_subprocess("--markers", "--fixtures")
    shown.stdout.fnmatch_lines(["@pytest.mark.memory_budget(peak=*"])
