"""What `memprof compare` does once its options are read: plan, run, keep, show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from memprof.api import choose_device, environment, plan, run
from memprof.catalogue import CORE, METHODS
from memprof.cli.screen import Progress, note, print_process, print_table
from memprof.errors import MemprofError
from memprof.record import Record, document
from memprof.report.table import render
from memprof.scenario import Scenario
from memprof.store import RunStore
from memprof.units import UNITS, parse_size


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

    @classmethod
    def of(cls, *, unit: str, fits: str | None, output: str | None, force: bool, resume: bool, **fields: Any) -> Self:
        if unit not in UNITS:
            raise MemprofError(f"unknown unit {unit!r}; choose from {', '.join(UNITS)}")
        if (force or resume) and output is None:
            raise MemprofError("--force and --resume speak of a folder; name it with -o")
        size = None if fits is None else parse_size(fits)
        return cls(unit=unit, fits=size, output=output, force=force, resume=resume, **fields)

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

    def run(self, view: View, *, steps: int, timeout: float) -> list[Record]:
        """Run what is missing, keep each record as it comes, then show them all."""
        facts = environment(self.device)
        store = None
        done: list[Record] = []
        if view.output is not None:
            store = RunStore.create(view.output, force=view.force, resume=view.resume, environment=facts)
            done = self._finished(store)
        known = {record.id for record in done}
        missing = [scenario for scenario in self.scenarios if scenario.id not in known]
        names = [record.method for record in done] + [scenario.method.name for scenario in missing]
        progress = Progress(names, live=not view.json, **view.table_options)
        records = run(missing, steps=steps, timeout=timeout)
        progress.watch(_kept(records, store), done)
        done = self._in_order(done)
        self._show(done, facts, view, live=progress.live)
        if store is not None:
            store.render(done, **view.table_options)
            note(f"kept in {view.output}")
        return done

    def _finished(self, store: RunStore) -> list[Record]:
        wanted = {scenario.id for scenario in self.scenarios}
        return [record for record in store.load() if record.id in wanted and record.status == "ok"]

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


def _kept(records: Any, store: RunStore | None) -> Any:
    for record in records:
        if store is not None:
            store.append(record)
        yield record


def _methods(asked: Sequence[str] | None) -> Sequence[str]:
    if not asked:
        return CORE
    return [name for spec in asked for name in (METHODS if spec == "all" else (spec,))]
