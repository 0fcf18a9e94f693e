"""What lies in the folder that the user stands in is never taken for a module of ours or of Python's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stubs import ROOT

from harness.plugins.search_path import child_variables

TRAPS = ("tasks", "strategies", "json", "rich", "torch", "pydantic", "argparse")


@pytest.fixture
def trapped(tmp_path: Path) -> Path:
    """A folder with modules of well-known names that each leave a mark when they are imported."""
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(
            "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"
            "raise ImportError('the wrong ' + __name__)\n"
        )
    return tmp_path


def python(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def marks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ran"))


@pytest.mark.parametrize("path", [str(ROOT), f"{ROOT}{os.pathsep}", f"{os.pathsep}{ROOT}"])
def test_modules_of_the_current_folder_are_not_imported(trapped, path):
    found = python(trapped, "-m", "harness", "list", "--json", PYTHONPATH=path)
    assert found.returncode == 0, found.stderr
    assert '"name": "medqa"' in found.stdout
    assert '"name": "qlora"' in found.stdout
    assert marks(trapped) == []


def test_the_console_script_takes_its_own_packages(trapped):
    script = "import sys; from harness.cli import main; sys.exit(main(['list', '--json']))"
    found = python(trapped, "-P", "-c", script)
    assert found.returncode == 0, found.stderr
    assert '"name": "medqa"' in found.stdout
    # Named by the user ahead of everything: theirs, but still not in place of our own two.
    (trapped / "named").mkdir()
    for name in ("tasks", "strategies"):
        (trapped / f"{name}.py").rename(trapped / "named" / f"{name}.py")
    found = python(trapped, "-P", "-c", script, PYTHONPATH=f"{trapped / 'named'}{os.pathsep}{ROOT}")
    assert found.returncode == 0, found.stderr
    assert '"name": "medqa"' in found.stdout
    assert marks(trapped / "named") == []


def test_a_run_s_process_does_not_look_in_the_current_folder(trapped):
    program = "import json, argparse, harness.registry as r; r.load_registry().task('medqa')"
    for start in (["-c", program], ["-m", "harness", "list"]):
        found = python(trapped, *start, **child_variables())
        assert found.returncode == 0, found.stderr
    assert marks(trapped) == []


def test_the_path_of_a_run_s_process_names_our_packages_once(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "/elsewhere", ""]))
    assert child_variables() == {
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), "/elsewhere"]),
    }
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert child_variables()["PYTHONPATH"] == str(ROOT)


def test_every_way_to_start_a_run_has_that_environment():
    from harness.launch.local import LaunchOptions

    assert child_variables().items() <= LaunchOptions().child_environment().items()


def test_another_module_of_that_name_is_told(trapped):
    program = (
        "import sys, types; sys.modules['tasks'] = types.ModuleType('tasks')\n"
        "from harness.cli import main; sys.exit(main(['list', 'tasks']))"
    )
    found = python(trapped, "-P", "-c", program)
    assert found.returncode == 2
    assert found.stderr.startswith("error: a module tasks of another origin is in use")
