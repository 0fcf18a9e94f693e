"""Settings from the command line: `--set KEY=VALUE` into values, and pydantic's reasons into words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import UsageError, did_you_mean
from harness.io import yaml_files
from harness.spec import AskedModel, EngineSpec, TaskSpec, TrainSpec

ModelT = TypeVar("ModelT", bound=BaseModel)

SECTIONS: dict[str, type[BaseModel] | None] = {
    "model": AskedModel,
    "train": TrainSpec,
    "engine": EngineSpec,
    "task": TaskSpec,
    "strategy": None,  # its settings are the fields of the strategies asked for
}
MOST_DOTS = 20
LONGEST_SHOWN = 300
"""Characters of a `--set` that are shown in an error."""
# Values with an option of their own, which also resolves them.
OWN_OPTION = {
    "model.name": "--model",
    "task.name": "--task",
    "task.source": "--data",
    "strategy.name": "--strategy",
    "seed": "--seed",
}


@dataclass(frozen=True, slots=True)
class Assignment:
    """One value asked for.

    `path` is what follows the section; `text` is what the user typed; `where` is the place in a study
    file ("study.yaml:3: "), empty for the command line.
    """

    section: str
    path: tuple[str, ...]
    value: Any
    text: str
    where: str = ""

    @property
    def key(self) -> str:
        return ".".join((self.section, *self.path))


def parse_assignments(texts: Iterable[str], problems: list[str]) -> list[Assignment]:
    """Every readable `KEY=VALUE`; what is wrong with the others is added to `problems`."""
    parsed = (_parse_assignment(text, problems) for text in texts)
    return [assignment for assignment in parsed if assignment is not None]


def _parse_assignment(text: str, problems: list[str]) -> Assignment | None:
    key, equals, raw = text.partition("=")
    key = key.strip()
    shown = f"--set {text}" if len(text) <= LONGEST_SHOWN else f"--set {text[:LONGEST_SHOWN]}..."
    if not equals or not key:
        problems.append(f"{shown}: expected KEY=VALUE, such as train.learning_rate=1e-4")
        return None
    if key in OWN_OPTION:
        problems.append(f"{shown}: use {OWN_OPTION[key]}")
        return None
    if wrong := key_problem(key):
        problems.append(f"{shown}: {wrong}")
        return None
    try:
        value = parse_value(raw)
    except ValueError as error:
        problems.append(f"{shown}: {error}")
        return None
    section, *path = key.split(".")
    return Assignment(section, tuple(path), value, shown)


def key_problem(key: str) -> str:
    """Why `key` names no setting; empty where it names one (a strategy's own are checked later)."""
    section, *path = key.split(".")
    if section not in SECTIONS:
        return _unknown_section(section, path)
    if len(path) > MOST_DOTS:
        return f"more than {MOST_DOTS} dots"
    if not path or not all(path):
        return f"expected {section}.SETTING=VALUE"
    model = SECTIONS[section]
    if model is not None and path[0] not in model.model_fields:
        known = settable(section, model)
        hint = did_you_mean(path[0], known)
        return f"unknown setting '{path[0]}'{hint} ({section} has: {', '.join(known)})"
    if model is not None and len(path) > 1:
        return f"{section}.{path[0]} is one value, not a group"
    return ""


def _unknown_section(section: str, path: Sequence[str]) -> str:
    """Why a key cannot be used, with the section to put before it when it is a known setting."""
    if not path:
        homes = [
            f"{name}.{section}" for name, model in SECTIONS.items() if model and section in model.model_fields
        ]
        if homes:
            return f"settings have a section; did you mean {' or '.join(homes)}?"
        return f"unknown setting (a key is SECTION.SETTING, the sections are {', '.join(SECTIONS)})"
    return f"unknown section '{section}'{did_you_mean(section, SECTIONS)} (known: {', '.join(SECTIONS)})"


def settable(section: str, model: type[BaseModel]) -> list[str]:
    """The settings of `section` that `--set` may name."""
    return [name for name in model.model_fields if f"{section}.{name}" not in OWN_OPTION]


def parse_value(raw: str) -> Any:
    """A YAML 1.2 value: 1e-4 is a number, `no` and `1:30` are text. Raises `ValueError`."""
    try:
        return yaml_files.load(raw)
    except yaml_files.YamlError as error:
        raise ValueError(f"cannot read the value ({error.reason})") from error


def format_value(value: Any) -> str:
    """`value` as text that `parse_value` reads back as the same value."""
    if isinstance(value, str):
        try:
            if parse_value(value) == value:
                return value
        except ValueError:
            pass
    return json.dumps(value)


def build(
    model: type[ModelT], values: dict[str, Any], section: str, problems: list[str], of: str = ""
) -> ModelT | None:
    """`model` from `values`, or `None` with one line in `problems` for each value that is wrong.

    `of` names whose settings these are, where several classes share the section.
    """
    whose = f" ({of})" if of else ""
    try:
        built = model.model_validate(values)
    except ValidationError as error:
        problems += [f"{reason}{whose}" for reason in reasons(error, section)]
        return None
    except UsageError as error:  # a strategy's own check, which pydantic lets through
        problems.append(one_line(error))
        return None
    # Pydantic takes true for 1, which is never what was meant.
    switched = [
        f"{section}.{key}=true: should be a number{whose}"
        for key, value in values.items()
        if value is True and type(getattr(built, key, True)) in (int, float)
    ]
    problems += switched
    return None if switched else built


def reasons(error: ValidationError, section: str) -> list[str]:
    """One readable line for each thing pydantic found wrong in `section`."""
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join([section, *map(str, item["loc"])])
        reason = item["msg"].removeprefix("Value error, ").replace("Input should", "should")
        # A missing value has no input of its own: pydantic shows the whole section there.
        given = "" if item["type"] == "missing" or not item["loc"] else f"={format_input(item['input'])}"
        lines.append(f"{key}{given}: {reason}")
    return lines


def one_line(error: UsageError) -> str:
    """An error as one entry of a list of problems."""
    return f"{error.message} {error.remedy}".rstrip()


def format_input(value: Any) -> str:
    """A value as shown in an error: short, however long the value is."""
    try:
        text = format_value(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
