"""A question to a worker process and its answer: bounded in time and in size, and nothing of it is trusted."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memprof.interrupt import held
from memprof.oom import OomKills, oom_kills
from memprof.record import STATUSES

MAX_ANSWER = 2**20
"""bytes of a child's answer; a real one has about 2,000"""
MAX_SAID = 2**16
"""bytes that are kept of what a child says on standard error: its end"""
MAX_REASON = 300
PIPE = 2**16
"""bytes that a pipe holds; so one read after its death has all that a child left there"""
TICK, SOON = 1.0, 0.05
"""seconds between looks at whether a child is gone: where its pipe should tell, and where it has closed it"""
NOT_COUNTED = OomKills(None)
NO_ANSWER = "the measuring process gave no usable answer"
START = """
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
spec = PathFinder.find_spec("memprof", [sys.argv.pop(1)])
sys.modules["memprof"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from memprof.worker import main
main()
"""
"""starts a worker of this very package and puts no folder on the path: neither the current one, whose `types.py` would
hide Python's, nor the one in which memprof is installed, which belongs after Python's own"""
QUOTED_PATH = re.compile(r"(['\"])~?/[^'\"]*/(?=[^'\"/]*\1)")
PATH = re.compile(r"(?:(?<![\w./])|(?<=file://))~?(?:/[^\s/'\":]+)+/")


class CellError(Exception):
    """A cell that ended otherwise than well: its status and the reason, in one line."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def one_line(text: str) -> str:
    """What others said, as a record may keep it: short, and without the folders of this machine."""
    line = " ".join(text.split())[: 10 * MAX_REASON]
    home = re.escape(str(Path("~").expanduser()))
    line = re.sub(rf"(?<![\w./]){home}(?![\w.-])", "~", line) if len(home) > 1 else line
    return PATH.sub(".../", QUOTED_PATH.sub(r"\1.../", line))[:MAX_REASON]


@dataclass(frozen=True, slots=True)
class Reply:
    """What is left of a child that is gone."""

    answer: bytes
    code: int
    """its exit code; below 0 the signal that ended it"""
    said: bytes = b""
    """the end of what it wrote on standard error"""
    oom_before: OomKills = NOT_COUNTED
    oom_after: OomKills = NOT_COUNTED

    @property
    def last_words(self) -> str:
        lines = self.said.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def ask_child(request: Mapping[str, Any], timeout: float, most: int = MAX_ANSWER) -> Reply:
    """A worker's answer to one request, at most so many bytes, and how it ended.

    The child is told whose it is, so that it can end itself where this process dies without a word.
    """
    before = oom_kills()
    with ExitStack() as ending:
        with held():  # a signal between its start and our knowing of it would leave it alone
            child = ending.enter_context(_start())
            ending.callback(child.kill)
        try:
            answer, said = _talk(child, json.dumps(request).encode(), time.monotonic() + timeout, most)
        except TimeoutError:
            raise CellError("timeout", f"no answer within {timeout:g} s; give it longer with --timeout") from None
        return Reply(answer, child.returncode, said, before, oom_kills())


def _start() -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parent.parent)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", START, root, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _talk(child: subprocess.Popen[bytes], request: bytes, deadline: float, most: int) -> tuple[bytes, bytes]:
    """Ask, then listen until the child is gone: its answer, and the end of what it said beside it.

    A pipe's end is not waited for: a process that the child started may hold it open.
    """
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    with suppress(BrokenPipeError), child.stdin:  # a child that is gone already shows in its exit code
        child.stdin.write(request)
    out, err = child.stdout.fileno(), child.stderr.fileno()
    heard = {out: b"", err: b""}
    with selectors.DefaultSelector() as pipes:
        for pipe in heard:
            pipes.register(pipe, selectors.EVENT_READ)
        while child.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            _listen(pipes, heard, out, min(left, TICK if out in pipes.get_map() else SOON), most)
        _listen(pipes, heard, out, 0, most)
    return heard[out], heard[err]


def _listen(pipes: selectors.BaseSelector, heard: dict[int, bytes], out: int, patience: float, most: int) -> None:
    """Read once what there is; no more is kept than an answer can have, and of the rest its end."""
    for key, _ in pipes.select(patience):
        part = os.read(key.fd, PIPE)
        if not part:
            pipes.unregister(key.fd)
        heard[key.fd] += part
        if key.fd != out:
            heard[key.fd] = heard[key.fd][-MAX_SAID:]
        elif len(heard[out]) > most:
            raise CellError("crashed", NO_ANSWER)


def data_of(reply: Reply, most: int = MAX_ANSWER) -> dict[str, Any]:
    """What a child answered, still to be checked; `CellError` where it died, or says itself what went wrong."""
    if reply.code == -signal.SIGKILL:
        raise _killed(reply.oom_before, reply.oom_after)
    if reply.code < 0:
        raise CellError("crashed", f"the measuring process died of signal {-reply.code}")
    if reply.code != 0:
        raise CellError("crashed", one_line(f"the measuring process failed (exit {reply.code}): {reply.last_words}"))
    try:
        if len(reply.answer) > most:
            raise ValueError("too long")
        data = dict(json.loads(reply.answer))
        if data.get("status") in STATUSES[1:]:
            raise CellError(data["status"], one_line(str(data["reason"])))
        return data
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CellError("crashed", NO_ANSWER) from None


def _killed(before: OomKills, after: OomKills) -> CellError:
    """By the kernel for memory, or by somebody else: its count tells. Where there is none, memory is likeliest."""
    killed = after.since(before)
    if killed is None:
        why = "perhaps by the kernel's out-of-memory killer; nothing here counts its kills"
        return CellError("oom", f"the measuring process was killed by signal 9, {why}")
    if killed <= 0:
        why = "though the kernel counted no out-of-memory kill: a job scheduler's limit, or somebody else's doing"
        return CellError("crashed", f"the measuring process was killed by signal 9, {why}")
    counter = f"oom_kill in {after.source} went from {before.count} to {after.count}"
    return CellError("oom", f"the measuring process was killed by the kernel's out-of-memory killer ({counter})")
