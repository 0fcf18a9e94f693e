"""Every command in README.md and docs/ is one that the program takes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
PAGES = [HERE / "README.md", *sorted((HERE / "docs").glob("*.md"))]
COMMAND = re.compile(r"^\s*(?:\$ )?python -m harness (run|list) ?(.*?)(?:\s+#.*)?$", re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        found += [(page.name, f"{verb} {rest}".strip()) for verb, rest in COMMAND.findall(text)]
    return found


def plugin_of(page: Path) -> str:
    """The example plugin: the README's Python block."""
    block = re.search(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    return block[1]


def test_there_are_commands() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize(("page", "command"), commands())
def test_command_is_taken(page: str, command: str, tmp_path: Path) -> None:
    (tmp_path / "bitfit.py").write_text(plugin_of(HERE / "README.md"))
    (tmp_path / "DIR").mkdir()
    words = shlex.split(command)
    if words[0] == "run":
        if "--data" in words:
            words[words.index("--data") + 1] = "sample"
        else:
            words += ["--data", "sample"]
        words += ["--dry-run", "--results", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{page}: {command}\n{done.stderr}"
