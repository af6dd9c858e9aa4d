"""The formula: a whole step in closed form. Sums a method's own footprints over a model; makes no tensor."""

from __future__ import annotations

from memprof.instants import LayerCosts, ModelCosts, activation_bytes, backward_walk
from memprof.method import Footprint, Method, Role, Weight, groups
from memprof.record import Formula
from memprof.scenario import Scenario
from memprof.timeline import EXTRA, OPTIMIZER, OPTIMIZER_STATE, PARAM, REFRESH
from memprof.walk import Instant


def formula(scenario: Scenario) -> Formula:
    """What the scenario's step costs by the method's formula and the model's closed forms."""
    weights = scenario.weights()
    method = scenario.method.bind(weights)
    costs = [method.formula(weight) for weight in weights]
    held = {
        PARAM: sum(cost.param for cost in costs),
        OPTIMIZER_STATE: sum(cost.optimizer_state for cost in costs) + method.shared(),
    }
    laid_out = lay_out(weights, costs)
    scratch = update_scratch(method, weights, costs)
    worst = _worst(scenario, held, laid_out, scratch, OPTIMIZER)
    activation = activation_bytes(scenario, laid_out.layers)
    grad = 0 if method.updates == "backward" else sum(cost.grad for cost in costs)
    return Formula(
        param=held[PARAM],
        grad=grad,
        optimizer_state=held[OPTIMIZER_STATE],
        activation=activation,
        extra=worst.by_category[EXTRA],
        peak=worst.nbytes,
        peak_phase=worst.phase,
        peak_by_category=worst.by_category,
        peak_at=worst.name,
        steady=sum(held.values()),
        refresh_peak=_refresh_peak(scenario, held, laid_out, scratch, costs),
        total=sum(held.values()) + grad + activation + max(weight.nbytes for weight in weights),
    )


def lay_out(weights: list[Weight], costs: list[Footprint]) -> ModelCosts:
    """Footprints by their place in the model."""
    layers: dict[str, LayerCosts] = {}
    single: dict[str, Footprint] = {}
    for weight, cost in zip(weights, costs, strict=True):
        parts = weight.name.split(".")
        if parts[1] == "layers":
            layers.setdefault(parts[2], {})[weight.role] = cost
        else:
            single[weight.role] = cost
    return ModelCosts(single[Role.EMBED], list(layers.values()), single[Role.NORM], single.get(Role.HEAD))


def update_scratch(method: Method, weights: list[Weight], costs: list[Footprint]) -> int:
    """Most bytes of scratch in the step's update: of one weight, or of a group that the method updates together."""
    if method.updates == "backward":
        return 0
    scratch = [(w, cost.transient) for w, cost in zip(weights, costs, strict=True) if cost.transient]
    limit = method.scratch_limit(weights)
    cut = groups(scratch, lambda item: item[1], limit, lambda item: method.update_kind(item[0]))
    together = (method.scratch_together([weight for weight, _ in group]) for group in cut)
    return max(together, default=0) + method.update_scalars


def _worst(scenario: Scenario, held: dict[str, int], costs: ModelCosts, scratch: int, phase: str) -> Instant:
    refreshing = phase == REFRESH
    walk = backward_walk(scenario, held, costs, refreshing)
    walk.phase = phase
    walk.passing("update", scratch)
    if not refreshing or scenario.accumulation == 1:
        return walk.worst
    first = backward_walk(scenario, held, costs, refreshing, first=True)  # a layer's refresh may be in its backward
    return max(walk.worst, first.worst, key=lambda instant: instant.nbytes)


def _refresh_peak(
    scenario: Scenario, held: dict[str, int], laid_out: ModelCosts, scratch: int, costs: list[Footprint]
) -> int | None:
    if not scenario.method.is_periodic:
        return None
    refresh = 0 if scenario.method.updates == "backward" else max(cost.refresh for cost in costs)
    return _worst(scenario, held, laid_out, max(refresh, scratch), REFRESH).nbytes
