"""The process in which one cell is measured. Reads a request from standard input, answers on standard output."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any


def main() -> None:
    """Answer one request. Whatever libraries print goes to standard error, so that the answer stands alone."""
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with answer_to:
        json.dump(answer(json.load(sys.stdin)), answer_to)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a device is, or what a scenario costs on it."""
    from memprof.device import get_device
    from memprof.runner import CellError, guarded_measure, scenario_from_dict

    if "describe" in request:
        return {"described": get_device(request["describe"]).describe()}
    try:
        measured = guarded_measure(scenario_from_dict(request["scenario"]), request["steps"])
        return {"measured": dataclasses.asdict(measured)}
    except CellError as error:
        return {"status": error.status, "reason": str(error)}


if __name__ == "__main__":
    main()
