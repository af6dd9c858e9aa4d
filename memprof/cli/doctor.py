"""`memprof doctor`: what this machine can measure, and why not; how fast it copies and multiplies."""

from __future__ import annotations

from typing import Annotated

import typer

from memprof.errors import MemprofError


def doctor(
    ceilings: Annotated[bool, typer.Option("--ceilings", help="Measure what the device copies and multiplies a second: a second or two.")] = False,  # noqa: E501
    device: Annotated[str | None, typer.Option(help="Where to measure that: cuda or cpu. [default: cuda where it is there]")] = None,  # noqa: E501
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:  # fmt: skip
    """What this machine has, and what can be measured here."""
    from memprof.doctor import findings

    if device is not None and not ceilings:
        raise MemprofError("--device says where ceilings are measured; add --ceilings")
    appraisal = None
    if ceilings:
        from memprof.bounds.appraisal import appraise, choose

        appraisal = appraise(choose(device))
    if json:
        from memprof.doctor import document

        print(document(findings(), appraisal))
        return
    from memprof.cli.listing import print_listing, print_paragraphs

    print_listing(("What", "Finding"), findings(), text_columns=(0, 1))
    if appraisal is not None:
        headers, rows = appraisal.table()
        print(f"\nCeilings of {appraisal.device}", flush=True)
        print_listing(
            headers, rows, text_columns=[headers.index(name) for name in ("Ceiling", "Note") if name in headers]
        )
        print(flush=True)
        print_paragraphs(appraisal.caption())
