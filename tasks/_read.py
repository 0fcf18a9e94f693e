"""Reading JSON and JSON Lines with errors that name the file, the line and what to do.

Standard library only: `list` and `--help` load every task.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import DataError, did_you_mean
from harness.io.files import NotReadableError, read_bounded
from harness.io.json_files import BoundsError, loads_bounded
from tasks._text import decode

MOST_BYTES = 2**30
"""Of a data file. MedMCQA, the largest of its kind, has 130 million."""

TYPE_NAMES = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true/false",
    int: "a number",
    float: "a number",
}


def type_name(value: object) -> str:
    """What JSON calls the type of `value`, for messages."""
    return "null" if value is None else TYPE_NAMES.get(type(value), type(value).__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One record and where it stands: `where` is "FILE, line 7", or "NAME test, row 7"."""

    values: Mapping[str, Any]
    where: str

    def error(self, problem: str, remedy: str) -> DataError:
        """A `DataError` about this row; the caller raises it."""
        return DataError(f"{self.where}: {problem}", remedy)

    def get(self, column: str) -> Any:
        """The value of a column that must be there."""
        if column not in self.values:
            there = ", ".join(sorted(self.values)) or "none"
            raise self.error(
                f"column '{column}' is missing (there: {there}){did_you_mean(column, self.values)}",
                f"Rename or add the column: every row needs '{column}'.",
            )
        return self.values[column]

    def text(self, column: str) -> str:
        """A text that is not blank, exactly as written (prompts keep its spaces)."""
        return self.check_text(self.get(column), f"'{column}'")

    def check_text(self, value: object, name: str) -> str:
        """`value` if it is text with something in it; `name` is what the message calls it."""
        if not isinstance(value, str):
            raise self.error(
                f"{name} is {type_name(value)}, expected text", f"Write {name} in double quotes."
            )
        if not value.strip():
            raise self.error(f"{name} is empty, expected text", "Fill it in, or delete this row.")
        return value

    def optional(self, column: str) -> str:
        """The text of a column that may be left out: empty where it is missing, null or blank."""
        value = self.values.get(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            return ""
        return self.check_text(value, f"'{column}'")

    def label(self, column: str, allowed: Sequence[str]) -> int:
        """The position in `allowed` of a label given by name."""
        value = self.text(column)
        if value not in allowed:
            raise self.error(
                f"'{column}' is '{value}', expected one of {', '.join(allowed)}{did_you_mean(value, allowed)}",
                "Correct the label; upper and lower case matter.",
            )
        return allowed.index(value)

    def index(self, column: str, size: int) -> int:
        """A label given as a whole number from 0 to `size` - 1."""
        value = self.get(column)
        is_number = type(value) is int  # not isinstance: true is an int to Python
        if not is_number or not 0 <= value < size:
            raise self.error(
                f"'{column}' is {value if is_number else type_name(value)}, "
                f"expected a whole number from 0 to {size - 1}",
                "Write the position of the right option, counted from 0.",
            )
        return int(value)


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON file that holds one object keyed by id, and the lines its keys stand on."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, list[int]]

    def where(self, key: str) -> str:
        """The file and the line on which `key` is first written, as an error names them."""
        return f"{self.path}, line {self.lines.get(key, [1])[0]}"


@dataclass(slots=True)
class Folder:
    """A folder of data files. `files` maps each file read to its SHA-256, by its path under `root`."""

    root: Path
    base: Path
    expected: str
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def find(cls, root: Path | None, name: str, expected: str) -> Folder:
        """`root`/`name` where there is such a folder, else `root`; `expected` says what it should hold."""
        if root is None:
            raise DataError(f"no folder given for {name}", "Type --data DIR with the folder's path.")
        remedy = f"Expected {expected} in {root / name} or in {root}. Check the path after --data."
        inner = root / name
        try:
            if not root.exists():
                raise DataError(f"{root}: no such folder", remedy)
            if not root.is_dir():
                raise DataError(f"{root}: is a file, expected a folder", remedy)
            return cls(root, inner if inner.is_dir() else root, expected)
        except PermissionError as error:
            raise _no_access(root) from error

    def has(self, name: str) -> bool:
        """Whether something of that name is there, be it a link that leads nowhere."""
        return os.path.lexists(self.base / name)

    def names(self) -> list[str]:
        """What the folder holds, in order."""
        try:
            return sorted(entry.name for entry in self.base.iterdir())
        except PermissionError as error:
            raise _no_access(self.base) from error

    def path_of(self, name: str) -> tuple[str, Path]:
        """The name of a file under which its hash is stored, and where it lies."""
        path = self.base / name
        return path.relative_to(self.root).as_posix(), path

    def rows(self, name: str) -> list[Row]:
        """The records of a JSON Lines file. Blank lines are skipped."""
        path = self.base / name
        text = self._text(path)
        # Not splitlines(): JSON text may hold U+2028 and the like, which are not line ends here.
        lines = text.split("\n")
        rows = []
        for number, line in enumerate(lines, start=1):
            if line.strip():
                is_cut_short = number == len(lines)
                rows.append(Row(_parse_line(line, path, number, is_cut_short), f"{path}, line {number}"))
        if not rows:
            raise DataError(
                f"{path}: the file is empty, expected one JSON object a line",
                f"Fill it, or copy it again. {name} must hold at least one row.",
            )
        return rows

    def document(self, name: str) -> Document:
        """A JSON file that holds one object keyed by id. The same id twice is refused."""
        path = self.base / name
        text = self._text(path)
        remedy = f"Expected one JSON object keyed by id. Copy {name} again from where it came."
        if not text.strip():
            raise DataError(f"{path}: the file is empty", remedy)

        def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            values = dict(pairs)
            if len(values) < len(pairs):
                _refuse_repeated_key(path, text, [key for key, _ in pairs])
            return values

        try:
            values = loads_bounded(text, pairs=unique)
        except BoundsError as error:
            raise DataError(f"{path}, line {error.lineno}: {error.msg}", remedy) from error
        except json.JSONDecodeError as error:
            cut = " (the file ends too early: it was cut short)" if not text[error.pos :].strip() else ""
            raise DataError(
                f"{path}, line {error.lineno}, column {error.colno}: broken JSON: {error.msg}{cut}", remedy
            ) from error
        if not isinstance(values, dict):
            raise DataError(f"{path}, line 1: holds {type_name(values)}, expected an object", remedy)
        if not values:
            raise DataError(f"{path}: holds no rows", remedy)
        return Document(path, values, _lines_of_keys(text))

    def _text(self, path: Path) -> str:
        content = self._bytes(path)
        self.files[self.path_of(path.name)[0]] = hashlib.sha256(content).hexdigest()
        return decode(content, path)

    def _bytes(self, path: Path) -> bytes:
        try:
            return read_bounded(path, MOST_BYTES)
        except NotReadableError as error:
            raise DataError(error.message, f"Expected {self.expected}.") from error
        except FileNotFoundError as error:
            there = self.names()
            listed = ", ".join(there[:12]) + (", ..." if len(there) > 12 else "") if there else "nothing"
            raise DataError(
                f"{path}: no such file (the folder holds: {listed}){did_you_mean(path.name, there)}",
                f"Expected {self.expected}. Add the file, rename it, or check the path after --data.",
            ) from error
        except PermissionError as error:
            raise DataError(
                f"{path}: no permission to read this file", f"Give yourself read access: chmod u+r {path}"
            ) from error
        except OSError as error:
            raise DataError(
                f"{path}: {error.strerror or error}", "Check the disk, or copy the file."
            ) from error


def _no_access(folder: Path) -> DataError:
    return DataError(
        f"{folder}: no permission to look into this folder", f"Give yourself access: chmod u+rx {folder}"
    )


def _parse_line(line: str, path: Path, number: int, is_last_without_newline: bool) -> dict[str, Any]:
    try:
        value = loads_bounded(line, pairs=_once)
    except BoundsError as error:
        raise DataError(
            f"{path}, line {number}: {error.msg}",
            "Mend this line, or write the file again (one json.dumps(row, ensure_ascii=False) a line).",
        ) from error
    except _RepeatedKeyError as error:
        raise DataError(
            f"{path}, line {number}: the column '{error}' is written twice", "Delete one of the two."
        ) from error
    except json.JSONDecodeError as error:
        where = f"{path}, line {number}, column {error.colno}"
        if line.startswith("\ufeff"):
            raise DataError(
                f"{path}, line {number}: a byte order mark in the middle of the file",
                "Files were put together. Delete the three bytes before this line's bracket.",
            ) from error
        if is_last_without_newline:
            raise DataError(
                f"{where}: the last line is half-written ({error.msg}), expected one whole JSON object a line",
                "The file was cut short: copy or download it again, or delete its last line.",
            ) from error
        raise DataError(
            f"{where}: broken JSON ({error.msg}), expected one whole JSON object a line",
            "Mend this line, or write the file again (one json.dumps(row) a line).",
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            f"{path}, line {number}: the line is {type_name(value)}, expected a JSON object",
            'Write each row on a line of its own, as {"column": value, ...}.',
        )
    return value


class _RepeatedKeyError(Exception):
    """Its text is the key."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return values


def _lines_of_keys(text: str) -> dict[str, list[int]]:
    """The lines on which each key stands; found by eye, as `json` does not tell."""
    lines: dict[str, list[int]] = {}
    line, counted = 1, 0
    for match in re.finditer(r'"([^"\\\n]+)"\s*:', text):
        line += text.count("\n", counted, match.start())
        counted = match.start()
        lines.setdefault(match[1], []).append(line)
    return lines


def _refuse_repeated_key(path: Path, text: str, keys: list[str]) -> None:
    repeated = next(key for key in keys if keys.count(key) > 1)
    lines = _lines_of_keys(text).get(repeated, [])
    where = " and ".join(f"line {line}" for line in lines[:2])
    raise DataError(
        f"{path}, {where or 'line 1'}: the key '{repeated}' is written twice in one object",
        "Delete one of the two: an id must be unique.",
    )
