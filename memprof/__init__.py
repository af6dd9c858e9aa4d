"""memprof: what a way of training a model costs in memory and speed, and why."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memprof.api import compare, profile
    from memprof.catalogue import get_method
    from memprof.ledger import Ledger
    from memprof.llama import build_model

__all__ = ["Ledger", "build_model", "compare", "get_method", "profile"]

_HOME = {
    "Ledger": "memprof.ledger",
    "build_model": "memprof.llama",
    "compare": "memprof.api",
    "get_method": "memprof.catalogue",
    "profile": "memprof.api",
}


def __getattr__(name: str) -> Any:
    """Public names load on first use, so that `memprof --help` never waits for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'memprof' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
