"""What goes wrong where a cell runs, told apart: out of memory, not possible here, or anything else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from memprof.child import CellError, one_line
from memprof.errors import MemprofError, UnsupportedError
from memprof.scenario import Scenario

NO_ROOM = ("can't allocate memory", "out of memory", "_alloc_failed")
"""how torch says so where it has no `OutOfMemoryError`: its CPU allocator, a CUDA call, cuBLAS and cuSOLVER"""


@contextmanager
def cell_errors() -> Iterator[None]:
    """Whatever goes wrong inside raises `CellError`, except bad usage."""
    try:
        yield
    except CellError:
        raise
    except torch.OutOfMemoryError as error:
        raise CellError("oom", one_line(str(error))) from None
    except MemoryError:
        raise CellError("oom", "the host has no memory left") from None
    except RuntimeError as error:
        status = "oom" if any(words in str(error).lower() for words in NO_ROOM) else "crashed"
        raise CellError(status, one_line(str(error))) from None
    except UnsupportedError as error:
        raise CellError("unsupported", one_line(str(error))) from None
    except MemprofError:
        raise
    except Exception as error:
        raise CellError("crashed", one_line(f"{type(error).__name__}: {error}")) from None


def read_text_of(scenario: Scenario) -> None:
    """Have the text in memory before anything is measured, and be sure that it is the one that the scenario names."""
    try:
        if scenario.text is not None:
            scenario.text.content()
    except MemprofError as error:
        raise CellError("crashed", one_line(str(error))) from None
