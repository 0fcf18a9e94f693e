"""`show`: one run, everything that is known of it, and the command that repeats it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.ask.repeat import repeat_command
from harness.errors import EXIT_OK, UsageError, did_you_mean, first_line
from harness.evidence.rows import title_of
from harness.io.terminal import make_console
from harness.measures import GIB, MEASURES
from harness.model_names import find_card
from harness.plan.tuning import print_tuning
from harness.record import RunRecord, Score
from harness.registry import known_strategy
from harness.render.numbers import MISSING, interval, number
from harness.render.tables import print_table
from harness.report.measured import measured
from harness.spec import RunSpec
from harness.store import inputs
from harness.store.runs import Store, last_checkpoint

if TYPE_CHECKING:
    from rich.console import Console

MOST_ROWS = 500
LONGEST_CELL = 2000
# Scores that are shares, and so shown in per cent.
_SHARES = ("accuracy", "recall_", "macro_f1", "chance_", "majority_", "ece")


def show(args: argparse.Namespace) -> int:
    """Print one run; with --json its record as stored."""
    store = Store(args.results)
    run_id = find_run(args.run, store)
    finished = store.state(run_id) not in ("absent", "unfinished")
    record = store.record(run_id) if finished else None
    spec = record.spec if record else store.spec(run_id)
    if args.json:
        unfinished = {"run_id": run_id, "status": "unfinished", "spec": spec.model_dump(mode="json")}
        print(json.dumps(record.model_dump(mode="json") if record else unfinished, indent=1))
        return EXIT_OK
    console = make_console()
    if record:
        _print_record(console, record, store.folder(run_id))
        print_tuning(console, store.folder(run_id))
    else:
        step = last_checkpoint(store.folder(run_id))
        at = f"last checkpoint at step {step}" if step is not None else "no checkpoint"
        console.print(f"{run_id}: unfinished ({at})", style="bold")
        _print_settings(console, spec)
    console.print(f"Folder: {store.folder(run_id)}", soft_wrap=True)
    console.print("To repeat it:", style="bold")
    console.print(_command(spec, args), soft_wrap=True)
    return EXIT_OK


def find_run(text: str, store: Store) -> str:
    """The one run that `text` means. Raises `UsageError` where it is none or several."""
    found = store.find(text)
    if len(found) == 1:
        return found[0]
    if found:
        listed = "\n".join(f"  {name}" for name in found)
        raise UsageError(f"'{text}' is the start of {len(found)} runs:\n{listed}", "Give more of the name.")
    hint = did_you_mean(text, store.run_ids())
    raise UsageError(f"there is no run '{text}' in {store.root}{hint}", "See: python -m harness list runs")


def _command(spec: RunSpec, args: argparse.Namespace) -> str:
    """The command, short where the strategy is known here and complete where its plugin is not.

    A plugin that the run names is never loaded for being looked at: a run may be anybody's.
    """
    return repeat_command(spec, known_strategy(spec, args.plugin))


def _print_record(console: Console, record: RunRecord, folder: Path) -> None:
    console.print(f"{record.run_id}: {record.status}", style="bold")
    console.print(f"{title_of(record)}, {record.created}")
    if record.failure:
        _print_failure(console, record, folder)
    if record.data and record.data.note:
        console.print(f"Data: {record.data.note}")
    for sentence in inputs.of_record(record):
        console.print(f"Inputs: {sentence}", highlight=False)
    _print_scores(console, record)
    _print_probes(console, record)
    _print_cost(console, record)
    _print_settings(console, record.spec)
    _print_origins(console, record)


def _print_failure(console: Console, record: RunRecord, folder: Path) -> None:
    """What stopped the run and what to do; what the libraries said is in the log, and named here."""
    failure = record.failure
    if failure is None:
        return
    console.print(
        f"\n{failure.kind} in phase {failure.phase}: {first_line(failure.message)}",
        style="bold red",
        soft_wrap=True,
    )
    if failure.remedy:
        console.print(failure.remedy, soft_wrap=True)
    if (folder / "log.txt").exists():
        console.print(f"All that was said: {folder / 'log.txt'}", style="dim", soft_wrap=True)
    elif failure.traceback:
        console.print("The traceback is in the record: show it with --json.", style="dim", soft_wrap=True)


def _table(console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]], **options: Any) -> None:
    """A table of a record that may be anybody's: so many rows, and so much of each, as can be looked at."""
    shown = [[_cut(cell, LONGEST_CELL) for cell in row] for row in rows[:MOST_ROWS]]
    print_table(console, headers, shown, **options)
    if len(rows) > MOST_ROWS:
        console.print(f"... and {len(rows) - MOST_ROWS:,} more: show --json has them all.", style="dim")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def _score_row(name: str, score: Score) -> list[str]:
    if name.startswith(_SHARES):
        return [name, "%", interval(score), str(score.n)]
    ends = f" [{score.ci_low:.4f}, {score.ci_high:.4f}]" if score.ci_low is not None else ""
    return [name, "", f"{score.value:.4f}{ends}", str(score.n)]


