"""One line of the fault table: a fault, what it cost, what was said, and what had to be."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the fault table. None is a figure that the fault has no place for."""

    fault: str
    before: int | None = None
    lost: int | None = None
    children: int | None = None
    code: int | None = None
    message: str = ""
    wanted: int | None = None
    """the exit code that is right"""
    says: str = ""
    """how the right message begins, as a regular expression"""
    skipped: bool = False

    @property
    def is_bad(self) -> bool:
        """Whether a record was lost, a process was left, or the program ended or spoke otherwise than it should."""
        if self.skipped:
            return False
        return bool(self.lost or self.children or self.code != self.wanted or not re.match(self.says, self.message))
