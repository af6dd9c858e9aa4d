"""The process in which one cell is measured. Reads a request from standard input, answers on standard output.

It never outlives the process that asked: `python -m memprof.worker PARENT` ends when PARENT does, however that ends.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""
OOM_SCORE = Path("/proc/self/oom_score_adj")


def main() -> None:
    """Answer one request. Whatever libraries print goes to standard error, so that the answer stands alone."""
    if len(sys.argv) > 1:
        depend_on(int(sys.argv[1]))
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with answer_to:
        json.dump(answer(json.load(sys.stdin)), answer_to)


def depend_on(parent: int) -> None:
    """Die with the parent, before it when memory runs out, and leave Ctrl-C to it: it decides what becomes of us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(AttributeError):  # prctl is Linux's alone
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before we asked
        sys.exit(1)
    with suppress(OSError):
        OOM_SCORE.write_text("1000")


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a device is, how fast scenarios are there, or what one takes of its memory."""
    from memprof.child import CellError
    from memprof.device import get_device
    from memprof.headroom import Headroom
    from memprof.race.serve import serve
    from memprof.request import scenario_from_dict
    from memprof.runner import guarded_measure

    if "describe" in request:
        return {"described": get_device(request["describe"]).describe()}
    try:
        if "race" in request:
            return serve(request["race"])
        scenario = scenario_from_dict(request["scenario"], request.get("text"))
        headroom = Headroom(**request["headroom"])
        history = None if request.get("history") is None else Path(request["history"])
        return {"measured": dataclasses.asdict(guarded_measure(scenario, headroom, history))}
    except CellError as error:
        return {"status": error.status, "reason": str(error)}


if __name__ == "__main__":
    main()
