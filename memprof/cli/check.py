"""`memprof check`: memory budgets of a TOML file, for CI."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memprof.errors import MemprofError, shown

if TYPE_CHECKING:
    from memprof.budget.run import Outcome

MEASURING, OUTPUT, UPDATING = "Measuring", "Output", "Updating"


def check(
    file: Annotated[str | None, typer.Argument(help="Budget file. [default: memprof.toml here, or tool.memprof in pyproject.toml]")] = None,  # noqa: E501
    measure: Annotated[bool, typer.Option("--measure", help="Check real steps instead of a trace.", rich_help_panel=MEASURING)] = False,  # noqa: E501
    device: Annotated[str | None, typer.Option(help="Where to measure: cuda or cpu; implies --measure.", rich_help_panel=MEASURING)] = None,  # noqa: E501
    steps: Annotated[int, typer.Option(min=2, max=100_000, help="Timed optimizer steps.", rich_help_panel=MEASURING)] = 10,  # noqa: E501
    timeout: Annotated[float, typer.Option(min=1.0, max=1e6, help="Seconds that one measured cell may take.", rich_help_panel=MEASURING)] = 1_800.0,  # noqa: E501
    update: Annotated[bool, typer.Option("--update", help="Accept what is found as the new baseline.", rich_help_panel=UPDATING)] = False,  # noqa: E501
    update_limits: Annotated[bool, typer.Option("--update-limits", help="Set absolute limits to what is found, rounded up.", rich_help_panel=UPDATING)] = False,  # noqa: E501
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.", rich_help_panel=OUTPUT)] = False,  # noqa: E501
    junit: Annotated[str | None, typer.Option(help="Write JUnit XML to this file.", rich_help_panel=OUTPUT)] = None,
    markdown: Annotated[str | None, typer.Option(help="Write Markdown to this file.", rich_help_panel=OUTPUT)] = None,
) -> None:  # fmt: skip
    """Memory budgets: exit 1 when one is exceeded. Needs no GPU; under GitHub Actions it annotates the failed lines."""
    from memprof.budget.config import read_budgets

    budgets = read_budgets(file)
    outputs = {
        option: _writable(path) for option, path in (("junit", junit), ("markdown", markdown)) if path is not None
    }
    from memprof.api import choose_device
    from memprof.budget.run import check_file

    chosen = choose_device(measure or device is not None, device)
    options = {"update": update, "update_limits": update_limits, "on_record": _progress}
    outcome = check_file(budgets, device=chosen, steps=steps, timeout=timeout, **options)  # type: ignore[arg-type]
    _show(outcome, json)
    _keep(outcome, **outputs)
    raise typer.Exit(outcome.exit_code)


def _show(outcome: Outcome, json: bool) -> None:
    """The table and what to do about it on stdout; notes and CI commands on stderr."""
    from memprof.budget.github import workflow_commands
    from memprof.budget.text import COLUMNS, TEXT_COLUMNS, document, remarks, rows, summary
    from memprof.cli.listing import print_listing
    from memprof.cli.screen import note

    if json:
        print(document(outcome))
    else:
        print_listing(COLUMNS, rows(outcome), text_columns=TEXT_COLUMNS)
        print("\n".join(["", summary(outcome), *(f"\n{remark}".rstrip() for remark in remarks(outcome))]), flush=True)
    for line in outcome.notes:
        note(line)
    environment = _github()
    if environment is not None:
        for line in workflow_commands(outcome, environment.get("GITHUB_WORKSPACE")):
            print(line, file=sys.stderr)


def _writable(given: str) -> Path:
    """Where a report goes, looked at before anything runs: a report that cannot be written must not cost the run."""
    path = Path(given)
    if path.is_dir():
        raise MemprofError(f"cannot write {shown(str(path))}: it is a folder")
    if not path.parent.is_dir():
        raise MemprofError(f"cannot write {shown(str(path))}: there is no folder {shown(str(path.parent))}")
    return path


def _keep(outcome: Outcome, junit: Path | None = None, markdown: Path | None = None) -> None:
    """Files that were asked for, and the step summary where GitHub wants one."""
    from memprof.budget import text
    from memprof.budget.baseline import replace_file
    from memprof.budget.github import summary_within_limit
    from memprof.budget.junit import junit as xml

    if junit is not None:
        replace_file(junit, xml(outcome))
    if markdown is not None:
        replace_file(markdown, text.markdown(outcome))
    environment = _github()
    if environment and environment.get("GITHUB_STEP_SUMMARY"):
        _append(environment["GITHUB_STEP_SUMMARY"], summary_within_limit(text.markdown(outcome)))


def _append(path: str, content: str) -> None:
    """A summary that cannot be written is not worth a failed check."""
    from memprof.cli.screen import note

    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        note(f"no step summary: {error.strerror or error}")


def _github() -> dict[str, str] | None:
    """The environment, where this is a step of GitHub Actions."""
    import os

    return dict(os.environ) if os.environ.get("GITHUB_ACTIONS") == "true" else None


def _progress(done: int, total: int) -> None:
    """One line on stderr that overwrites itself; nothing where nobody watches."""
    if sys.stderr.isatty():
        text = "" if done == total else f"memprof: {done} of {total} done"
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
