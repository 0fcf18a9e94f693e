"""Every command in README.md and docs/ is one that the program takes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
sys.path.insert(0, str(HERE / "tests" / "unit"))

from stored import write_run  # noqa: E402

from harness.cli import main  # noqa: E402

PAGES = [HERE / "README.md", *sorted((HERE / "docs").glob("*.md"))]
COMMAND = re.compile(r"^\s*(?:\$ )?(?:python -m harness|medtune) ([a-z]+) ?(.*?)(?:\s+#.*)?$", re.MULTILINE)
STARTING = ("run", "list")
READING = ("report", "compare", "check", "show")


def commands(*verbs: str) -> list[tuple[str, str]]:
    """(page, command) in the order in which a page gives them."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        found += [
            (page.name, f"{verb} {rest}".strip()) for verb, rest in COMMAND.findall(text) if verb in verbs
        ]
    return found


def block_of(page: Path, language: str) -> str:
    """The first block of a language: README's example plugin, the study file of docs/grids.md."""
    block = re.search(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    return block[1]


def test_there_are_commands() -> None:
    assert len(commands(*STARTING)) >= 8
    assert {command.split()[0] for _, command in commands(*READING)} == set(READING)


@pytest.mark.parametrize(("page", "command"), commands(*STARTING))
def test_command_is_taken(page: str, command: str, tmp_path: Path) -> None:
    (tmp_path / "bitfit.py").write_text(block_of(HERE / "README.md", "python"))
    (tmp_path / "study.yaml").write_text(block_of(HERE / "docs" / "grids.md", "yaml"))
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


@pytest.mark.parametrize("page", dict.fromkeys(page for page, _ in commands(*READING)))
def test_commands_on_stored_runs_work(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page's commands in their order (some write what others read), on runs of the strategies they name."""
    correct = [int(i % 3 > 0) for i in range(1273)]
    runs = [
        write_run(tmp_path / "results" / "runs", strategy, correct, trains=strategy != "zero-shot")
        for strategy in ("lora", "full", "my-lora", "zero-shot")
    ]
    monkeypatch.chdir(tmp_path)
    for name, command in commands(*READING):
        if name == page:
            words = shlex.split(command.partition(" || ")[0])
            code = main([runs[0] if word == "RUN" else word for word in words])
            shown = capsys.readouterr()
            assert code == 0, f"{page}: {command}\n{shown.out}{shown.err}"
            for out in (word for word, before in zip(words[1:], words, strict=False) if before == "--out"):
                assert (tmp_path / out).stat().st_size > 1000


@pytest.mark.parametrize("whole", [False, True], ids=["demo", "DEMO="])
def test_the_demo_is_a_command_that_is_taken(
    whole: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    makefile = (HERE / "Makefile").read_text(encoding="utf-8")
    settings = re.search(r"^DEMO \?= (.*)$", makefile, re.MULTILINE)
    command = re.search(r"-m harness (run .*) \$\(DEMO\)$", makefile, re.MULTILINE)
    assert settings is not None
    assert command is not None
    words = shlex.split(command[1]) + ([] if whole else shlex.split(settings[1]))
    assert main([*words, "--dry-run", "--json", "--results", str(tmp_path)]) == 0
    zero_shot, qlora = json.loads(capsys.readouterr().out)
    assert (zero_shot["spec"]["strategy"]["name"], qlora["spec"]["strategy"]["name"]) == (
        "zero-shot",
        "qlora",
    )
    assert zero_shot["spec"]["task"]["limit"] is None
    assert (qlora["spec"]["train"]["max_steps"] is None) == whole
