"""`memprof doctor`: what this machine can measure, and why not."""

from __future__ import annotations


def doctor() -> None:
    """What this machine has, and what can be measured here."""
    from memprof.cli.listing import print_listing
    from memprof.doctor import findings

    print_listing(("What", "Finding"), findings(), text_columns=(0, 1))
