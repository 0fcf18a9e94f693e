"""What can be found wrong before a run's process is started: missing packages, unusable data."""

from __future__ import annotations

from collections.abc import Iterable

from harness.contracts import DataSource, Splits
from harness.errors import MissingDependencyError, UsageError
from harness.items import check_choices, scored_items
from harness.plugins.loading import guarded_class
from harness.provenance import is_installed
from harness.registry import Registry
from harness.spec import RunSpec


def check_packages(specs: Iterable[RunSpec], registry: Registry) -> None:
    """Raise one `MissingDependencyError` naming every package that these runs need and that is not there.

    Also `UsageError` for settings that an engine cannot be used with.
    """
    needed: dict[str, str] = {}
    elsewhere: set[str] = set()  # what the plain engine does without
    for spec in specs:
        for package in registry.strategy(spec.strategy.name).packages:
            needed.setdefault(package, f"strategy '{spec.strategy.name}'")
        engine = registry.engine(spec.engine.name)
        engine().check(spec)
        for package in engine.packages:
            needed.setdefault(package, f"strategy '{spec.strategy.name}' on the {engine.name} engine")
            elsewhere.add(package)
        if spec.train.kernels == "liger":
            needed.setdefault("liger_kernel", "train.kernels=liger")
        # transformers takes flash attention from the package kernels, too.
        if spec.model.attention == "flash_attention_2" and not is_installed("kernels"):
            needed.setdefault("flash_attn", "model.attention=flash_attention_2")
    missing = {package: user for package, user in needed.items() if not is_installed(package)}
    if not missing:
        return
    message = "; ".join(
        f"{user} needs {package}, which is not installed" for package, user in missing.items()
    )
    remedy = f"pip install {' '.join(missing)}"
    if "liger_kernel" in missing:
        remedy += "\n(or all of it: pip install 'medtune[liger]')"
    if elsewhere & missing.keys():
        remedy += f"\n(or, without {' and '.join(sorted(elsewhere & missing.keys()))}: --engine plain)"
    raise MissingDependencyError(message, remedy)


def check_data(specs: Iterable[RunSpec], registry: Registry) -> list[str]:
    """Read and check each task's data once; returns what the user should hear of it.

    All splits: a run that trains loads its test split only afterwards, and a bad row in it must not be found
    hours later. Raises `DataError` naming the file and line.
    """
    splits: dict[tuple[str, str], Splits] = {}
    for spec in specs:
        name, source = spec.task.name, spec.task.source
        # What is on the Hub is checked here only where the run itself would find it late: it takes seconds.
        if source == "hub" and not spec.trains:
            continue
        task = registry.task(name)
        with guarded_class(task):
            if (name, source) not in splits:
                splits[name, source] = task().load(DataSource.parse(source))
            asked = scored_items(splits[name, source], spec.task.split, spec.task.limit)
            check_choices(task(), asked, spec.task.scoring)
        for name in spec.probes:
            probe = registry.probe(name)
            with guarded_class(probe):
                reason = probe().refusal(task(), spec.task.scoring, asked)
            if reason:
                raise UsageError(
                    f"probe '{name}' measures nothing here: {reason}", "Leave --probe out, or ask otherwise."
                )
    return list(dict.fromkeys(line for loaded in splits.values() for line in loaded.notices))


class ValidationSizes:
    """How many validation items the data of a run has; each data set is read once.

    Raises `DataError` as `check_data`.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[tuple[str, str], int] = {}

    def __call__(self, spec: RunSpec) -> int:
        key = (spec.task.name, spec.task.source)
        if key not in self._known:
            task = self._registry.task(spec.task.name)
            with guarded_class(task):
                self._known[key] = len(task().load(DataSource.parse(spec.task.source)).validation)
        return self._known[key]
