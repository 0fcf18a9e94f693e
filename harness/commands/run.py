"""`run`: the grid asked for, each run in a process of its own, and one table at the end."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.commands.preflight import check_data, check_packages
from harness.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, HarnessError, UsageError
from harness.launch.local import LaunchOptions, run_local
from harness.launch.progress import make_display
from harness.record import RunRecord
from harness.registry import load_registry
from harness.report.text import make_console, print_runs, print_table
from harness.spec import RunSpec
from harness.store import State, Store, differences
from harness.study import parse_grid


def run(args: argparse.Namespace) -> int:
    """Run what is asked for; returns the exit code."""
    registry = load_registry(args.plugin)

    def say(text: str) -> None:
        if not args.quiet:
            print(text, file=sys.stderr, flush=True)

    specs = parse_grid(args, registry, notify=lambda text: say(_framed(text)))
    store = Store(args.results)
    done = {} if args.force else _already_done(specs, store)
    if args.dry_run:
        _print_plan(specs, store, args)
        return EXIT_OK
    missing = [spec for spec in specs if spec.run_id not in done]
    for run_id in done:
        say(f"already done: {run_id} (use --force to run again)")
    check_packages(missing, registry)
    check_data(missing, registry)
    records, code = _run_missing(specs, done, store, args)
    if args.json:
        dumped = [record.model_dump(mode="json") for record in records]
        print(json.dumps(dumped[0] if len(specs) == 1 and dumped else dumped, indent=1))
    elif records:
        print_runs(records)
    return code


def _framed(text: str) -> str:
    """A notice of several lines stands out between rules: it changes what the results mean."""
    if "\n" not in text:
        return f"note: {text}"
    rule = "!" * 78
    return f"{rule}\n{text}\n{rule}"


def reusable(spec: RunSpec, store: Store) -> RunRecord | None:
    """The record of `spec` where it ended well and still holds, else `None`.

    Raises `StoreError` where another spec has its place, `UsageError` where its data has changed.
    """
    if store.state(spec.run_id) != "ok":
        return None
    record = store.record(spec.run_id)
    store.check_same(spec, record.spec)
    if spec.task.source not in ("hub", "sample"):
        changed = store.changed_files(record, Path(spec.task.source))
        if changed:
            raise UsageError(
                f"run {spec.run_id} is done, but its data has changed since in {spec.task.source}: "
                f"{', '.join(changed)}",
                "Use --force to run it again in its place, or another --results folder.",
            )
    return record


def _already_done(specs: Sequence[RunSpec], store: Store) -> dict[str, RunRecord]:
    records = ((spec.run_id, reusable(spec, store)) for spec in specs)
    return {run_id: record for run_id, record in records if record is not None}


def _run_missing(
    specs: Sequence[RunSpec], done: dict[str, RunRecord], store: Store, args: argparse.Namespace
) -> tuple[list[RunRecord], int]:
    """All records of the grid in its order, and the exit code. A failed run does not end the grid."""
    options = LaunchOptions(args.processes, args.timeout, args.resume, args.force, args.log_samples)
    records: list[RunRecord] = []
    refusals: list[HarnessError] = []
    for index, spec in enumerate(specs, start=1):
        if spec.run_id in done:
            records.append(done[spec.run_id])
            continue
        title = f"[{index}/{len(specs)}] {spec.run_id}"
        try:
            with make_display(title, quiet=args.quiet, as_json=args.json) as display:
                record = run_local(spec, store, options, display)
        except KeyboardInterrupt:
            _tell_interrupted(len(specs) - index)
            if store.state(spec.run_id) == "ok":  # it was stopped too late to be stopped
                records.append(store.record(spec.run_id))
            return records, EXIT_INTERRUPTED
        except HarnessError as error:
            if len(specs) == 1:
                raise
            print(f"error: {spec.run_id}: {error}", file=sys.stderr, flush=True)
            refusals.append(error)
            continue
        records.append(record)
        if record.status == "interrupted":
            _tell_interrupted(len(specs) - index)
            return records, EXIT_INTERRUPTED
        if record.failure is not None:
            _tell_failure(record, store)
    if any(record.status == "failed" for record in records):
        return records, EXIT_FAILED
    return records, max((refusal.exit_code for refusal in refusals), default=EXIT_OK)


def _tell_interrupted(remaining: int) -> None:
    rest = f"; {remaining} more not started" if remaining else ""
    print(f"interrupted{rest}. The same command goes on from there.", file=sys.stderr)


def _tell_failure(record: RunRecord, store: Store) -> None:
    failure = record.failure
    if failure is None:
        return
    lines = [f"failed: {record.run_id}: {failure.kind} in {failure.phase}: {failure.message}"]
    lines += [failure.remedy] if failure.remedy else []
    lines.append(f"Log: {store.folder(record.run_id) / 'log.txt'}")
    print("\n".join(lines), file=sys.stderr, flush=True)


def _print_plan(specs: Sequence[RunSpec], store: Store, args: argparse.Namespace) -> None:
    """What would be run, and in what each run departs from the defaults."""
    states = {spec.run_id: store.state(spec.run_id) for spec in specs}
    if args.json:
        plan = [
            {
                "run_id": spec.run_id,
                "state": states[spec.run_id],
                "differences": departures(spec),
                "spec": spec.model_dump(mode="json"),
            }
            for spec in specs
        ]
        print(json.dumps(plan, indent=1))
        return
    console = make_console()
    for spec in specs:
        console.print(f"{spec.run_id}: {_would(states[spec.run_id], force=args.force)}", soft_wrap=True)
    rows = [
        [key, _values(key, specs)] for key in dict.fromkeys(key for spec in specs for key in departures(spec))
    ]
    print_table(console, ["setting (not default)", "value"], rows, fold=(0, 1))


def _values(key: str, specs: Sequence[RunSpec]) -> str:
    """The values a setting has over a grid, each once."""
    found = (departures(spec).get(key, "-") for spec in specs)
    return ", ".join(dict.fromkeys(value if isinstance(value, str) else json.dumps(value) for value in found))


def departures(spec: RunSpec) -> dict[str, object]:
    """Every value of a spec that is not the spec's own default, by its dotted name."""
    plain = RunSpec.model_validate({"strategy": {"name": ""}, "task": {"name": ""}})
    return {key: new for key, (_, new) in differences(plain, spec).items() if new is not None}


def _would(state: State, *, force: bool) -> str:
    if force and state != "absent":
        return f"would be run again (found: {state})"
    return {
        "absent": "would be run",
        "ok": "already done",
        "unfinished": "unfinished, would be taken up",
    }.get(state, f"{state}, would be tried again")
