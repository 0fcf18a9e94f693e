"""Code of others: plugin files and installed plugins, and what is done where such code misbehaves."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import inspect
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

from harness.errors import HarnessError, UsageError
from harness.io.files import NotReadableError, read_bounded
from harness.spec import PluginSpec

ENTRY_POINT_GROUP = "medtune.plugins"
OWN_PACKAGES = ("harness", "strategies", "tasks")
MOST_BYTES = 2**22
"""A plugin is a file that somebody wrote: more than this is none."""
MOST_FILES = 1000
SAID = 300
"""Letters of an exception's text that are shown."""


@contextmanager
def guarded(what: str, file: str) -> Iterator[None]:
    """Whatever the code in `file` raises comes out as a `UsageError` that names it and the line.

    Also its attempts to end the program: sys.exit(0) would look as if all had gone well. Only a
    Ctrl-C of the user's goes through.
    """
    with _interrupts() as asked:
        try:
            yield
        except BaseException as error:
            ours = isinstance(error, HarnessError) and type(error).__module__.startswith("harness.")
            if ours or isinstance(error, GeneratorExit) or (isinstance(error, KeyboardInterrupt) and asked):
                raise  # said as an error should be, or no error
            line = _line(error, file)
            place = f"{what}:{line}" if line else what
            raise UsageError(f"{place}: {_said(error)}", "Mend the file.") from error


def guarded_class(cls: type[Any]) -> AbstractContextManager[None]:
    """`guarded` for code of a plugged-in class; nothing for our own, whose faults keep their traceback."""
    if cls.__module__.partition(".")[0] in OWN_PACKAGES:
        return contextlib.nullcontext()
    file = str(getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__)
    return guarded(f"plugin {file}", file)


def read_plugin(path: Path) -> tuple[bytes, str]:
    """The content of a plugin file and its SHA-256. Raises `UsageError` for what is no plain small file."""
    try:
        content = read_bounded(path, MOST_BYTES)
    except NotReadableError as error:
        raise UsageError(f"plugin {error.message}", "Give the path of a Python file.") from error
    except OSError as error:
        raise UsageError(f"plugin {path}: {error.strerror}", "Give the path of a Python file.") from error
    return content, hashlib.sha256(content).hexdigest()


def import_file(path: Path, content: bytes, name: str) -> ModuleType:
    """The module `name` made of `content`, which was read from `path`.

    Of these very bytes and not by way of the file or its compiled copy, which may be others by now.
    """
    if path.suffix != ".py":
        raise UsageError(f"plugin {path}: not a Python file", "Its name must end in .py.")
    loader = _Loader(name, str(path), content)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise UsageError(f"plugin {path}: not a Python file", "Its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # What it prints belongs to no result: standard output may be read by a program.
        with (
            guarded(f"plugin {path}", str(path)),
            contextlib.redirect_stdout(sys.stderr),
            _stays_here(f"plugin {path}"),
        ):
            loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, HarnessError) and str(path) not in error.message:
            raise UsageError(f"plugin {path}: {error.message}", error.remedy) from error
        raise
    return module


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a source file from bytes that were read before."""

    def __init__(self, name: str, path: str, content: bytes) -> None:
        super().__init__(name, path)
        self._content = content

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self._content, self.path, "exec", dont_inherit=True)
        return code


@contextmanager
def _stays_here(what: str) -> Iterator[None]:
    """Raise `UsageError` where another folder was gone to: paths given on the command line start here."""
    here = os.getcwd()
    try:
        yield
    finally:
        there = os.getcwd()
        os.chdir(here)
    if there != here:
        raise UsageError(f"{what}: goes to another folder (os.chdir)", "Take that out of the file.")


def installed(warn: Callable[[str], None]) -> Iterator[tuple[ModuleType | type[Any], PluginSpec]]:
    """The modules and classes that installed packages offer; a broken one is told to `warn` and skipped."""
    seen: set[tuple[str, str]] = set()
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: (point.name, point.value)):
        if (point.name, point.value) in seen:
            continue
        seen.add((point.name, point.value))
        try:
            yield _load(point)
        except UsageError as error:
            warn(f"{error.message} (skipped)")


def _load(point: EntryPoint) -> tuple[ModuleType | type[Any], PluginSpec]:
    package = point.dist.name if point.dist else point.value.partition(":")[0].partition(".")[0]
    what = f"installed plugin '{point.name}' ({point.value} of package {package})"
    with guarded(what, point.value), contextlib.redirect_stdout(sys.stderr), _stays_here(what):
        loaded = point.load()
        if not isinstance(loaded, (ModuleType, type)):
            raise UsageError(f"{what}: is neither a module nor a class")
        module = loaded if isinstance(loaded, ModuleType) else sys.modules[loaded.__module__]
        return loaded, PluginSpec(path=point.value, sha256=_sha256_of(module), package=package)


def _sha256_of(module: ModuleType) -> str:
    """SHA-256 over the source files of the package that `module` is in, or of the file it is."""
    top = sys.modules[module.__name__.partition(".")[0]]
    folders = [Path(folder) for folder in getattr(top, "__path__", [])]
    files = [(folder, path) for folder in folders for path in sorted(folder.rglob("*.py"))]
    if not files:
        own = Path(inspect.getfile(module))
        files = [(own.parent, own)]
    if len(files) > MOST_FILES:
        raise UsageError(f"its package has more than {MOST_FILES} source files", "Put the plugin in its own.")
    digest = hashlib.sha256()
    for folder, path in files:
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(hashlib.sha256(read_bounded(path, MOST_BYTES)).digest())
    return digest.hexdigest()


def _line(error: BaseException, file: str) -> int | None:
    """The line of `file` that `error` comes from."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return lines[-1] if lines else None


def _said(error: BaseException) -> str:
    """An exception in one line. It may be of the plugin's own making, and its text raise another."""
    if isinstance(error, SystemExit):
        return f"ends the program (SystemExit: {error.code!r})"[:SAID]
    told = "".join(traceback.format_exception_only(error)).strip().splitlines()
    line = told[-1] if isinstance(error, SyntaxError) else told[0]
    return line if len(line) <= SAID else f"{line[:SAID]}..."


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Filled when the user presses Ctrl-C: a KeyboardInterrupt that a plugin raises is none of theirs."""
    asked: list[int] = []
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield asked
        return

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        previous(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, previous)
