"""A question to a worker process and its answer: bounded in time and in size, and nothing of it is trusted."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

from memprof.interrupt import held

MAX_ANSWER = 2**20
"""bytes of a child's answer; a real one has about 2,000"""
MAX_REASON = 300
NO_ANSWER = "the measuring process gave no usable answer"


class CellError(Exception):
    """A cell that ended otherwise than well: its status and the reason, in one line."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def one_line(text: str) -> str:
    return " ".join(text.split())[:MAX_REASON]


def ask_child(request: Mapping[str, Any], timeout: float) -> tuple[bytes, int, str]:
    """A worker's answer to one request, its exit code and the last line it said on standard error.

    The child is told whose it is, so that it can end itself where this process dies without a word.
    """
    with tempfile.TemporaryFile() as errors, ExitStack() as ending:
        with held():  # a signal between its start and our knowing of it would leave it alone
            child = ending.enter_context(_start(errors))
            ending.callback(child.kill)
        try:
            answer = _talk(child, json.dumps(request).encode(), time.monotonic() + timeout)
        except (subprocess.TimeoutExpired, TimeoutError):
            raise CellError("timeout", f"no answer within {timeout:g} s; give it longer with --timeout") from None
        return answer, child.returncode, _tail(errors)


def _start(errors: BinaryIO) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "memprof.worker", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=os.environ | {"PYTHONPATH": path},
    )


def _talk(child: subprocess.Popen[bytes], request: bytes, deadline: float) -> bytes:
    """Ask, then listen until the child is gone; no more is kept of what it says than an answer can have."""
    assert child.stdin is not None and child.stdout is not None
    with suppress(BrokenPipeError), child.stdin:  # a child that is gone already shows in its exit code
        child.stdin.write(request)
    answer = b""
    with selectors.DefaultSelector() as output:
        output.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not output.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            part = os.read(child.stdout.fileno(), 2**16)
            answer += part
            if len(answer) > MAX_ANSWER:
                raise CellError("crashed", NO_ANSWER)
            if not part:
                child.wait(max(0.0, deadline - time.monotonic()))
                return answer


def _tail(errors: BinaryIO) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 4096))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
