"""`run`: the grid asked for, each run in a process of its own, and one table at the end."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from harness.ask.study import parse_grid
from harness.ask.study_file import Study, read_study
from harness.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from harness.io.terminal import make_console
from harness.launch.board import make_board
from harness.launch.devices import Place, places
from harness.launch.grid import After, Outcomes, run_all
from harness.launch.local import LaunchOptions
from harness.plan.grid import Item, make_items, print_plan
from harness.plan.preflight import ValidationSizes, check_data, check_packages
from harness.plan.reuse import in_another_precision, reusable, usable, without_texts
from harness.plan.trials import store_failure, store_tuning
from harness.plan.tuning import Tuner, told
from harness.record import RunRecord
from harness.registry import Registry, load_registry
from harness.render.tables import print_table
from harness.report.run_table import print_runs
from harness.spec import RunSpec
from harness.store.leftovers import tidy
from harness.store.runs import Store, differences

Say = Callable[[str], None]


def run(args: argparse.Namespace) -> int:
    """Run what is asked for; returns the exit code."""
    # Its problems are reported by parse_grid, all together.
    study = read_study(args.study, []) if args.study else Study()
    registry = load_registry([*args.plugin, *study.plugins])

    def say(text: str) -> None:
        if not args.quiet:
            print(text, file=sys.stderr, flush=True)

    for line in registry.skipped:
        say(f"warning: {line}")
    store = Store(args.results)
    asked = parse_grid(args, registry, notify=lambda text: say(_framed(text)))
    asked = store.as_stored(asked)
    # Of a run that is tuned it is the run at the chosen rate that is looked for, later.
    specs, refusal = usable(asked, store, force=args.force or bool(args.tune or study.tune))
    sizes = ValidationSizes(registry)
    tuner = Tuner(specs, args.tune or study.tune or 1, store, registry, force=args.force, validation_n=sizes)
    where, notice = places(args.parallel, args.processes)
    finals = [found for found in map(tuner.resolved, specs) if isinstance(found, RunSpec)]
    known = [found for spec in tuner.settled(specs) if isinstance(found := tuner.resolved(spec), RunSpec)]
    done = {} if args.force else _already_done(known, store, registry)
    if args.dry_run:
        _print_dry_run(_items(specs, tuner, store, args), study.name, len(where), args)
        return EXIT_OK
    for run_id in done:  # killed between its record and the deleting
        if left := tidy(store.folder(run_id)):
            say(f"note: {left}")
    missing = [spec for spec in finals if spec.run_id not in done]
    for run_id, other in in_another_precision(missing, store).items():
        say(
            f"note: {run_id} is the same in {other.model.dtype} (--set model.dtype={other.model.dtype} asks for it)"
        )
    check_packages([*tuner.missing, *missing], registry)
    for line in check_data([*tuner.missing, *missing], registry):
        say(f"note: {line}")
    if len(specs) == 1 and done and not tuner.missing:
        say(f"already done: {next(iter(done))} (use --force to run again)")
    elif len(specs) + len(tuner.all) > 1 and not args.quiet and not args.json:
        plan = _items(specs, tuner, store, args)
        print_plan(make_console(sys.stderr), plan, name=study.name, side_by_side=len(where))
    if args.log_samples and (lacking := without_texts(done, store)):
        say(
            f"note: --log-samples stores no texts of runs that are already done: {', '.join(lacking)} "
            "(--force runs them again and stores them)"
        )
    if notice and (missing or tuner.missing):
        say(f"note: {notice}")
    if args.warm and args.processes > 1:
        say("note: --warm has no effect on runs of several processes")
    session = _Session(args, store, registry, where, say)
    records, code = session.go(specs, tuner)
    if args.json:
        dumped = [record.model_dump(mode="json") for record in records]
        print(json.dumps(dumped[0] if len(specs) == 1 and dumped else dumped, indent=1))
    elif records:
        print_runs(records, told=session.told)
    return max(code, refusal)


def _items(specs: Sequence[RunSpec], tuner: Tuner, store: Store, args: argparse.Namespace) -> list[Item]:
    return make_items(
        specs,
        tuner,
        store,
        force=args.force,
        resume=args.resume,
        processes=args.processes,
        parallel=args.parallel,
    )


def _framed(text: str) -> str:
    """A notice of several lines stands out between rules: it changes what the results mean."""
    if "\n" not in text:
        return f"note: {text}"
    rule = "!" * 78
    return f"{rule}\n{text}\n{rule}"


def _already_done(specs: Sequence[RunSpec], store: Store, registry: Registry) -> dict[str, RunRecord]:
    records = ((spec.run_id, reusable(spec, store, registry)) for spec in specs)
    return {run_id: record for run_id, record in records if record is not None}


class _Session:
    """Runs what is missing of a grid: the trials, then the runs at the rates that these choose."""

    def __init__(
        self,
        args: argparse.Namespace,
        store: Store,
        registry: Registry,
        where: Sequence[Place],
        say: Say,
    ) -> None:
        self._args = args
        self._store = store
        self._registry = registry
        self._where = where
        self._say = say
        self._options = LaunchOptions(
            args.processes,
            args.timeout,
            args.resume,
            args.force,
            args.log_samples,
            warm=args.warm,
            forkable=frozenset(name for name, engine in registry.engines.items() if engine.forkable),
        )
        self.told: set[str] = set()
        """Runs of whose end the user was told as it came."""

    def go(self, specs: Sequence[RunSpec], tuner: Tuner) -> tuple[list[RunRecord], int]:
        """All records of the grid in its order, and the exit code. A failed run does not end the grid."""
        trials = self._launch(tuner.missing, tuner.store, after=tuner.drop_weights)
        tuner.records |= trials.records
        if trials.interrupted:
            _tell_interrupted(trials.not_started + len(specs))
            return [], EXIT_INTERRUPTED
        # What is still open had a trial refused, which has been told.
        resolved = {found.run_id: found for found in map(tuner.resolved, tuner.settled(specs))}
        finals = {run_id: found for run_id, found in resolved.items() if isinstance(found, RunSpec)}
        failures = {run_id: found for run_id, found in resolved.items() if isinstance(found, RunRecord)}
        for failure in failures.values():
            store_failure(self._store, failure)
        self._tell_tuning(specs, tuner)
        kept, refusal = usable(list(finals.values()), self._store, force=self._args.force)
        finals = {spec.run_id: spec for spec in kept}
        done = {} if self._args.force else _already_done(kept, self._store, self._registry)
        runs = self._launch([spec for run_id, spec in finals.items() if run_id not in done], self._store)
        if len(specs) == 1 and (trials.refusals or runs.refusals):
            raise next(iter({**trials.refusals, **runs.refusals}.values()))
        known = {**failures, **done, **runs.records}
        self._store_tunings(specs, tuner, known)
        records = [known[run_id] for run_id in resolved if run_id in known]
        if runs.interrupted:
            _tell_interrupted(runs.not_started)
            return records, EXIT_INTERRUPTED
        unmeasured = [record for record in records if self._tell_probes(record)]
        if unmeasured or any(record.status == "failed" for record in records):
            return records, EXIT_FAILED
        return records, max(trials.refusal_code, runs.refusal_code, refusal)

    def _launch(self, specs: Sequence[RunSpec], store: Store, after: After | None = None) -> Outcomes:
        if not specs:
            return Outcomes()
        quiet, as_json = self._args.quiet, self._args.json
        board = make_board(specs, store.root, quiet=quiet, as_json=as_json, parallel=len(self._where))
        outcomes = run_all(specs, store, self._options, self._where, board, after)
        self.told |= outcomes.records.keys()
        return outcomes

    def _tell_probes(self, record: RunRecord) -> bool:
        """Say which probes of a run measured nothing, and whether there are any."""
        failed = {name: own.failure for name, own in record.probes.items() if own.failure}
        for name, failure in failed.items():
            self._say(f"{record.run_id}: probe {name} measured nothing: {failure.message}")
        return bool(failed)

    def _tell_tuning(self, specs: Sequence[RunSpec], tuner: Tuner) -> None:
        tunings = [(spec, tuner.tuning(spec)) for spec in tuner.settled(specs)]
        for line in dict.fromkeys(told(spec, tuning) for spec, tuning in tunings if tuning):
            self._say(line)

    def _store_tunings(self, specs: Sequence[RunSpec], tuner: Tuner, known: dict[str, RunRecord]) -> None:
        """Beside each run that was tuned, how: also where it had been run before without."""
        for spec in tuner.settled(specs):
            tuning, run_id = tuner.tuning(spec), tuner.resolved(spec).run_id
            if tuning is not None and run_id in known:
                store_tuning(self._store, run_id, tuning)


def _tell_interrupted(remaining: int) -> None:
    rest = f"; {remaining} more not started" if remaining else ""
    print(f"interrupted{rest}. The same command goes on from there.", file=sys.stderr)


def _print_dry_run(items: Sequence[Item], name: str, parallel: int, args: argparse.Namespace) -> None:
    """What would be run, and in what each run departs from the defaults."""
    if args.json:
        plan = [
            {
                "run_id": item.spec.run_id,
                "state": item.state,
                "action": item.fate,
                "forecast_seconds": item.seconds,
                "trial": item.trial,
                "learning_rate_to_be_chosen": item.open_rate,
                "differences": departures(item.spec),
                "spec": item.spec.model_dump(mode="json"),
            }
            for item in items
        ]
        print(json.dumps(plan, indent=1))
        return
    console = make_console()
    for item in items:
        console.print(f"{item.spec.run_id}: {_would(item, force=args.force)}", soft_wrap=True)
    specs = [item.spec for item in items]
    rows = [
        [key, _values(key, specs)] for key in dict.fromkeys(key for spec in specs for key in departures(spec))
    ]
    print_table(console, ["setting (not default)", "value"], rows, fold=(0, 1))
    if len(items) > 1:
        print_plan(console, items, name=name, side_by_side=parallel)


def _values(key: str, specs: Sequence[RunSpec]) -> str:
    """The values a setting has over a grid, each once."""
    found = (departures(spec).get(key, "-") for spec in specs)
    return ", ".join(dict.fromkeys(value if isinstance(value, str) else json.dumps(value) for value in found))


def departures(spec: RunSpec) -> dict[str, object]:
    """Every value of a spec that is not the spec's own default, by its dotted name; and its precision."""
    plain = RunSpec.model_validate({"strategy": {"name": ""}, "task": {"name": ""}})
    return {"model.dtype": spec.model.dtype} | {
        key: new for key, (_, new) in differences(plain, spec).items() if new is not None
    }


def _would(item: Item, *, force: bool) -> str:
    trial = " as a trial" if item.trial else ""
    if item.open_rate:
        return "would be run at the learning rate its trials choose"
    if force and item.state != "absent":
        return f"would be run again{trial} (found: {item.state})"
    if item.fate == "done":
        return "already done"
    return {"absent": f"would be run{trial}", "unfinished": "unfinished, would be taken up"}.get(
        item.state, f"{item.state}, would be tried again"
    )
