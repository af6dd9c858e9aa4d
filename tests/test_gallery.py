"""The gallery can be made again: its command runs, and makes the files that are committed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from benchmarks.gallery import main
from memprof.interrupt import SIGNALS

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "reports" / "gallery"


def test_the_gallerys_command_makes_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small model, of the same names, and with a README that shows every chart."""
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr("sys.argv", ["gallery"])
    monkeypatch.chdir(ROOT)
    try:
        main(["-o", str(tmp_path), "--small"])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    made = {file.name for file in tmp_path.iterdir()}
    assert made == {file.name for file in COMMITTED.iterdir()}
    shown = (COMMITTED / "README.md").read_text()
    assert all(f"]({name})" in shown for name in made - {"README.md"})
    assert all((tmp_path / name).stat().st_size > 1000 for name in made - {"README.md"})
