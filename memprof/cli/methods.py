"""`memprof methods`: what there is, and one method's card."""

from __future__ import annotations

from typing import Annotated, Any

import typer


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
    method = type(get_method(name))
    typer.echo(f"{method.name}  ({method.paper})\n\n{_module_doc(method)}\n")
    print_listing(("Field", "Type", "Default", "What it is"), _fields(method), text_columns=(0, 1, 2, 3))


def _module_doc(method: type) -> str:
    import sys

    return (sys.modules[method.__module__].__doc__ or "").strip()


def _first_line(method: type) -> str:
    """The module's title without the method's own name."""
    title = _module_doc(method).splitlines()[0]
    return title.partition(": ")[2].rstrip(".") or title


def _fields(method: type) -> list[tuple[str, str, str, str]]:
    import dataclasses

    from memprof.setting import allowed, field_types

    rows = []
    for spec, hint in zip(dataclasses.fields(method), field_types(method).values(), strict=True):
        rows.append((spec.name, _type_name(hint), _written(spec.default), f"{spec.metadata['help']}; {allowed(spec)}"))
    return rows


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)


def _written(value: object) -> str:
    """A default as `--method name:key=...` takes it."""
    if isinstance(value, tuple):
        return "/".join(str(part) for part in value)
    return "none" if value is None else str(value)
