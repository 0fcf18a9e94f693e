"""What produced a result: code, packages, Python and device. No environment variable, no token."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "medtune",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "deepspeed",
    "datasets",
    "lm-eval",
    "tokenizers",
    "safetensors",
    "numpy",
)


def package_versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Versions of the packages that can change a number, of those installed; `more` bring plugins."""
    found = {}
    for name in dict.fromkeys([*PACKAGES, *more]):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def is_installed(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def git_state(here: Path = ROOT) -> str | None:
    """Commit of medtune's checkout, `-dirty` appended where tracked files differ; None where it lies in none.

    An installed copy in some other repository (a virtual environment in the user's) is in no checkout
    of medtune: that repository's commit says nothing of it.
    """
    top = _git(here, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != here:
        return None
    commit = _git(here, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(  # fixed words, no shell
            # Without the index's lock: the user's own git must never find it taken.
            ["git", "--no-optional-locks", "-C", str(folder), *words],  # noqa: S607
            # In a hook of git these name the repository that is being worked on.
            env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def python_version() -> str:
    return platform.python_version()


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the platform module knows less, but something
    return platform.processor() or platform.machine()


def fingerprint(packages: dict[str, str], python: str, device_name: str, cores: int, threads: int) -> str:
    """SHA-256 over what can move a number without any setting changing."""
    known = {
        "packages": packages,
        "python": python,
        "device": device_name,
        "cores": cores,
        "threads": threads,
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
