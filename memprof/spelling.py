"""A method and its settings as the command line takes them. Whatever is to be typed again is written here."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def spell_method(name: str, hyperparameters: Mapping[str, object], given: Collection[str]) -> str:
    """`galore:rank=64,per_layer=true`: with its rank, and with what is `given`, not at its default."""
    ranked = ["rank"] if hyperparameters.get("rank") is not None else []
    shown = [setting for setting in (*ranked, *given) if setting in hyperparameters]
    fields = ",".join(f"{setting}={spell_value(hyperparameters[setting])}" for setting in shown)
    return f"{name}:{fields}" if fields else name


def spell_value(value: object) -> str:
    """`0.9/0.999`, `true`, `none`."""
    if isinstance(value, list | tuple):
        return "/".join(map(spell_value, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
