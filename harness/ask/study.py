"""A command line and a study file into the runs they ask for: every name checked, every default written out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

from harness.ask.axes import command_axes, make_variants, split_list
from harness.ask.identity import strategy_spec
from harness.ask.layers import (
    Asked,
    Named,
    Variant,
    build_variants,
    check_sections,
    layered,
    read_assignments,
)
from harness.ask.model_traits import Traits, traits_of
from harness.ask.precision import Precision
from harness.ask.settings import one_line
from harness.ask.sources import resolve_source
from harness.ask.study_file import Study, read_study
from harness.contracts import Engine, Strategy, Task
from harness.errors import UsageError, all_at_once, unknown_name
from harness.model_names import RANDOM_PREFIX
from harness.plugins.contract import ENGINE_SETTINGS, is_rate
from harness.plugins.loading import guarded_class
from harness.provenance import is_installed
from harness.registry import Registry, load_registry, plugins_of
from harness.spec import (
    AUTO,
    EngineSpec,
    ModelSpec,
    RunSpec,
    TaskSpec,
    TrainSpec,
)

EXAMPLE = "python -m harness run --strategy lora --task medqa"
DEFAULT_DATA = "auto"
MOST_RUNS = 100_000
PLAIN = "plain"
"""The engine that needs nothing but what every run needs."""
DEFAULT_SEED = int(RunSpec.model_fields["seed"].default)

Notify = Callable[[str], None]
ModelTraits = dict[tuple[str, str | None], Traits]


def parse_grid(
    args: argparse.Namespace,
    registry: Registry | None = None,
    notify: Notify | None = None,
    precision: Precision | None = None,
) -> list[RunSpec]:
    """The runs that `run`'s options ask for, each once, in the order task, model, strategy, seed.

    Options replace what a study file says of the same thing. `notify` is told what the user should
    know before the runs start; `precision` says what `model.dtype=auto` means. Raises one `UsageError`
    that names every problem.
    """
    problems: list[str] = []
    study = read_study(args.study, problems) if args.study else Study()
    registry = registry or load_registry([*args.plugin, *study.plugins])
    notify = notify or (lambda text: None)
    precision = precision or Precision()
    axes = command_axes(args)
    assignments = read_assignments(args, problems)
    variants = make_variants(study, axes, assignments, registry, problems)
    if not variants:
        check_sections(layered(study.settings, assignments), problems)
    build_variants(variants, problems)
    for variant in variants:
        if variant.strategy is not None:
            problems += _strategy_problems(variant.strategy, variant.asked, registry)
    _check_effect(variants, registry, problems, notify)
    probes = tuple(split_list(args.probe))
    problems += [
        unknown_name("probe", name, registry.probes) for name in probes if name not in registry.probes
    ]
    tasks = [registry.tasks[name] for name in _in_order(variant.tasks for variant in variants)]
    data = Named(args.data) if args.data is not None else study.data or Named(DEFAULT_DATA)
    sources = _sources(data, tasks, problems)
    all_at_once(list(dict.fromkeys(problems)), _remedy(args))
    for line in _seeds_without_effect(variants):
        notify(line)
    for task in tasks:
        if notice := sources[task.name][1]:
            notify(notice)
    _refuse_too_many(variants)
    traits = _traits(variants)
    for (model, _), found in traits.items():
        if found.unknown:
            notify(_unknown_size(model, found))
    where = {name: source for name, (source, _) in sources.items()}
    specs = _specs(variants, where, traits, registry, precision, probes)
    for reason in precision.reasons:
        notify(reason)
    return specs


def _specs(
    variants: Sequence[Variant],
    sources: dict[str, str],
    traits: ModelTraits,
    registry: Registry,
    precision: Precision,
    probes: tuple[str, ...],
) -> list[RunSpec]:
    """Every run of every variant, each once: task, model and seed in the order they were named."""
    tasks = _in_order(variant.tasks for variant in variants)
    models = _in_order(variant.models for variant in variants)
    specs = (
        resolve(
            variant.strategy,
            variant.asked,
            precision,
            task=(task, sources[task]),
            model=(model, traits[model, variant.asked.model.get("revision")]),
            seed=seed,
            registry=registry,
            probes=probes,
        )
        for task, model, variant in product(tasks, models, variants)
        if variant.strategy is not None and task in variant.tasks and model in variant.models
        for seed in variant.seeds
    )
    return list({spec.run_id: spec for spec in specs}.values())


def _refuse_too_many(variants: Sequence[Variant]) -> None:
    """Before anything is asked of each model: the Hub takes its time."""
    count = sum(len(v.tasks) * len(v.models) * len(v.seeds) for v in variants)
    if count > MOST_RUNS:
        raise UsageError(f"these are {count:,} runs, more than {MOST_RUNS:,}", "Ask for a part of them.")


def _traits(variants: Sequence[Variant]) -> ModelTraits:
    """Of each model that a run asks for, at each revision."""
    asked = [(model, v.asked.model.get("revision")) for v in variants if v.strategy for model in v.models]
    return {key: traits_of(*key) for key in dict.fromkeys(asked)}


def _unknown_size(model: str, found: Traits) -> str:
    return (
        f"the size of {model} is not known ({found.unknown}): it is scored by {found.scoring} unless you give "
        "--scoring, and learning rates are those meant for 7B"
    )


def _in_order(lists: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))


def resolve(
    strategy: Strategy,
    asked: Asked,
    precision: Precision,
    *,
    task: tuple[str, str],
    model: tuple[str, Traits],
    seed: int,
    registry: Registry,
    probes: tuple[str, ...] = (),
) -> RunSpec:
    """The complete spec of one run. `task` is its name and its resolved data source; `model` its name and
    the defaults that its size asks for.

    What a run cannot depend on is set to its default, so that its identity does not depend on it:
    `train` and `engine` of a strategy that does not train, ZeRO's settings on the plain engine, and
    the seed where nothing is drawn, so that a grid over seeds has one such run.
    """
    name, source = task
    model_name, traits = model
    task_values = {"scoring": traits.scoring, "shots": strategy.default_shots, **asked.task}
    train: dict[str, Any] = {}
    engine = {key: value for key, value in asked.engine.items() if key == "evaluation_batch_tokens"}
    trainer: type[Engine] | None = None
    if strategy.trains:
        train = {**asked.train}
        if train.get("learning_rate") is None:
            train["learning_rate"] = default_learning_rate(strategy, model_name, traits.learning_rate_scale)
        trainer = _engine(strategy, asked, registry)
        engine |= {key: value for key, value in asked.engine.items() if key in trainer.settings}
        engine["name"] = trainer.name
    dtype = precision.resolve(asked.model.get("dtype", AUTO), trainer)
    supplied = [("strategy", strategy.name), ("task", name), *(("probe", own) for own in probes)]
    supplied += [("engine", trainer.name)] if trainer is not None else []
    return RunSpec(
        model=ModelSpec(**{**asked.model, "name": model_name, "dtype": dtype}),
        strategy=strategy_spec(strategy, dtype),
        task=TaskSpec(name=name, source=source, **task_values),
        train=TrainSpec(**train),
        engine=EngineSpec(**engine),
        seed=seed if draws(strategy, asked, model_name) else DEFAULT_SEED,
        plugins=plugins_of(registry, supplied),
        probes=probes,
    )


def draws(strategy: Strategy, asked: Asked, model: str) -> bool:
    """Whether another seed would give another result: training, worked examples, or random weights."""
    shots = asked.task.get("shots", strategy.default_shots)
    return strategy.trains or shots > 0 or model.startswith(RANDOM_PREFIX)


def default_learning_rate(strategy: Strategy, model: str, scale: float) -> float | None:
    """The strategy's own learning rate times the model's scale, to three digits.

    Raises `UsageError` where that is no learning rate.
    """
    rate = own_learning_rate(strategy)
    if rate is None:
        return None
    scaled = float(f"{rate * scale:.3g}")
    if not is_rate(scaled):
        raise UsageError(
            f"strategy '{strategy.name}' comes to a learning rate of {scaled:g} for {model}",
            "Give one: --set train.learning_rate=...",
        )
    return scaled


def own_learning_rate(strategy: Strategy) -> float | None:
    """What the strategy takes for its learning rate. Raises `UsageError` for what can be none."""
    with guarded_class(type(strategy)):
        rate = strategy.learning_rate_default()
    if rate is not None and not is_rate(rate):
        raise UsageError(
            f"strategy '{strategy.name}' ({type(strategy).__module__}): its learning_rate_default() is {rate!r}",
            "A learning rate is a number above 0 and at most 10; or give one: --set train.learning_rate=...",
        )
    return rate


def _engine(strategy: Strategy, asked: Asked, registry: Registry) -> type[Engine]:
    """The engine asked for, by its name or by a setting that only the strategy's own has; else that.

    A strategy's own choice gives way to the plain engine where what it needs is not installed (the run says
    so); one that was asked for is refused there, before anything runs. Raises `UsageError` for an unknown name.
    """
    if "name" in asked.engine:
        return registry.engine(str(asked.engine["name"]))
    own = registry.engines.get(strategy.default_engine)
    if own is None:
        raise UsageError(
            f"strategy '{strategy.name}': "
            + unknown_name("engine", strategy.default_engine, registry.engines),
            "Give one: --engine plain.",
        )
    if own.settings & asked.engine.keys() or all(map(is_installed, own.packages)):
        return own
    return registry.engine(PLAIN)


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
    if strategy.trains and asked.train.get("learning_rate") is None and own_learning_rate(strategy) is None:
        problems.append(
            f"strategy '{strategy.name}' has no default learning rate: give --set train.learning_rate=..."
        )
    return problems


def _check_effect(
    variants: Sequence[Variant], registry: Registry, problems: list[str], notify: Notify
) -> None:
    """Settings that no run of the grid would use: ZeRO's are a mistake, training's are worth a line."""
    users: dict[str, list[Variant]] = {}
    for variant in variants:
        for assignment in variant.assignments:
            if variant.strategy is not None:
                users.setdefault(assignment.text, []).append(variant)
    texts = {a.text: a for variant in variants for a in variant.assignments}
    for text, used_by in users.items():
        assignment = texts[text]
        training = [v for v in used_by if v.strategy is not None and v.strategy.trains]
        if assignment.section == "train" and not training:
            names = ", ".join(dict.fromkeys(variant.cls.name for variant in used_by))
            notify(f"{text} has no effect: {names} does not train")
        section, _, name = assignment.key.partition(".")
        if section == "engine" and name in ENGINE_SETTINGS:
            problems += _without_effect(text, name, training, registry)


def _without_effect(text: str, name: str, training: Sequence[Variant], registry: Registry) -> list[str]:
    """Why a setting of engines changes nothing for any of these, with the engine that it is meant for."""
    used = {_engine(v.strategy, v.asked, registry) for v in training if v.strategy is not None}
    if any(name in engine.settings for engine in used):
        return []
    where = " and ".join(sorted(engine.name for engine in used)) or PLAIN
    meant = sorted(engine.name for engine in registry.engines.values() if name in engine.settings)
    return [f"{text} has no effect on the {where} engine: add --engine {' or '.join(meant)}"]


def _seeds_without_effect(variants: Sequence[Variant]) -> list[str]:
    """A line for each strategy that gives the same for all the seeds asked for."""
    found = [
        f"{variant.cls.name} draws nothing: one run stands for seeds {', '.join(map(str, variant.seeds))}"
        for variant in variants
        if variant.strategy is not None
        and len(variant.seeds) > 1
        and not all(draws(variant.strategy, variant.asked, model) for model in variant.models)
    ]
    return list(dict.fromkeys(found))


def _sources(
    data: Named, tasks: Sequence[type[Task]], problems: list[str]
) -> dict[str, tuple[str, str | None]]:
    """Each task's data source and notice. `auto` asks the Hub only when all else is in order."""
    if problems and data.value == "auto":
        return {}
    from concurrent.futures import ThreadPoolExecutor

    def source_of(task: type[Task]) -> tuple[str, str | None] | str:
        try:
            return resolve_source(data.value, task)
        except UsageError as error:
            return data.where + one_line(error)

    # Side by side: without a network each question takes its whole time limit.
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = dict(zip((task.name for task in tasks), pool.map(source_of, tasks), strict=True))
    problems += [answer for answer in answers.values() if isinstance(answer, str)]
    return {name: answer for name, answer in answers.items() if not isinstance(answer, str)}


def _remedy(args: argparse.Namespace) -> str:
    return "" if args.study or (args.strategy and args.task) else f"For example: {EXAMPLE}"
