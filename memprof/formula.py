"""The formula: a whole step in closed form. Sums a method's own footprints over a model; makes no tensor."""

from __future__ import annotations

from memprof.counting import Counting, get_counting, sequence_activation
from memprof.instants import LayerCosts, ModelCosts, activation_bytes, backward_walk
from memprof.method import Footprint, Method, Role, Weight, groups
from memprof.record import NO_PHASE, Formula
from memprof.scenario import Scenario
from memprof.timeline import ACTIVATION, EXTRA, GRAD, OPTIMIZER, OPTIMIZER_STATE, PARAM, REFRESH
from memprof.walk import Instant


def formula(scenario: Scenario, counting: Counting | None = None) -> Formula:
    """What the scenario's step costs by the method's formula and the model's closed forms, by the scenario's counting
    or another one."""
    counting = get_counting(scenario.counting) if counting is None else counting
    weights = scenario.weights()
    method = scenario.method.bind(weights)
    costs = [method.formula(weight) for weight in weights]
    counted = {
        PARAM: counting.param(list(zip(weights, costs, strict=True))),
        GRAD: 0 if method.updates == "backward" or counting.grads == "none" else sum(cost.grad for cost in costs),
        OPTIMIZER_STATE: sum(map(counting.state, costs)) + method.shared(),
    }
    if counting.sums:
        return _sum(scenario, counting, weights, costs, counted)
    return _step(scenario, method, weights, costs, counted)


def _step(
    scenario: Scenario, method: Method, weights: list[Weight], costs: list[Footprint], counted: dict[str, int]
) -> Formula:
    """The real step: what each phase leaves, and its worst instant."""
    held = {PARAM: counted[PARAM], OPTIMIZER_STATE: counted[OPTIMIZER_STATE]}
    laid_out = lay_out(weights, costs)
    scratch = update_scratch(method, weights, costs)
    worst = _worst(scenario, held, laid_out, scratch, OPTIMIZER)
    activation = activation_bytes(scenario, laid_out)
    return Formula(
        **counted,
        activation=activation,
        extra=worst.by_category[EXTRA],
        peak=worst.nbytes,
        peak_phase=worst.phase,
        peak_by_category=worst.by_category,
        peak_at=worst.name,
        steady=sum(held.values()),
        refresh_peak=_refresh_peak(scenario, held, laid_out, scratch, costs),
        total=sum(counted.values()) + activation + max(weight.nbytes for weight in weights),
    )


def _sum(
    scenario: Scenario, counting: Counting, weights: list[Weight], costs: list[Footprint], counted: dict[str, int]
) -> Formula:
    """A paper's accounting: categories counted its way and added up, which stands where a peak would."""
    largest = max(weight.nbytes for weight in weights) if counting.largest_tensor else 0
    activation = _counted_activation(scenario, counting, lay_out(weights, costs))
    counted = counted | {ACTIVATION: activation, EXTRA: largest}
    total = sum(counted.values())
    return Formula(
        **counted,
        peak=total,
        peak_phase=NO_PHASE,
        peak_by_category=counted,
        peak_at="a sum over categories, no instant",
        steady=counted[PARAM] + counted[OPTIMIZER_STATE],
        total=total,
    )


def _counted_activation(scenario: Scenario, counting: Counting, costs: ModelCosts) -> int:
    if counting.activation == "kept":
        return activation_bytes(scenario, costs)
    return (
        sequence_activation(scenario.shape, scenario.seq_len, scenario.itemsize)
        if counting.activation == "one sequence"
        else 0
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


def clip_bytes(costs: ModelCosts, itemsize: int) -> int:
    """Of torch's `clip_grad_norm_`: a norm () of each gradient + all norms, stacked + the norm of those ()."""
    return (2 * costs.gradients + 1) * itemsize


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
    if scenario.clip_grad_norm is not None:
        walk.passing("gradients clipped", clip_bytes(costs, scenario.itemsize))
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