def _print_scores(console: Console, record: RunRecord) -> None:
    groups: dict[str, list[list[str]]] = {"Scores": [], "Accuracy by subgroup": []}
    for name, score in record.scores.items():
        whole, at, subgroup = name.partition("@")
        row = _score_row(whole, score)
        groups["Accuracy by subgroup" if at else "Scores"].append([subgroup, *row[1:]] if at else row)
    for title, rows in groups.items():
        if rows:
            headers = ["", "unit", "value [95%]", "items"]
            _table(console, headers, rows, title=title, right=(False, False, True, True), fold=(0,))


def _print_probes(console: Console, record: RunRecord) -> None:
    for name, found in record.probes.items():
        if found.failure is not None:
            console.print(
                f"\nprobe {name} measured nothing: {first_line(found.failure.message)}", soft_wrap=True
            )
            continue
        rows = [
            [metric, own.definition, *_probe_value(own.unit, found.scores[metric])]
            for metric, own in found.metrics.items()
            if metric in found.scores
        ]
        headers = [name, "what it is", "unit", "value [95%]", "items"]
        _table(console, headers, rows, title="Probe", right=(False, False, False, True, True), fold=(1,))


def _probe_value(unit: str, score: Score) -> list[str]:
    if unit == "fraction":
        return ["%", interval(score), str(score.n)]
    return [unit, *_score_row("", score)[2:]]


def _print_cost(console: Console, record: RunRecord) -> None:
    pairs = [(own.named, measured(own, getattr(record.cost, own.field), listed=True)) for own in MEASURES]
    _table(console, ["", "value"], [list(pair) for pair in pairs], title="Cost", right=(False, True))
    if record.phases:
        rows = [
            [
                phase.name,
                number(phase.seconds, digits=1),
                number(phase.gpu_memory_reserved_peak_bytes, GIB, 2),
                number(phase.host_memory_peak_bytes, GIB, 2),
            ]
            for phase in record.phases
        ]
        headers = ["phase", "s", "GPU peak GiB", "host peak GiB"]
        _table(console, headers, rows, title="Phases", right=(False, True, True, True))


def _print_settings(console: Console, spec: RunSpec) -> None:
    card = find_card(spec.model.name)
    model = f"{spec.model.name} ({card.hub_id})" if card else spec.model.name
    rows = [["model", model], ["strategy", spec.strategy.name], ["seed", str(spec.seed)]]
    for section in ("model", "strategy", "task", "train", "engine"):
        values: dict[str, Any] = getattr(spec, section).model_dump(mode="json")
        if section == "strategy":
            values = spec.strategy.settings
        if section == "train" and spec.train.learning_rate is None:
            continue  # it does not train
        rows += [
            [f"{section}.{key}", MISSING if value is None else json.dumps(value)]
            for key, value in values.items()
            if (section, key) != ("model", "name")
        ]
    _table(console, ["", "value"], rows, title="Settings", fold=(1,))


def _print_origins(console: Console, record: RunRecord) -> None:
    rows = []
    if data := record.data:
        sizes = f"{data.train_n} training, {data.validation_n} validation, {data.test_n} of {data.test_known_n} test"
        rows += [
            ["data", f"{data.source}, revision {data.revision or MISSING}, {data.fingerprint}"],
            ["items", sizes],
        ]
    if model := record.model:
        weights = "random weights" if model.source == "random" else model.fingerprint or "weights not hashed"
        rows.append(
            ["model", f"{model.source}, revision {model.revision or MISSING}, {model.dtype}, {weights}"]
        )
        rows += [["", note] for note in model.notes]
    if environment := record.environment:
        versions = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
        rows += [
            [
                "device",
                f"{environment.device_count} x {environment.device_name}, driver {environment.driver or MISSING}",
            ],
            ["cores, threads", f"{environment.cores or MISSING}, {environment.threads or MISSING}"],
            ["processes", str(environment.processes)],
            ["git", environment.git or MISSING],
            ["packages", f"Python {environment.python}, {versions}"],
        ]
    if record.resumed:
        rows.append(["resumed", f"{record.resumed} times from a checkpoint"])
    rows += [["passed over", text] for text in record.passed_over]
    if rows:
        _table(console, ["", "value"], rows, title="Made with", fold=(1,))
