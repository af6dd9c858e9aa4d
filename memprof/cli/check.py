"""`memprof check`: memory budgets of a TOML file, for CI."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    rounds: Annotated[int | None, typer.Option(min=6, max=1_000, help="Rounds in which steps are timed. [default: 6]", rich_help_panel=MEASURING)] = None,  # noqa: E501
    steps: Annotated[int | None, typer.Option(min=6, max=100_000, help="Timed ordinary steps, spread over the rounds; one a round at least. [default: 10]", rich_help_panel=MEASURING)] = None,  # noqa: E501
    timeout: Annotated[float | None, typer.Option(min=1.0, max=1e6, help="Seconds that one measured cell may take. [default: 1800]", rich_help_panel=MEASURING)] = None,  # noqa: E501
    update: Annotated[bool, typer.Option("--update", help="Accept what is found as the new baseline.", rich_help_panel=UPDATING)] = False,  # noqa: E501
    update_limits: Annotated[bool, typer.Option("--update-limits", help="Set absolute limits to what is found, rounded up.", rich_help_panel=UPDATING)] = False,  # noqa: E501
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.", rich_help_panel=OUTPUT)] = False,  # noqa: E501
    junit: Annotated[str | None, typer.Option(help="Write JUnit XML to this file.", rich_help_panel=OUTPUT)] = None,
    markdown: Annotated[str | None, typer.Option(help="Write Markdown to this file.", rich_help_panel=OUTPUT)] = None,
) -> None:  # fmt: skip
    """Memory budgets: exit 1 when one is exceeded. Needs no GPU; under GitHub Actions it annotates the failed lines."""
    from memprof.budget.config import read_budgets
    from memprof.budget.source import passed_over

    asked = {"rounds": rounds, "steps": steps, "timeout": timeout}
    measured = {option: value for option, value in asked.items() if value is not None}
    outputs: dict[str, Path] = {}
    with _failure_told(outputs):
        outputs |= _outputs(file, {"junit": junit, "markdown": markdown})
        budgets = read_budgets(file)
        _leave_alone(outputs, budgets.baseline)
        if measured and not (measure or device):
            raise MemprofError(f"--{next(iter(measured))} is for what is measured; add --measure, or leave it out")
        from memprof.api import choose_device
        from memprof.budget.run import check_file

        chosen = choose_device(measure or device is not None, device)
        options = {"update": update, "update_limits": update_limits, "on_record": _progress, **measured}
        outcome = check_file(budgets, device=chosen, **options)  # type: ignore[arg-type]
    outcome.notes.extend(filter(None, [passed_over(file)]))
    _show(outcome, json)
    _keep(outcome, **outputs)
    raise typer.Exit(outcome.exit_code)


@contextmanager
def _failure_told(outputs: Mapping[str, Path]) -> Iterator[None]:
    """A check that comes to no result says so wherever its result was to go."""
    from memprof.budget.baseline import replace_file
    from memprof.budget.github import error_command, inert
    from memprof.budget.junit import failure
    from memprof.report.text import escape

    try:
        yield
    except MemprofError as error:
        environment = _github()
        if "junit" in outputs:
            replace_file(outputs["junit"], failure(str(error)))
        paragraph = f"### Memory budgets\n\n{escape(str(error))}\n"
        if "markdown" in outputs:
            replace_file(outputs["markdown"], paragraph)
        if environment is None:
            raise
        print(error_command(str(error)), file=sys.stderr)
        _summary(environment, paragraph)
        raise type(error)(inert(str(error))) from None


def _show(outcome: Outcome, json: bool) -> None:
    """The table and what to do about it on stdout; notes and CI commands on stderr."""
    from memprof.budget.github import inert, inert_json, workflow_commands
    from memprof.budget.text import COLUMNS, TEXT_COLUMNS, document, remarks, rows, summary
    from memprof.cli.listing import print_listing
    from memprof.cli.screen import note

    environment = _github()
    safe = inert if environment else str
    if json:
        print(inert_json(document(outcome)) if environment else document(outcome))
    else:
        print_listing(COLUMNS, [tuple(map(safe, row)) for row in rows(outcome)], text_columns=TEXT_COLUMNS)
        said = "\n".join(["", summary(outcome), *(f"\n{remark}".rstrip() for remark in remarks(outcome))])
        print(safe(said), flush=True)
    for line in outcome.notes:
        note(safe(line))
    if environment is not None:
        for line in workflow_commands(outcome, environment.get("GITHUB_WORKSPACE")):
            print(line, file=sys.stderr)


def _outputs(file: str | None, given: Mapping[str, str | None]) -> dict[str, Path]:
    """Where reports go, each to a file of its own that is not the budgets'."""
    from memprof.budget.config import BASELINE_FILE
    from memprof.budget.source import BUDGET_FILE, PYPROJECT

    found = {option: _writable(path) for option, path in given.items() if path is not None}
    _leave_alone(found, *map(Path, (file or BUDGET_FILE, PYPROJECT, BASELINE_FILE)))
    if len({path.resolve() for path in found.values()}) < len(found):
        raise MemprofError(f"{' and '.join(f'--{option}' for option in found)} name the same file; they need two")
    return found


def _leave_alone(outputs: dict[str, Path], *files: Path) -> None:
    """An error at a report that would overwrite one of these files; no report is written there then either."""
    for option, path in list(outputs.items()):
        if path.resolve() in [file.resolve() for file in files]:
            del outputs[option]
            raise MemprofError(
                f"--{option} would overwrite {shown(str(path))}, which the check reads; name another file"
            )


def _writable(given: str) -> Path:
    """Where a report goes, looked at before anything runs: a report that cannot be written must not cost the run."""
    if given == "-":
        raise MemprofError("cannot write -: a report goes to a file; --json prints one on stdout")
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
    _summary(_github() or {}, summary_within_limit(text.markdown(outcome)))


def _summary(environment: Mapping[str, str], content: str) -> None:
    """Where GitHub wants one. A summary that cannot be written is not worth a failed check."""
    from memprof.cli.screen import note

    path = environment.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
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
