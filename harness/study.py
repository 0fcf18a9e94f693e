"""A command line into the runs it asks for: every name checked, every default written out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

from harness.asked import Asked, build_strategies, check_sections, read_assignments
from harness.cards import default_scoring, learning_rate_scale, resolve_model_name
from harness.contracts import Strategy, Task
from harness.errors import UsageError, all_at_once, unknown_name
from harness.registry import Registry, load_registry, plugins_of
from harness.settings import Assignment, one_line
from harness.sources import resolve_source
from harness.spec import EngineSpec, ModelSpec, PluginSpec, RunSpec, StrategySpec, TaskSpec, TrainSpec

EXAMPLE = "python -m harness run --strategy lora --task medqa"

Notify = Callable[[str], None]


def parse_grid(
    args: argparse.Namespace, registry: Registry | None = None, notify: Notify | None = None
) -> list[RunSpec]:
    """The runs that `run`'s options ask for, each once, in the order task, model, strategy, seed.

    `notify` is told what the user should know before the runs start. Raises one `UsageError` that
    names every problem of the command line.
    """
    registry = registry or load_registry(args.plugin)
    notify = notify or (lambda text: None)
    problems: list[str] = []
    tasks = _known("task", args.task, registry.tasks, problems)
    strategy_classes = _known("strategy", args.strategy, registry.strategies, problems)
    models = _models(args.model, problems)
    seeds = _seeds(args.seed, problems)
    assignments = read_assignments(args, problems)
    asked = check_sections(assignments, problems)
    strategies = build_strategies(strategy_classes, assignments, problems)
    for strategy in strategies:
        problems += _strategy_problems(strategy, asked, registry)
    _check_effect(assignments, strategies, asked, problems, notify)
    sources = _sources(args.data, tasks, problems)
    all_at_once(list(dict.fromkeys(problems)), _remedy(args))

    for task in tasks:
        if notice := sources[task.name][1]:
            notify(notice)
    specs = (
        resolve(
            strategy,
            asked,
            task=(task.name, sources[task.name][0]),
            model=model,
            seed=seed,
            plugins=plugins_of(registry, [("strategy", strategy.name), ("task", task.name)]),
        )
        for task, model, strategy, seed in product(tasks, models, strategies, seeds)
    )
    return list({spec.run_id: spec for spec in specs}.values())


def resolve(
    strategy: Strategy,
    asked: Asked,
    *,
    task: tuple[str, str],
    model: str,
    seed: int,
    plugins: tuple[PluginSpec, ...] = (),
) -> RunSpec:
    """The complete spec of one run. `task` is its name and its resolved data source.

    What a run cannot depend on is set to its default, so that its identity does not depend on it:
    `train` and `engine` of a strategy that does not train, ZeRO's settings on the plain engine.
    """
    name, source = task
    task_values = {"scoring": default_scoring(model), "shots": strategy.default_shots, **asked.task}
    train: dict[str, Any] = {}
    engine = {key: value for key, value in asked.engine.items() if key == "evaluation_batch_tokens"}
    if strategy.trains:
        train = {**asked.train}
        if train.get("learning_rate") is None:
            train["learning_rate"] = default_learning_rate(strategy, model)
        engine["name"] = _engine_name(strategy, asked)
        if engine["name"] == "deepspeed":
            engine |= asked.engine
    return RunSpec(
        model=ModelSpec(name=model, **asked.model),
        strategy=StrategySpec(name=strategy.name, settings=strategy.model_dump(mode="json")),
        task=TaskSpec(name=name, source=source, **task_values),
        train=TrainSpec(**train),
        engine=EngineSpec(**engine),
        seed=seed,
        plugins=plugins,
    )


def default_learning_rate(strategy: Strategy, model: str) -> float | None:
    """The strategy's own learning rate times the model card's scale, to three digits."""
    rate = strategy.learning_rate_default()
    return None if rate is None else float(f"{rate * learning_rate_scale(model):.3g}")


def _engine_name(strategy: Strategy, asked: Asked) -> str:
    return str(asked.engine.get("name", strategy.default_engine))


def split_list(text: str | None) -> list[str]:
    """The parts of a comma list, each once, in order."""
    parts = (part.strip() for part in (text or "").split(","))
    return list(dict.fromkeys(part for part in parts if part))


def _known(kind: str, text: str | None, table: dict[str, type[Any]], problems: list[str]) -> list[type[Any]]:
    names = split_list(text)
    if not names:
        problems.append(f"--{kind} is missing (known: {', '.join(sorted(table))})")
    problems += [unknown_name(kind, name, table) for name in names if name not in table]
    return [table[name] for name in names if name in table]


def _models(text: str | None, problems: list[str]) -> list[str]:
    models = []
    for name in split_list(text):
        try:
            models.append(resolve_model_name(name))
        except UsageError as error:
            problems.append(one_line(error))
    if not split_list(text):
        problems.append("--model is empty")
    return list(dict.fromkeys(models))


def _seeds(text: str | None, problems: list[str]) -> list[int]:
    seeds = []
    for part in split_list(text):
        if part.isascii() and part.isdigit() and int(part) < 2**32:
            seeds.append(int(part))
        else:
            problems.append(f"--seed {part}: expected a whole number from 0 to {2**32 - 1}")
    if not split_list(text):
        problems.append("--seed is empty")
    return list(dict.fromkeys(seeds))


def _strategy_problems(strategy: Strategy, asked: Asked, registry: Registry) -> list[str]:
    """What is wrong with this strategy under the settings asked for."""
    problems = []
    shots = asked.task.get("shots", strategy.default_shots)
    prompts_only = not strategy.trains
    if prompts_only and strategy.default_shots == 0 and shots:
        others = [
            cls.name for cls in registry.strategies.values() if not cls.trains and cls.default_shots > 0
        ]
        use = f"use --strategy {' or '.join(others)}" if others else "leave --shots out"
        problems.append(
            f"strategy '{strategy.name}' takes no worked examples, --shots {shots} asks for them: {use}"
        )
    if prompts_only and strategy.default_shots > 0 and shots == 0:
        problems.append(
            f"strategy '{strategy.name}' needs worked examples, --shots 0 leaves none: give --shots 1 or more"
        )
    if (
        strategy.trains
        and asked.train.get("learning_rate") is None
        and strategy.learning_rate_default() is None
    ):
        problems.append(
            f"strategy '{strategy.name}' has no default learning rate: give --set train.learning_rate=..."
        )
    return problems


def _check_effect(
    assignments: Iterable[Assignment],
    strategies: Sequence[Strategy],
    asked: Asked,
    problems: list[str],
    notify: Notify,
) -> None:
    """Settings that no run of the grid would use: ZeRO's are a mistake, training's are worth a line."""
    if not strategies:
        return
    training = [strategy for strategy in strategies if strategy.trains]
    names = ", ".join(strategy.name for strategy in strategies)
    sharded = any(_engine_name(strategy, asked) == "deepspeed" for strategy in training)
    for assignment in assignments:
        if assignment.section == "train" and not training:
            notify(f"{assignment.text} has no effect: {names} does not train")
        if assignment.key in ("engine.zero_stage", "engine.offload") and not sharded:
            problems.append(f"{assignment.text} has no effect on the plain engine: add --engine deepspeed")


def _sources(
    data: str, tasks: Sequence[type[Task]], problems: list[str]
) -> dict[str, tuple[str, str | None]]:
    """Each task's data source and notice. `auto` asks the Hub only when all else is in order."""
    if problems and data == "auto":
        return {}
    from concurrent.futures import ThreadPoolExecutor

    def source_of(task: type[Task]) -> tuple[str, str | None] | str:
        try:
            return resolve_source(data, task)
        except UsageError as error:
            return one_line(error)

    # Side by side: without a network each question takes its whole time limit.
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = dict(zip((task.name for task in tasks), pool.map(source_of, tasks), strict=True))
    problems += [answer for answer in answers.values() if isinstance(answer, str)]
    return {name: answer for name, answer in answers.items() if not isinstance(answer, str)}


def _remedy(args: argparse.Namespace) -> str:
    return "" if args.strategy and args.task else f"For example: {EXAMPLE}"
