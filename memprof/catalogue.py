"""Names to methods. The list is explicit: a method enters it, and so the common battery of tests, by being in it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable

from memprof.errors import MemprofError, shown
from memprof.method import Method
from memprof.methods.adafactor import Adafactor
from memprof.methods.adam_mini import AdamMini
from memprof.methods.adamem import AdaMeM
from memprof.methods.adamw import AdamW
from memprof.methods.adamw_8bit import AdamW8bit
from memprof.methods.apollo import Apollo, ApolloMini
from memprof.methods.came import CAME
from memprof.methods.dora import DoRA
from memprof.methods.fira import Fira
from memprof.methods.flora import Flora
from memprof.methods.galore import GaLore
from memprof.methods.galore_dynamics import GaLoreDynamics
from memprof.methods.galore_ef import GaLoreDynamicsEF, GaLoreEF
from memprof.methods.galore_mini import GaLoreMini
from memprof.methods.grass import Grass
from memprof.methods.lion import Lion
from memprof.methods.loqt import LoQT
from memprof.methods.lora import LoRA
from memprof.methods.low_rank import LowRank
from memprof.methods.microadam import MicroAdam
from memprof.methods.mora import MoRA
from memprof.methods.muon import Muon
from memprof.methods.pissa import PiSSA
from memprof.methods.q_galore import QGaLore
from memprof.methods.redora import ReDoRA
from memprof.methods.reloqra import ReLoQRa
from memprof.methods.relora import ReLoRA
from memprof.methods.remora import ReMoRA
from memprof.methods.repissa import RePiSSA
from memprof.methods.sgd import SGD
from memprof.methods.sltrain import SLTrain
from memprof.setting import allowed, field_types, is_optional

_CORE: tuple[type[Method], ...] = (AdamW, Adafactor, AdamMini, GaLore, GaLoreMini, LowRank, LoRA, ReLoRA)
_MORE: tuple[type[Method], ...] = (
    AdamW8bit,
    SGD,
    Lion,
    CAME,
    Muon,
    DoRA,
    PiSSA,
    ReDoRA,
    RePiSSA,
    ReLoQRa,
    MoRA,
    ReMoRA,
    SLTrain,
    LoQT,
    GaLoreDynamics,
    GaLoreEF,
    GaLoreDynamicsEF,
    QGaLore,
    Flora,
    Grass,
    MicroAdam,
    AdaMeM,
    Apollo,
    ApolloMini,
    Fira,
)
METHODS: dict[str, type[Method]] = {method.name: method for method in (*_CORE, *_MORE)}
CORE = tuple(method.name for method in _CORE)
"""What `memprof compare` shows unless asked otherwise."""


def get_method(spec: str | Method, **hyperparameters: object) -> Method:
    """A method from "galore", from "galore:rank=128,update_gap=50", or with keyword arguments; a Method as it is."""
    if isinstance(spec, Method):
        _check_known(type(spec), hyperparameters)
        return dataclasses.replace(spec, **hyperparameters)
    if not isinstance(spec, str):
        raise MemprofError(_no_method(spec))
    name, _, text = spec.partition(":")
    if name not in METHODS:
        raise MemprofError(f"unknown method {shown(repr(name))}; choose from {', '.join(METHODS)}")
    method = METHODS[name]
    _check_known(method, hyperparameters)
    return method(**{**_parse_fields(method, text), **hyperparameters})


def _no_method(spec: object) -> str:
    if isinstance(spec, type) and issubclass(spec, Method):
        return f"{spec.__name__} is a class; give an object of it: {spec.__name__}()"
    return f"a method is a name or a Method object, not {shown(repr(spec))}"


def _check_known(method: type[Method], fields: Iterable[str]) -> None:
    known = [spec.name for spec in dataclasses.fields(method)]
    for field in fields:
        if field not in known:
            raise MemprofError(f"{method.name}: unknown field {shown(repr(field))}; choose from {', '.join(known)}")


def _parse_fields(method: type[Method], text: str) -> dict[str, object]:
    fields: dict[str, object] = {}
    hints = field_types(method)
    specs = {spec.name: spec for spec in dataclasses.fields(method)}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals:
            first = next(iter(hints))
            raise MemprofError(f"{method.name}: {shown(repr(part))} is not key=value; write {method.name}:{first}=...")
        _check_known(method, [key])
        try:
            fields[key] = _parse_value(value.strip(), hints[key])
        except ValueError:
            fact = f"{method.name}: {key}={shown(value)} does not fit"
            raise MemprofError(f"{fact}; it must be {allowed(specs[key])}") from None
    return fields


def _parse_value(text: str, hint: typing.Any) -> object:
    """`text` as the field's type; tuples are written 0.9/0.999, None as none."""
    if is_optional(hint):
        return None if text.lower() == "none" else _parse_value(text, typing.get_args(hint)[0])
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if typing.get_origin(hint) is tuple:
        parts = text.split("/")
        types = typing.get_args(hint)
        if len(parts) != len(types):
            raise ValueError(text)
        return tuple(kind(part) for kind, part in zip(types, parts, strict=True))
    return hint(text)
