"""Explanations of the whole catalogue: every sum against the trace's own figures, every lever against another trace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from memprof.api import plan
from memprof.catalogue import METHODS, get_method
from memprof.explain.accounts import accounts
from memprof.explain.answer import baseline_of, explain
from memprof.explain.parts import cut, folded
from memprof.explain.places import PlacedLedger
from memprof.explanation import Explanation
from memprof.formula import formula
from memprof.methods.adamw import AdamW
from memprof.report.diagnosis import where
from memprof.scenario import Scenario
from memprof.timeline import CATEGORIES
from memprof.trace import trace, watch

TINY: dict[str, Any] = {"num_layers": 2, "vocab_size": 64, "batch_size": 2, "seq_len": 16}


def scenario(method: Any, **fields: Any) -> Scenario:
    return plan(["9m"], [method], **(TINY | fields))[0]


def explained(method: Any, depth: int = 2, **fields: Any) -> Explanation:
    return explain(scenario(method, **fields), depth=depth)


def check_sums(found: Explanation, case: Scenario) -> None:
    """All that is said of one step against what the plain ledger of a trace of its own says of it."""
    traced = trace(case)
    assert found.trace == traced
    assert found.peak.by_category == traced.peak_by_category and found.peak.phase == traced.peak_phase
    for name in CATEGORIES:
        held = [holding.nbytes for holding in found.holdings if holding.category == name]
        assert sum(held) == traced.peak_by_category[name]
    for key in ("param", "grad", "optimizer_state", "activation"):
        assert sum(getattr(part, key) for part in found.parts) == getattr(traced, key)
    assert sum(found.state.values()) == traced.optimizer_state
    assert (found.refresh.nbytes if found.refresh else None) == traced.refresh_peak
    assert [part.total for part in found.parts] == sorted((part.total for part in found.parts), reverse=True)
    if found.baseline and found.baseline.trace:
        assert sum(change for _, change in found.waterfall) == traced.peak - found.baseline.trace.peak


@pytest.fixture
def without_levers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time, and no sum is theirs."""
    monkeypatch.setattr("memprof.explain.answer.levers", lambda *_: ())


@pytest.mark.usefixtures("without_levers")
@pytest.mark.parametrize("method", METHODS)
def test_every_sum_is_the_traces_figure(method: str) -> None:
    case = scenario(method, num_layers=1)
    check_sums(explain(case), case)


@pytest.mark.usefixtures("without_levers")
@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("galore:per_layer=true", {}),
        ("galore", {"accumulation": 2}),
        ("adamw", {"checkpointing": True, "loss_chunks": 4}),
        ("lora", {"checkpointing": True, "dtype": "fp32", "kernels": "cpu"}),
    ],
)
@pytest.mark.parametrize("depth", [1, 9])
def test_sums_hold_in_odd_scenarios_at_any_depth(method: str, fields: dict[str, Any], depth: int) -> None:
    case = scenario(method, **fields)
    check_sums(explain(case, depth=depth), case)


def test_names_by_hand() -> None:
    assert cut("model.layers.3.mlp.up_proj", 1) == "layers.3"
    assert cut("model.layers.3.mlp.up_proj", 2) == "layers.3.mlp"
    assert cut("model.layers.3.mlp.up_proj", 9) == "layers.3.mlp.up_proj"
    assert folded("layers.3.mlp") == "layers.*.mlp"
    assert cut("lm_head", 2) == "lm_head" and cut("model", 1) == "model"


def test_modules_hold_what_their_weights_weigh() -> None:
    """9m: hidden 64 x MLP 192, vocabulary 64; a linear layer is a weight, its gradient and two moments, in bf16."""
    shape = scenario("adamw").shape
    parts = {part.name: part for part in explained("adamw", depth=3).parts}
    up, embedding = parts["layers.*.mlp.up_proj"], parts["embed_tokens"]
    weight = 2 * shape.hidden_size * shape.intermediate_size
    assert (up.modules, up.param, up.grad) == (2, 2 * weight, 2 * weight)
    assert up.optimizer_state == 2 * (2 * weight + 4)  # a step count in fp32 beside the moments
    assert up.activation == 2 * weight // shape.hidden_size * 32  # its output, of 32 tokens
    assert (embedding.modules, embedding.param) == (1, 2 * 64 * shape.hidden_size)


def test_tensors_have_lines_of_their_own_at_depth() -> None:
    names = {part.name for part in explained("galore", depth=5).parts}
    assert {f"layers.*.mlp.up_proj.weight.{tensor}" for tensor in ("basis", "exp_avg", "exp_avg_sq")} <= names


def test_the_peak_is_placed_where_the_largest_tensors_are() -> None:
    """Many tokens and a large vocabulary: the loss. Few tokens: a gradient as large as the embedding it is of."""
    assert explained("adamw", vocab_size=4_096, seq_len=256).peak.place == "loss"
    assert explained("adamw", vocab_size=4_096).peak.place == "model.embed_tokens.weight"
    per_layer = explained("galore:per_layer=true", vocab_size=8, seq_len=8)
    assert per_layer.peak.phase == "backward" and per_layer.peak.place.startswith("model.")


