"""`list`: the strategies, tasks, models, probes and runs there are."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

from harness.ask.settings import format_value
from harness.contracts import Probe, Strategy, Task
from harness.errors import EXIT_OK, StoreError
from harness.io.terminal import make_console
from harness.model_names import CARDS
from harness.plugins.loading import guarded_class
from harness.registry import Registry, load_registry
from harness.render.columns import wrapped
from harness.render.numbers import MISSING, interval
from harness.render.tables import print_table
from harness.store.runs import Store

DEFAULT_KINDS = ("strategies", "tasks", "models")


def list_things(args: argparse.Namespace) -> int:
    """Print the kinds asked for; as JSON one object with a list for each kind."""
    kinds = [args.what] if args.what else list(DEFAULT_KINDS)
    listed = {kind: _entries(kind, args) for kind in kinds}
    if args.json:
        print(json.dumps(listed, indent=1))
        return EXIT_OK
    for kind, entries in listed.items():
        _TABLES[kind](entries, args.verbose)
    return EXIT_OK


def _entries(kind: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    if kind == "models":
        return [dataclasses.asdict(card) for card in CARDS.values()]
    if kind == "runs":
        return _runs(Store(args.results))
    registry: Registry = load_registry(args.plugin)
    for line in registry.skipped:
        print(f"warning: {line}", file=sys.stderr)
    if kind == "probes":
        return [_probe(registry.probes[name]) for name in sorted(registry.probes)]
    if kind == "tasks":
        return [_task(registry.tasks[name]) for name in sorted(registry.tasks)]
    return [_guarded_entry(registry.strategies[name]) for name in sorted(registry.strategies)]


def _guarded_entry(cls: type[Strategy]) -> dict[str, Any]:
    with guarded_class(cls):
        return strategy_entry(cls)


def _probe(cls: type[Probe]) -> dict[str, Any]:
    metrics = [dataclasses.asdict(metric) for metric in cls.metrics]
    return {"name": cls.name, "summary": cls.summary, "source": cls.source, "metrics": metrics}


def _task(cls: type[Task]) -> dict[str, Any]:
    metrics = [dataclasses.asdict(metric) for metric in cls.metrics]
    return {
        "name": cls.name, "title": cls.title, "summary": cls.summary, "source": cls.source,
        "hub_id": cls.hub_id, "classes": list(cls.class_names), "metrics": metrics,
    }  # fmt: skip


def strategy_entry(cls: type[Strategy]) -> dict[str, Any]:
    """A strategy as data, with its settings, their defaults and what they mean."""
    settings = [
        {
            "name": name,
            "type": _type_name(field.annotation),
            "default": _plain(field.get_default(call_default_factory=True)),
            "description": field.description or "",
        }
        for name, field in cls.model_fields.items()
    ]
    return {
        "name": cls.name, "summary": cls.summary, "source": cls.source, "trains": cls.trains,
        "default_learning_rate": cls.default_learning_rate, "learning_rate_source": cls.learning_rate_source,
        "default_engine": cls.default_engine, "default_shots": cls.default_shots,
        "packages": list(cls.packages), "settings": settings,
    }  # fmt: skip


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _plain(value: Any) -> Any:
    """A setting's default as JSON can hold it."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, fallback=str)


def _runs(store: Store) -> list[dict[str, Any]]:
    """Every run folder, the broken ones too; what is not a run is named on stderr."""
    records, problems = store.records()
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    by_id = {record.run_id: record for record in records}
    entries = []
    for run_id in store.run_ids():
        record = by_id.get(run_id)
        accuracy = record.scores.get("accuracy") if record else None
        entries.append(
            {
                "run_id": run_id,
                "state": record.status if record else _state(store, run_id),
                "created": record.created if record else None,
                "title": record.data.title if record and record.data else None,
                "accuracy": accuracy.model_dump() if accuracy else None,
                "failure": record.failure.kind if record and record.failure else None,
            }
        )
    return entries


def _state(store: Store, run_id: str) -> str:
    try:
        return store.state(run_id)
    except StoreError:
        return "broken"


