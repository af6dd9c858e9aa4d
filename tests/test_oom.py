"""Who killed a child: the kernel's counters in files of our own making, in every form that a kernel gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from memprof.oom import OomKills, oom_kills

EVENTS = "low 0\nhigh 7\nmax 9\noom 4\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
VMSTAT = "nr_free_pages 100\noom_kill {}\nnuma_hit 5\n"


def machine(folder: Path, cgroup: str, **files: str) -> OomKills:
    """Ask a machine with this /proc/self/cgroup and these files: `__` in a name parts folders."""
    for name, text in {"proc__self__cgroup": cgroup, **files}.items():
        *folders, last = name.split("__")
        file = folder.joinpath(*folders, last.replace("_dot_", "."))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return oom_kills(folder / "proc", folder / "sys")


@pytest.mark.parametrize(
    ("cgroup", "files", "found"),
    [
        ("0::/user.slice/job\n", {"sys__user.slice__job__memory_dot_events": EVENTS.format(3)}, (3, "memory.events")),
        ("0::/\n", {"sys__memory_dot_events": EVENTS.format(0)}, (0, "memory.events")),
        ("1:cpu:/\n0::/a\n", {"sys__unified__a__memory_dot_events": EVENTS.format(2)}, (2, "memory.events")),
        (
            "4:memory:/a\n0::/\n",
            {"sys__memory__a__memory_dot_oom_control": CONTROL.format(5)},
            (5, "memory.oom_control"),
        ),
        ("0::/\n", {"proc__vmstat": VMSTAT.format(8)}, (8, "vmstat")),
        (
            "0::/a\n",
            {"sys__a__memory_dot_events": EVENTS.format(1), "proc__vmstat": VMSTAT.format(8)},
            (1, "memory.events"),
        ),
        ("0::/a\n", {"sys__a__memory_dot_events": "oom_kill many\n"}, (None, "")),
        ("4:memoryless:/a\n", {"sys__memory__a__memory_dot_oom_control": CONTROL.format(5)}, (None, "")),
        ("rubbish\n\x00", {}, (None, "")),
    ],
)
def test_the_closest_counter_is_read(
    tmp_path: Path, cgroup: str, files: dict[str, str], found: tuple[int | None, str]
) -> None:
    assert machine(tmp_path, cgroup, **files) == OomKills(*found)


def test_the_count_of_one_process_by_hand() -> None:
    before = OomKills(3, "memory.events")
    assert OomKills(4, "memory.events").since(before) == 1 and before.since(before) == 0
    assert OomKills(4, "vmstat").since(before) is None
    assert OomKills(None).since(before) is None and before.since(OomKills(None)) is None


def test_this_machine_is_asked_without_an_error() -> None:
    found = oom_kills()
    assert (found.count is None) == (found.source == "")
