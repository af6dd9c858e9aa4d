"""A measuring process that does as it is told for one method, and for all others is the real one."""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """#!{python}
import os, sys
*options, start, root, parent = sys.argv[1:]
os.execv({python!r}, [{python!r}, *options, start.replace("main()\\n", {before!r} + "main()\\n"), root, parent])
"""
BEFORE = """
import io, os, time
request = sys.stdin.read()
sys.stdin = io.StringIO(request)
if '"method": "{method}"' in request:
    {does}
"""
RUBBISH = {
    "random bytes": "os.write(1, os.urandom(5000)); sys.exit()",
    "half a JSON document": "print('{" + '"measured": {"param": 1, ' + "'); sys.exit()",
    "a figure that is no number": "print('" + '{"measured": {"param": NaN}}' + "'); sys.exit()",
    "bytes without end": "\n    while True: os.write(1, b'x' * 65536)",
}
EVENTS = "memory.events"


def never_ends(ready: Path) -> str:
    """A cell whose steps take longer than anybody waits, in the real program up to there; then `ready` is there."""
    return f"""
    import memprof.runner
    memprof.runner.guarded_measure = lambda *_: (open({str(ready)!r}, "w").close(), time.sleep(600))
"""


def kernels_killer(events: Path) -> str:
    """What the kernel's killer does, as a process sees it: the group's count grows and signal 9 comes."""
    return f"""
    with open({str(events)!r}, "w") as file:
        file.write("oom_kill 1\\n")
    os.kill(os.getpid(), 9)"""


def stand_in(file: Path, method: str, does: str) -> Path:
    """A program to be used in Python's place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    before = BEFORE.format(method=method, does=does)
    file.write_text(PROGRAM.format(python=sys.executable, before=before))
    file.chmod(0o755)
    return file


def use(python: Path) -> None:
    """In the process that is memprof: start this one to measure."""
    sys.executable = str(python)
