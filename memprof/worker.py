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
    from memprof.runner import CellError, guarded_measure, scenario_from_dict

    request = json.load(sys.stdin)
    try:
        measured = guarded_measure(scenario_from_dict(request["scenario"]), request["steps"])
        answer: dict[str, Any] = {"measured": dataclasses.asdict(measured)}
    except CellError as error:
        answer = {"status": error.status, "reason": str(error)}
    json.dump(answer, answer_to)
    answer_to.close()


if __name__ == "__main__":
    main()
