"""What `memprof compare` does once its options are read: plan, run, keep, show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from memprof.api import choose_device, environment, plan, run
from memprof.catalogue import CORE, METHODS
from memprof.cli.screen import Progress, note, print_details, print_process, print_table
from memprof.errors import MemprofError
from memprof.interrupt import Interrupted, held, stopping
from memprof.measure.history_file import refuse_existing, refuse_no_folder
from memprof.record import Record, document
from memprof.report.rows import suitable_unit
from memprof.report.table import render
from memprof.resume import RESULTS
from memprof.run_file import Maker
from memprof.runner import unfinished
from memprof.scenario import Scenario
from memprof.store import RunStore
from memprof.units import UNITS, counted, parse_size


@dataclass(frozen=True, slots=True)
class View:
    """How to show and keep a comparison."""

    by: str | None
    unit: str | None
    """None: the one that suits the figures"""
    fits: int | None
    json: bool
    output: str | None
    force: bool
    resume: bool
    retry_oom: bool
    verbose: bool = False
    histories: Path | None = None
    """the folder for what is recorded of the allocator"""

    @classmethod
    def of(
        cls,
        *,
        unit: str | None,
        fits: str | None,
        output: str | None,
        force: bool,
        resume: bool,
        retry_oom: bool,
        histories: str | None = None,
        **fields: Any,
    ) -> Self:
        if unit is not None and unit not in UNITS:
            raise MemprofError(f"unknown unit {unit!r}; choose from {', '.join(UNITS)}")
        if retry_oom and not resume:
            raise MemprofError("--retry-oom speaks of a run that is continued; add --resume")
        if output == "":
            raise MemprofError("-o is empty; name a folder, for instance -o runs/run1, or . for this one")
        if (force and histories is None or resume) and output is None:
            raise MemprofError("--force and --resume speak of a folder; name it with -o")
        if histories == "":
            raise MemprofError("--histories is empty; name a folder, for instance --histories runs/histories")
        size = None if fits is None else parse_size(fits)
        folder = None if histories is None else Path(histories)
        return cls(unit=unit, fits=size, output=output, force=force, resume=resume, retry_oom=retry_oom,
                   histories=folder, **fields)  # fmt: skip

    def suited_to(self, records: Sequence[Record]) -> Self:
        """With the unit that suits these records, where none was asked for."""
        return replace(self, unit=self.unit or suitable_unit(records))

    @property
    def table_options(self) -> dict[str, Any]:
        return {"by": self.by, "unit": self.unit, "fits": self.fits}


@dataclass(frozen=True, slots=True)
class Session:
    """The scenarios of one comparison, checked, and where they are measured."""

    scenarios: list[Scenario]
    device: str | None

    @classmethod
    def plan(
        cls,
        *,
        models: Sequence[str],
        methods: Sequence[str] | None,
        measure: bool | None,
        device: str | None,
        **fields: Any,
    ) -> Self:
        chosen = choose_device(measure, device)
        return cls(plan(models, _methods(methods), device=chosen, **fields), chosen)

    def run(self, view: View, *, rounds: int, steps: int, **options: Any) -> list[Record]:
        """Run what is missing, keep each record as it comes, then show them all. `options` are those of `api.run`."""
        if view.by == "measured" and self.device is None:
            raise MemprofError(
                "--by measured needs a measurement; add --measure, and --device cpu where there is no GPU"
            )
        if view.histories is not None and self.device is None:
            raise MemprofError(
                "--histories keeps what a measurement records; add --measure, and --device cpu where there is no GPU"
            )
        if view.histories is not None:
            refuse_no_folder(view.histories)
        if view.histories is not None and not (view.force or view.resume):
            refuse_existing(view.histories, [scenario.id for scenario in self.scenarios])
        maker = Maker(environment(self.device), *((None, None) if self.device is None else (steps, rounds)))
        store = self._open(view, maker)
        try:
            return self._run(view, store, maker, rounds=rounds, steps=steps, **options)
        except BaseException as error:
            if not (stopping() or isinstance(error, Interrupted | KeyboardInterrupt)):
                raise
            where = "nothing is kept without -o" if store is None else f"what had finished is kept in {view.output}"
            raise Interrupted(f"interrupted; {where}{'; --resume goes on' if store else ''}") from None

    def _run(self, view: View, store: RunStore | None, maker: Maker, **options: Any) -> list[Record]:
        past = store.load() if store else []
        done = self._finished(past, view.retry_oom)
        known = {record.id for record in done}
        missing = [scenario for scenario in self.scenarios if scenario.id not in known]
        progress = Progress([*done, *map(_not_run, missing)], live=not view.json, **view.table_options)
        failed = [record for record in past if record.id not in {scenario.id for scenario in missing}]
        kept: set[str] = set()
        try:
            records = run(missing, failed=failed, beside=self._ended_well(done), histories=view.histories,
                          on_race=progress.racing, **options)  # fmt: skip
            progress.watch(_kept(records, store, kept), done)
        finally:
            if store is not None and stopping():
                _mark([scenario for scenario in missing if scenario.id not in kept], store)
        done = self._in_order(done)
        earlier = [record for record in past if record.id not in {scenario.id for scenario in self.scenarios}]
        view = view.suited_to([*done, *earlier])
        self._show(done, maker.environment, view, live=progress.live)
        if store is not None:
            _keep(done, earlier, store, view)
        return done

    def _open(self, view: View, maker: Maker) -> RunStore | None:
        if view.output is None:
            return None
        planned = [_not_run(scenario) for scenario in self.scenarios]
        return RunStore.create(view.output, view.force, view.resume, maker=maker, planned=planned)

    def _finished(self, past: Sequence[Record], retry_oom: bool) -> list[Record]:
        """What need not run again."""
        wanted = {scenario.id for scenario in self.scenarios}
        results = ("ok",) if retry_oom else RESULTS
        return [record for record in past if record.id in wanted and record.status in results]

    def _ended_well(self, done: Sequence[Record]) -> list[Scenario]:
        fine = {record.id for record in done if record.status == "ok"}
        return [scenario for scenario in self.scenarios if scenario.id in fine]

    def _in_order(self, records: Sequence[Record]) -> list[Record]:
        place = {scenario.id: index for index, scenario in enumerate(self.scenarios)}
        return sorted(records, key=lambda record: place[record.id])

    @staticmethod
    def _show(records: list[Record], facts: Mapping[str, Any], view: View, live: bool) -> None:
        if view.json:
            print(document(records, facts))
            return
        if not live:
            print_table(render(records, **view.table_options))
        assert view.unit is not None
        (print_details if view.verbose else print_process)(records, view.unit)


def _keep(done: Sequence[Record], earlier: Sequence[Record], store: RunStore, view: View) -> None:
    """Render all that the folder holds: the cells asked for first, then what earlier commands left there."""
    whole = len(done) + len(earlier)
    which = f"The last command asked for the first {len(done)} of these {whole} cells"
    which = f"{which}; the others are of earlier commands." if earlier else ""
    store.render([*done, *earlier], note=which, **view.table_options)
    store.close()
    others = f" with {counted(len(earlier), 'cell')} of earlier commands; its tables show all {whole}"
    note(f"kept in {view.output}{others if earlier else ''}")


def _not_run(scenario: Scenario) -> Record:
    return unfinished(scenario, "interrupted", "interrupted before it had finished")


def _kept(records: Iterable[Record], store: RunStore | None, kept: set[str]) -> Iterator[Record]:
    """Each record, on the disk and noted among `kept` before it is shown."""
    for record in records:
        with held():
            if store is not None:
                store.append(record)
            kept.add(record.id)
        yield record


def _mark(scenarios: Sequence[Scenario], store: RunStore) -> None:
    """The run itself says which cells an interrupt left out. On a full disk it cannot, and they are missing anyway."""
    with held(), suppress(MemprofError):
        for scenario in scenarios:
            store.append(_not_run(scenario))


def _methods(asked: Sequence[str] | None) -> Sequence[str]:
    if not asked:
        return CORE
    return [name for spec in asked for name in (METHODS if spec == "all" else (spec,))]
