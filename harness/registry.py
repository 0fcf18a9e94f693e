"""Finding strategies, tasks, probes and engines: the built-in ones, installed plugins, and single files."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.contracts import Engine, Probe, Strategy, Task
from harness.errors import UsageError, unknown_name
from harness.plugins.contract import contract_problems
from harness.plugins.loading import guarded, import_file, installed, read_plugin
from harness.plugins.search_path import ROOT
from harness.spec import PluginSpec, RunSpec

BUILT_IN = ("strategies", "tasks")
KINDS: dict[str, type[Any]] = {"strategy": Strategy, "task": Task, "probe": Probe, "engine": Engine}
"""What can be plugged in by a file of its own."""


@dataclass
class Registry:
    """Names to classes, and which plugin each plugged-in name came from.

    skipped: a line for each installed plugin that cannot be used.
    """

    strategies: dict[str, type[Strategy]] = field(default_factory=dict)
    tasks: dict[str, type[Task]] = field(default_factory=dict)
    probes: dict[str, type[Probe]] = field(default_factory=dict)
    engines: dict[str, type[Engine]] = field(default_factory=dict)
    origins: dict[tuple[str, str], PluginSpec] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def strategy(self, name: str) -> type[Strategy]:
        if name not in self.strategies:
            raise UsageError(unknown_name("strategy", name, self.strategies))
        return self.strategies[name]

    def task(self, name: str) -> type[Task]:
        if name not in self.tasks:
            raise UsageError(unknown_name("task", name, self.tasks))
        return self.tasks[name]

    def probe(self, name: str) -> type[Probe]:
        if name not in self.probes:
            raise UsageError(unknown_name("probe", name, self.probes))
        return self.probes[name]

    def engine(self, name: str) -> type[Engine]:
        if name not in self.engines:
            raise UsageError(unknown_name("engine", name, self.engines))
        return self.engines[name]

    def add(self, module: ModuleType, plugin: PluginSpec | None = None) -> int:
        """Register everything defined in `module` that can be plugged in; returns how many there were.

        Raises `UsageError` for those of a plugin that cannot be used, and then registers none of them.
        """
        return self._register(list(_definitions(module)), plugin)

    def add_class(self, cls: type[Any], plugin: PluginSpec) -> None:
        """Register one class of an installed plugin. Raises `UsageError` as `add` does."""
        if not issubclass(cls, tuple(KINDS.values())):
            raise UsageError(f"{_whose(plugin)}: {cls.__name__} is no Strategy, Task, Probe or Engine")
        self._register([cls], plugin)

    def _register(self, classes: Sequence[type[Any]], plugin: PluginSpec | None) -> int:
        problems = [line for cls in classes for line in contract_problems(cls)]
        if not problems:
            problems = [line for cls in classes if (line := self._taken(cls, classes))]
        if problems:
            raise UsageError(f"{_whose(plugin)}: {'; '.join(problems)}", "Mend the file.")
        for cls in classes:
            self._table(cls)[cls.name] = cls
            if plugin is not None:
                self.origins[_kind(cls), cls.name] = plugin
        return len(classes)

    def _taken(self, cls: type[Any], beside: Sequence[type[Any]]) -> str:
        """Why a class cannot have its name; empty where it can."""
        twins = [other.__name__ for other in beside if (_kind(other), other.name) == (_kind(cls), cls.name)]
        if len(twins) > 1:
            return f"{' and '.join(twins)} have one name, '{cls.name}'"
        there = self._table(cls).get(cls.name)
        if there is None or there is cls:
            return ""
        origin = self.origins.get((_kind(cls), cls.name))
        where = _whose(origin) if origin else f"{there.__module__} (built in)"
        return f"the {_kind(cls)} name '{cls.name}' is taken by {where}; give {cls.__name__} another"

    def _table(self, cls: type[Any]) -> dict[str, Any]:
        tables: dict[str, dict[str, Any]] = {
            "strategy": self.strategies,
            "task": self.tasks,
            "probe": self.probes,
            "engine": self.engines,
        }
        return tables[_kind(cls)]


def load_registry(
    plugins: Iterable[str | Path | PluginSpec] = (), *, with_installed: bool = True
) -> Registry:
    """What is built in, then installed plugins, then the plugin files given.

    The file of a `PluginSpec` is refused before anything of it is run where it is not the one of that
    hash. Raises `UsageError` for a file that cannot be used; an installed plugin is skipped then.
    """
    registry = Registry()
    for package_name in BUILT_IN:
        for module in _modules(_own_package(package_name)):
            registry.add(module)
    for room in ("harness.engines", "harness.probes"):
        for module in _modules(importlib.import_module(room)):
            registry.add(module)
    plugins = list(plugins)
    if with_installed or any(isinstance(plugin, PluginSpec) and plugin.package for plugin in plugins):
        _add_installed(registry)
    for plugin in plugins:
        if not isinstance(plugin, PluginSpec):
            _add_file(registry, Path(plugin), None)
        elif not plugin.package:
            _add_file(registry, Path(plugin.path), plugin.sha256)
    return registry


def known_strategy(spec: RunSpec, plugins: Iterable[str | Path] = ()) -> type[Strategy] | None:
    """The class of a run's strategy where it is built in or in one of the files given, which is the one
    the run had; else `None`. No code that the run itself names is loaded.
    """
    registry = load_registry(plugins, with_installed=False)
    origin = registry.origins.get(("strategy", spec.strategy.name))
    is_its = origin.sha256 in {plugin.sha256 for plugin in spec.plugins} if origin else not spec.plugins
    return registry.strategies.get(spec.strategy.name) if is_its else None


def plugins_of(registry: Registry, names: Sequence[tuple[str, str]]) -> tuple[PluginSpec, ...]:
    """The plugins that supply these (kind, name) pairs, each once."""
    found = (registry.origins.get(pair) for pair in names)
    return tuple(dict.fromkeys(plugin for plugin in found if plugin is not None))


def _own_package(name: str) -> ModuleType:
    """The package `name` that lies beside this one, whatever else is called so on the search path."""
    file = Path(ROOT) / name / "__init__.py"
    loaded = sys.modules.get(name)
    if loaded is not None:
        own = getattr(loaded, "__file__", None)
        if own and Path(own).resolve() == file.resolve():
            return loaded
        raise UsageError(
            f"a module {name} of another origin is in use ({own}), in place of medtune's own",
            f"Import medtune first, or call that module otherwise than {name}.",
        )
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
    if spec is None or spec.loader is None:
        raise UsageError(f"medtune is not whole: there is no {file}", "Install it again.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        if not info.name.startswith("_") and not info.ispkg:
            yield importlib.import_module(f"{package.__name__}.{info.name}")


def _definitions(module: ModuleType) -> Iterator[type[Any]]:
    """What a module defines that can be plugged in. An abstract base shared by several methods has no name."""
    for _, cls in inspect.getmembers(module, inspect.isclass):
        if cls.__module__ != module.__name__ or not issubclass(cls, tuple(KINDS.values())):
            continue
        if "name" in cls.__dict__:
            yield cls


def _kind(cls: type[Any]) -> str:
    return next(kind for kind, base in KINDS.items() if issubclass(cls, base))


def _whose(plugin: PluginSpec | None) -> str:
    if plugin is None:
        return "medtune"
    if plugin.package:
        return f"installed plugin {plugin.path} of package {plugin.package}"
    return f"plugin {plugin.path}"


def _add_installed(registry: Registry) -> None:
    for loaded, plugin in installed(registry.skipped.append):
        try:
            if isinstance(loaded, ModuleType):
                if not registry.add(loaded, plugin):
                    raise UsageError(f"{_whose(plugin)}: defines no strategy, task, probe or engine")
            else:
                registry.add_class(loaded, plugin)
        except UsageError as error:
            registry.skipped.append(f"{error.message} (skipped)")


def _add_file(registry: Registry, path: Path, sha256: str | None) -> None:
    content, found = read_plugin(path)
    if sha256 is not None and found != sha256:
        raise UsageError(f"plugin {path} changed since this run was described", "Run the command again.")
    name = f"medtune_plugin_{found[:16]}"
    module = sys.modules.get(name) or import_file(path, content, name)
    with guarded(f"plugin {path}", str(path)):
        added = registry.add(module, PluginSpec(path=str(path), sha256=found))
    if not added:
        raise UsageError(
            f"plugin {path}: defines no strategy, task, probe or engine",
            "A plugin is a file with a subclass of harness.contracts.Strategy, Task, Probe or Engine that has a name.",
        )