@pytest.mark.usefixtures("without_levers")
@pytest.mark.parametrize(
    ("method", "doing"),
    [("galore:per_layer=true,rank=16", "update"), ("galore:rank=16", ""), ("adamw", "")],
)
def test_an_update_inside_backward_is_called_one(method: str, doing: str) -> None:
    """Few tokens: the worst instant is where a large matrix is updated, or else where its gradient is made."""
    found = explained(method, num_layers=1, vocab_size=8, batch_size=1, seq_len=2)
    assert (found.peak.phase, found.peak.doing) == ("backward" if doing else found.trace.peak_phase, doing)
    assert not doing or where(found.peak) == f"in the {doing} of {found.peak.place.removeprefix('model.')}"


@pytest.mark.usefixtures("without_levers")
def test_a_refresh_inside_backward_is_called_one() -> None:
    found = explained("galore:per_layer=true", num_layers=1, vocab_size=8, batch_size=1, seq_len=2)
    assert found.refresh is not None and (found.refresh.phase, found.refresh.doing) == ("backward", "refresh")
    assert where(found.refresh) == f"in the refresh of {found.refresh.place.removeprefix('model.')}"


def test_a_gradient_that_is_added_to_another_is_no_update() -> None:
    """Under accumulation the sum of two gradients is made where an update inside backward would be."""
    watched = watch(scenario("adamw", accumulation=2), PlacedLedger).step
    assert "model.embed_tokens.weight" in watched.place.values() and not watched.doing


def test_an_update_is_the_optimizers_or_the_weights() -> None:
    heavy = explained("muon", batch_size=1, seq_len=8)
    assert (heavy.peak.phase, heavy.peak.place) == ("optimizer", "update")


def test_recomputed_activations_belong_to_their_modules() -> None:
    names = {holding.name for holding in explained("adamw", checkpointing=True, vocab_size=8).holdings}
    assert "layers.*.mlp" in names and "update" not in names


def test_accounts_are_the_formulas_by_each_papers_counting() -> None:
    """The basis, which one of the papers leaves out, is what GaLore's state is smaller by there."""
    found = explained("galore")
    plain, adamw = scenario("galore"), scenario("adamw")
    for account in found.accounts:
        for name in account.countings:
            after, before = (formula(replace(each, counting=name)) for each in (plain, adamw))
            assert (account.before, account.after) == (getattr(before, account.key), getattr(after, account.key))
    (state,) = (account for account in found.accounts if account.key == "optimizer_state")
    assert state.countings == ("paper:approximations",)
    assert found.trace.optimizer_state - state.after == found.state["basis"]


def test_a_step_count_is_no_account_of_its_own() -> None:
    """Papers leave out AdamW's step counts too, 4 bytes a weight: too little to be told."""
    plain = scenario("adamw")
    stored, counted = formula(plain), formula(replace(plain, counting="paper:approximations"))
    assert 0 < stored.optimizer_state - counted.optimizer_state
    assert {account.key for account in accounts(plain, None)} == {"total"}


def test_accounts_are_of_the_paper_s_own_vocabulary() -> None:
    """32,100 tokens where the model has the 32,000 of the papers' zoo, as a comparison by that counting has."""
    fields: dict[str, Any] = {"num_layers": 2, "batch_size": 1, "seq_len": 16, "counting": "paper:approximations"}
    plain, adamw = (plan(["350m"], [name], **(fields | {"counting": "memprof"}))[0] for name in ("adam-mini", "adamw"))
    totals = [formula(plan(["350m"], [name], **fields)[0]).total for name in ("adamw", "adam-mini")]
    (sums,) = (a for a in accounts(plain, adamw) if a.key == "total" and "paper:approximations" in a.countings)
    assert [sums.before, sums.after] == totals


def test_adamw_stands_against_nothing_unless_its_settings_differ() -> None:
    plain = explained("adamw")
    assert (plain.baseline, plain.baseline_peak, plain.waterfall) == (None, None, ())
    assert baseline_of(scenario("adamw:state_dtype=fp32")) == scenario("adamw")
    assert baseline_of(scenario("lora", dtype="fp32")) == scenario("adamw", dtype="fp32")


@dataclass(frozen=True, slots=True)
class Mine(AdamW):
    name: ClassVar[str] = "mine"


def test_a_method_of_ones_own_is_explained() -> None:
    case = scenario(Mine())
    found = explain(case)
    check_sums(found, case)
    assert found.record.method == "mine" and {change for _, change in found.waterfall} == {0}


def test_the_document_gives_the_same_bytes() -> None:
    one, other = (explained(get_method("galore"), depth=3) for _ in range(2))
    assert one.document({}, "said") == other.document({}, "said")