def _print_strategies(entries: list[dict[str, Any]], verbose: bool) -> None:
    rows = [
        [
            entry["name"],
            "yes" if entry["trains"] else "no",
            MISSING if entry["default_learning_rate"] is None else f"{entry['default_learning_rate']:g}",
            ", ".join(entry["packages"]) or MISSING,
            entry["summary"],
        ]
        for entry in entries
    ]
    headers = ["strategy", "trains", "learning rate", "needs", "what it is"]
    console = make_console()
    print_table(console, headers, rows, fold=(2, 3, 4), drop=(3, 1))
    for entry in entries if verbose else []:
        console.print(
            wrapped(f"{entry['name']} ({entry['source']})", console.width), style="bold", soft_wrap=True
        )
        if entry["learning_rate_source"]:
            source = f"learning rate: {entry['learning_rate_source']}"
            console.print(wrapped(source, console.width, "  "), soft_wrap=True)
        for setting in entry["settings"]:
            default = format_value(setting["default"])
            line = f"--set strategy.{setting['name']}={default}  {setting['description']}"
            console.print(wrapped(line, console.width, "  "), soft_wrap=True)
        console.print()


def _print_tasks(entries: list[dict[str, Any]], verbose: bool) -> None:
    rows = [
        [
            entry["name"],
            entry["title"],
            " ".join(entry["classes"]),
            entry["hub_id"] or MISSING,
            entry["summary"],
        ]
        for entry in entries
    ]
    console = make_console()
    print_table(
        console, ["task", "title", "answers", "on the Hub", "what it is"], rows, fold=(1, 2, 4), drop=(3, 2)
    )
    for entry in entries if verbose else []:
        metrics = ", ".join(f"{metric['name']} ({metric['unit']})" for metric in entry["metrics"])
        console.print(wrapped(f"{entry['name']}: {metrics}", console.width), soft_wrap=True)
        console.print(wrapped(f"source: {entry['source']}\n", console.width, "  "), soft_wrap=True)


def _print_probes(entries: list[dict[str, Any]], verbose: bool) -> None:
    console = make_console()
    print_table(console, ["probe", "what it does"], [[e["name"], e["summary"]] for e in entries], fold=(1,))
    for entry in entries if verbose else []:
        for metric in entry["metrics"]:
            told = f"{entry['name']}: {metric['name']} ({metric['unit']}): {metric['definition']}"
            console.print(wrapped(told, console.width), soft_wrap=True)
        console.print(wrapped(f"source: {entry['source']}\n", console.width, "  "), soft_wrap=True)


def _print_models(entries: list[dict[str, Any]], verbose: bool) -> None:
    rows = [
        [
            entry["name"],
            f"{entry['parameters_billion']:.3g}",
            entry["default_scoring"],
            # Below its id: side by side they do not fit 80 columns.
            f"{entry['hub_id']}\n  {entry['note']}"
            + (f" (package {entry['package']})" if entry["package"] else ""),
        ]
        for entry in entries
    ]
    headers = ["model", "billion", "scoring", "on the Hub, and what it is"]
    print_table(make_console(), headers, rows, right=(False, True, False, False), fold=(3,), drop=(1, 2))


def _print_runs(entries: list[dict[str, Any]], verbose: bool) -> None:
    from harness.record import Score

    if not entries:
        print("no runs yet")
        return
    rows = []
    for entry in entries:
        score = Score(**entry["accuracy"]) if entry["accuracy"] else None
        state = f"{entry['state']} ({entry['failure']})" if entry["failure"] else entry["state"]
        rows.append([entry["run_id"], state, interval(score), entry["created"] or MISSING])
    print_table(make_console(), ["run", "state", "accuracy % [95%]", "created (UTC)"], rows, drop=(3,))


_TABLES: dict[str, Callable[[list[dict[str, Any]], bool], None]] = {
    "strategies": _print_strategies,
    "tasks": _print_tasks,
    "models": _print_models,
    "probes": _print_probes,
    "runs": _print_runs,
}
