"""What `memprof compare` does once its options are read: plan, run, keep, show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from memprof.api import choose_device, environment, plan, run
from memprof.catalogue import CORE, METHODS
from memprof.cli.screen import Progress, note, print_process, print_table
from memprof.errors import MemprofError
from memprof.interrupt import Interrupted, held
from memprof.record import Record, document
from memprof.report.table import render
from memprof.runner import unfinished
from memprof.scenario import Scenario
from memprof.store import RunStore
from memprof.units import UNITS, counted, parse_size


@dataclass(frozen=True, slots=True)
class View:
    """How to show and keep a comparison."""

    by: str | None
    unit: str
    fits: int | None
    json: bool
    output: str | None
    force: bool
    resume: bool
    retry_oom: bool

    @classmethod
    def of(
        cls,
        *,
        unit: str,
        fits: str | None,
        output: str | None,
        force: bool,
        resume: bool,
        retry_oom: bool,
        **fields: Any,
    ) -> Self:
        if unit not in UNITS:
            raise MemprofError(f"unknown unit {unit!r}; choose from {', '.join(UNITS)}")
        if retry_oom and not resume:
            raise MemprofError("--retry-oom speaks of a run that is continued; add --resume")
        if (force or resume) and output is None:
            raise MemprofError("--force and --resume speak of a folder; name it with -o")
        size = None if fits is None else parse_size(fits)
        return cls(unit=unit, fits=size, output=output, force=force, resume=resume, retry_oom=retry_oom, **fields)

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

    def run(self, view: View, **options: Any) -> list[Record]:
        """Run what is missing, keep each record as it comes, then show them all. `options` are those of `api.run`."""
        if view.by == "measured" and self.device is None:
            raise MemprofError(
                "--by measured needs a measurement; add --measure, and --device cpu where there is no GPU"
            )
        facts = environment(self.device)
        store = self._open(view, facts)
        past = store.load() if store else []
        done = self._finished(past, view.retry_oom)
        known = {record.id for record in done}
        missing = [scenario for scenario in self.scenarios if scenario.id not in known]
        names = [record.method for record in done] + [scenario.method.name for scenario in missing]
        progress = Progress(names, live=not view.json, **view.table_options)
        failed = [record for record in past if record.id not in {scenario.id for scenario in missing}]
        kept: set[str] = set()
        try:
            progress.watch(_kept(run(missing, failed=failed, **options), store, kept), done)
        except (Interrupted, KeyboardInterrupt):
            if store is not None:
                _mark([scenario for scenario in missing if scenario.id not in kept], store)
            raise
        done = self._in_order(done)
        self._show(done, facts, view, live=progress.live)
        if store is not None:
            self._keep(done, past, store, view)
        return done

    def _keep(self, done: Sequence[Record], past: Sequence[Record], store: RunStore, view: View) -> None:
        """Render all that the folder holds: these cells first, then what earlier commands left there."""
        asked = {scenario.id for scenario in self.scenarios}
        earlier = [record for record in past if record.id not in asked]
        whole = len(done) + len(earlier)
        which = f"The last command asked for the first {len(done)} of these {whole} cells"
        which = f"{which}; the others are of earlier commands." if earlier else ""
        store.render([*done, *earlier], note=which, **view.table_options)
        store.close()
        others = f" with {counted(len(earlier), 'cell')} of earlier commands; its tables show all {whole}"
        note(f"kept in {view.output}{others if earlier else ''}")

    def _open(self, view: View, facts: Mapping[str, Any]) -> RunStore | None:
        if view.output is None:
            return None
        planned = {scenario.id for scenario in self.scenarios}
        return RunStore.create(view.output, view.force, view.resume, environment=facts, planned=planned)

    def _finished(self, past: Sequence[Record], retry_oom: bool) -> list[Record]:
        """What need not run again. Out of memory is a result too; a crash, a timeout or an interrupt is none."""
        wanted = {scenario.id for scenario in self.scenarios}
        results = ("ok",) if retry_oom else ("ok", "oom")
        return [record for record in past if record.id in wanted and record.status in results]

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
        print_process(records, view.unit)


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
            store.append(unfinished(scenario, "interrupted", "interrupted before it had finished"))


def _methods(asked: Sequence[str] | None) -> Sequence[str]:
    if not asked:
        return CORE
    return [name for spec in asked for name in (METHODS if spec == "all" else (spec,))]
