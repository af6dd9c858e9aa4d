"""How many processes the kernel's out-of-memory killer has ended: whether it was the one that killed a child.

A child lives in the control group of the process that started it. That group's own counter is the closest witness;
where it has none (the root group, a mount that hides it) the machine's counter stands in. Files are only read.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
MAX_BYTES = 2**16
_COUNT = re.compile(r"^oom_kill (\d{1,18})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OomKills:
    """The count and the file that says it; None where no file does."""

    count: int | None
    source: str = ""

    def since(self, before: OomKills) -> int | None:
        """Processes killed since then; None where nobody counted, or another counter was read then."""
        if self.count is None or before.count is None or self.source != before.source:
            return None
        return self.count - before.count


def oom_kills(proc: Path = PROC, cgroups: Path = CGROUPS) -> OomKills:
    """As the kernel counts them now: memory.events of control groups v2, memory.oom_control of v1, or /proc/vmstat.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files; v1 has the same line in another file.
    """
    for file in [*_own_files(proc, cgroups), proc / "vmstat"]:
        match = _COUNT.search(_text(file))
        if match:
            return OomKills(int(match[1]), file.name)
    return OomKills(None)


def _own_files(proc: Path, cgroups: Path) -> list[Path]:
    """This process's own files, in every place where they are usually mounted. Lines are `4:memory:/user.slice`."""
    found = []
    for line in _text(proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        group = path.lstrip("/")
        if number == "0" and not controllers:
            found += [root / group / "memory.events" for root in (cgroups, cgroups / "unified")]
        elif "memory" in controllers.split(","):
            found.append(cgroups / controllers / group / "memory.oom_control")
    return found


def _text(file: Path) -> str:
    with suppress(OSError), file.open("rb") as opened:
        return opened.read(MAX_BYTES).decode(errors="replace")
    return ""
