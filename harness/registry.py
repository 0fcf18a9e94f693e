"""Finding strategies and tasks: the built-in ones, installed plugins, and single files."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.contracts import Strategy, Task
from harness.errors import UsageError, unknown_name
from harness.spec import PluginSpec

ENTRY_POINT_GROUP = "medtune.plugins"


@dataclass
class Registry:
    """Names to classes, and which plugin file each plugged-in name came from."""

    strategies: dict[str, type[Strategy]] = field(default_factory=dict)
    tasks: dict[str, type[Task]] = field(default_factory=dict)
    origins: dict[tuple[str, str], PluginSpec] = field(default_factory=dict)

    def strategy(self, name: str) -> type[Strategy]:
        if name not in self.strategies:
            raise UsageError(unknown_name("strategy", name, self.strategies))
        return self.strategies[name]

    def task(self, name: str) -> type[Task]:
        if name not in self.tasks:
            raise UsageError(unknown_name("task", name, self.tasks))
        return self.tasks[name]

    def add(self, module: ModuleType, plugin: PluginSpec | None = None) -> int:
        """Register every strategy and task defined in `module`; returns how many there were."""
        found = 0
        for cls in _definitions(module):
            is_strategy = issubclass(cls, Strategy)
            kind = "strategy" if is_strategy else "task"
            table: dict[str, Any] = self.strategies if is_strategy else self.tasks
            name = cls.__dict__.get("name")
            if not isinstance(name, str):
                continue  # an abstract base shared by several methods has no name
            existing = table.get(name)
            if existing is not None and existing is not cls:
                raise UsageError(
                    f"{kind} '{name}' of {module.__name__} is already defined in {existing.__module__}",
                    "Give it another name.",
                )
            table[name] = cls
            if plugin is not None:
                self.origins[kind, name] = plugin
            found += 1
        return found


def load_registry(plugins: Iterable[str | Path] = ()) -> Registry:
    """The built-in strategies and tasks, then installed plugins, then the plugin files given."""
    registry = Registry()
    for package_name in ("strategies", "tasks"):
        for module in _modules(package_name):
            registry.add(module)
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        registry.add(entry_point.load())
    for path in plugins:
        _add_file(registry, Path(path))
    return registry


def plugins_of(registry: Registry, names: Sequence[tuple[str, str]]) -> tuple[PluginSpec, ...]:
    """The plugin files that supply these (kind, name) pairs, each once."""
    found = (registry.origins.get(pair) for pair in names)
    return tuple(dict.fromkeys(plugin for plugin in found if plugin is not None))


def _modules(package_name: str) -> Iterator[ModuleType]:
    package = importlib.import_module(package_name)
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        if not info.name.startswith("_") and not info.ispkg:
            yield importlib.import_module(f"{package_name}.{info.name}")


def _definitions(module: ModuleType) -> Iterator[type]:
    for _, cls in inspect.getmembers(module, inspect.isclass):
        defined_here = cls.__module__ == module.__name__
        if defined_here and issubclass(cls, (Strategy, Task)) and not inspect.isabstract(cls):
            yield cls


def _add_file(registry: Registry, path: Path) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"plugin {path}: {error.strerror}", "Give the path of a Python file.") from error
    sha256 = hashlib.sha256(content).hexdigest()
    module_name = f"medtune_plugin_{sha256[:16]}"
    module = sys.modules.get(module_name) or _import_file(path, module_name)
    added = registry.add(module, PluginSpec(path=str(path), sha256=sha256))
    if not added:
        raise UsageError(
            f"plugin {path}: defines no strategy and no task",
            "A plugin is a file with a subclass of harness.contracts.Strategy or Task that has a name.",
        )


def _import_file(path: Path, module_name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"plugin {path}: not a Python file", "Its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        # A plugin is the user's code: whatever it raises is shown as theirs, with where.
        del sys.modules[module_name]
        raise UsageError(f"plugin {path}: {type(error).__name__}: {error}", "Mend the file.") from error
    return module
