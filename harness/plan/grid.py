"""What a grid will do, shown before it starts: runs, done, to do, to resume, and how long that takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.errors import StoreError
from harness.launch.devices import device_name
from harness.launch.progress import duration
from harness.plan.forecast import Forecaster, total
from harness.plan.tuning import Tuner
from harness.provenance import available_cores
from harness.record import RunRecord
from harness.render.tables import print_table
from harness.spec import RunSpec
from harness.store.runs import State, Store, last_checkpoint

if TYPE_CHECKING:
    from rich.console import Console

Fate = Literal["done", "to do", "to resume"]


@dataclass(frozen=True, slots=True)
class Item:
    """One run or trial of a grid. `open_rate`: its learning rate is still to be chosen."""

    spec: RunSpec
    state: State
    fate: Fate
    seconds: float | None
    trial: bool = False
    open_rate: bool = False


def make_items(
    specs: Sequence[RunSpec],
    tuner: Tuner,
    store: Store,
    *,
    force: bool,
    resume: bool,
    processes: int = 1,
    parallel: int = 1,
) -> list[Item]:
    """All trials, then all runs, each with what is in the store and a forecast."""
    forecaster = Forecaster(
        [*_records(store), *_records(tuner.store)],
        device_name(),
        processes=processes,
        parallel=parallel,
        cores=available_cores(),
    )

    def item(spec: RunSpec, where: Store, done: bool, trial: bool = False, open_rate: bool = False) -> Item:
        state: State = "absent" if open_rate else _state(where, spec)
        started = resume and not force and state not in ("absent", "ok")
        resumes = started and last_checkpoint(where.folder(spec.run_id)) is not None
        fate: Fate = "done" if done else "to resume" if resumes else "to do"
        seconds = 0.0 if done else forecaster.seconds(spec)
        return Item(spec, state, fate, seconds, trial, open_rate)

    items = [item(t, tuner.store, t.run_id in tuner.records, trial=True) for t in tuner.all]
    for spec in specs:
        found = tuner.resolved(spec)
        if tuner.is_open(spec):
            items.append(item(spec, store, done=False, open_rate=True))
        elif isinstance(found, RunRecord):
            items.append(item(spec, store, done=True))
        else:
            items.append(item(found, store, done=not force and store.state(found.run_id) == "ok"))
    return items


def _state(store: Store, spec: RunSpec) -> State:
    try:
        return store.state(spec.run_id)
    except StoreError:  # only a trial: it is tried, and why it cannot be is said then
        return "failed"


def _records(store: Store) -> list[RunRecord]:
    return store.records()[0]


def print_plan(console: Console, items: Sequence[Item], *, name: str = "", side_by_side: int = 1) -> None:
    """A line for each task, model and strategy, and what all of it comes to.

    `side_by_side` is how many runs go at once; the forecasts are of runs that went so.
    """
    groups: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        spec = item.spec
        what = f"{spec.strategy.name} (trials)" if item.trial else spec.strategy.name
        groups.setdefault((spec.task.name, spec.model.name, what), []).append(item)
    rows = [
        [
            *key,
            str(len(group)),
            *(_count(group, fate) for fate in ("done", "to do", "to resume")),
            _time(group),
        ]
        for key, group in groups.items()
    ]
    headers = ["task", "model", "strategy", "runs", "done", "to do", "to resume", "forecast"]
    title = f"Plan: {name}" if name else "Plan"
    print_table(console, headers, rows, title=title, right=(False, False, False, *[True] * 5), drop=(4, 6))
    console.print(summary(items, side_by_side), soft_wrap=True)


def summary(items: Sequence[Item], side_by_side: int = 1) -> str:
    """The whole grid in a line."""
    counts = {fate: sum(item.fate == fate for item in items) for fate in ("done", "to do", "to resume")}
    parts = [f"{n} {fate}" for fate, n in counts.items() if n or fate != "to resume"]
    seconds, unknown = total([item.seconds for item in items if item.fate != "done"])
    left = counts["to do"] + counts["to resume"]
    if not left:
        time = "nothing to run (--force runs all again)"
    elif unknown == left:
        time = "time unknown (no earlier run of their kind)"
    else:
        time = f"about {duration(seconds / min(side_by_side, left))}"
        time += f", and {unknown} of unknown time" if unknown else ""
        time += f", {side_by_side} side by side" if side_by_side > 1 else ""
    return f"{len(items)} runs: {', '.join(parts)}; {time}"


def _count(group: Iterable[Item], fate: str) -> str:
    return str(sum(item.fate == fate for item in group) or "")


def _time(group: Sequence[Item]) -> str:
    left = [item.seconds for item in group if item.fate != "done"]
    seconds, unknown = total(left)
    if not left:
        return ""
    return "unknown" if unknown == len(left) else duration(seconds) + (" +" if unknown else "")
