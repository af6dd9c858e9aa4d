"""`memprof methods`: what there is, and one method's card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from memprof.method import Method

_MODEL, _BF16 = "1b", 2


def methods(
    name: Annotated[str | None, typer.Argument(help="Show this method's card: paper, pitfalls, fields.")] = None,
) -> None:
    """The methods, or one method's card."""
    from memprof.catalogue import METHODS, get_method
    from memprof.cli.listing import print_listing

    if name is None:
        rows = [(method.name, _first_line(method), method.paper) for method in METHODS.values()]
        print_listing(("Method", "What it is", "Paper"), rows, text_columns=(0, 1, 2))
        return
    asked = get_method(name)
    method = type(asked)
    typer.echo(f"{method.name}  ({method.paper})\n\n{_module_doc(method)}\n")
    typer.echo(f"Treats: {method.treats}.\n\nMemory of one weight:\n{_formula_doc(method)}\n\n{_example(asked)}\n")
    print_listing(("Field", "Type", "Default", "In papers", "What it is"), _fields(method), text_columns=range(5))


def _module_doc(method: type) -> str:
    import sys

    return (sys.modules[method.__module__].__doc__ or "").strip()


def _formula_doc(method: type[Method]) -> str:
    import inspect
    import textwrap

    return textwrap.indent(inspect.getdoc(method.formula) or "", "  ")


def _example(method: Method) -> str:
    """What the formula sums up to on one model."""
    from memprof.shapes import get_shape

    weights = get_shape(_MODEL).weights(_BF16)
    bound = method.bind(weights)
    costs = [bound.formula(weight) for weight in weights]
    grad = 0 if bound.updates == "backward" else sum(cost.grad for cost in costs)
    state = sum(cost.optimizer_state for cost in costs) + bound.shared()
    sums = {"weights": sum(cost.param for cost in costs), "gradients": grad, "optimizer state": state}
    said = ", ".join(f"{what} {_size(nbytes)} GiB" for what, nbytes in sums.items())
    values = bound.hyperparameters()
    settings = [f"{key}={_written(values[key])}" for key in ("rank", *bound.given()) if key in values]
    scenario = ", ".join([f"On {_MODEL} in bf16", *(["with " + ", ".join(settings)] if settings else [])])
    return f"{scenario}: {said}."


def _size(nbytes: int) -> str:
    from memprof.units import format_size

    return "<0.01" if 0 < nbytes < 2**30 / 200 else format_size(nbytes)


def _first_line(method: type) -> str:
    """The module's title without the method's own name."""
    title = _module_doc(method).splitlines()[0]
    return title.partition(": ")[2].rstrip(".") or title


def _fields(method: type) -> list[tuple[str, str, str, str, str]]:
    import dataclasses

    from memprof.setting import allowed, field_types

    rows = []
    for spec, hint in zip(dataclasses.fields(method), field_types(method).values(), strict=True):
        what = f"{spec.metadata['help']}; {allowed(spec)}"
        papers = spec.metadata.get("papers", "")
        rows.append((spec.name, _type_name(hint), _written(spec.default), papers, what))
    return rows


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)


def _written(value: object) -> str:
    """A default as `--method name:key=...` takes it."""
    if isinstance(value, tuple):
        return "/".join(str(part) for part in value)
    return "none" if value is None else str(value)
