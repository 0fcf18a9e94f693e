"""What stands in records, names, data and errors reaches no terminal as an order to it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys

import pytest
from stored import write_run
from stubs import PLUGIN, ROOT

from harness.cli import main
from harness.io.terminal import SafeStream, harmless, make_console, safe_output
from harness.launch.board import LiveBoard, ParallelLines
from harness.launch.progress import LiveDisplay, PlainDisplay
from harness.record import Failure, RunRecord

EVIL = "\x1b]0;title\x07\x1b[2J\x9b31m\x00\x7f\u202edcba\u2066\u2069\u200f\x08\r[bold]x[/bold]"
OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]|\r(?!\n)")


def assert_harmless(*texts: str) -> None:
    for text in texts:
        assert not OBEYED.search(text), repr(OBEYED.search(text))


@pytest.fixture
def root(tmp_path):
    """A results folder in which every text that is free is hostile."""
    root = tmp_path / "runs"
    names = [
        write_run(root, f"lora{EVIL}", [1, 1, 0, 1], title=f"T{EVIL}", subgroups=[EVIL, EVIL, "b", "b"],
                  settings={EVIL: EVIL, "y": [EVIL]}, device=EVIL, packages={EVIL: EVIL}),
        write_run(root, "full", [1, 0, 0, 1], title=f"T{EVIL}", subgroups=[EVIL, EVIL, "b", "b"]),
        write_run(root, "bad", [1], failed=True),
    ]  # fmt: skip
    for name in names:
        path = root / name / "record.json"
        value = json.loads(path.read_text())
        value["created"] += EVIL
        if value["failure"]:
            value["failure"] |= {"message": EVIL, "remedy": EVIL, "traceback": f"a\n{EVIL}", "phase": EVIL}
        for part, field in (
            ("data", "note"),
            ("data", "revision"),
            ("environment", "git"),
            ("environment", "driver"),
            ("model", "revision"),
        ):
            if value[part]:
                value[part][field] = EVIL
        if value["model"]:
            value["model"]["notes"] = [EVIL]
        path.write_text(json.dumps(value))
    (root / f"x{EVIL}".replace("\0", "").replace("/", "")).mkdir()
    (root / "broken").mkdir()
    (root / "broken" / "record.json").write_text(json.dumps({"schema_version": EVIL}))
    return root


COMMANDS = [
    ["list", "runs"],
    ["list", "runs", "--json"],
    ["show", "medqa-lora"],
    ["show", "medqa-bad"],
    ["show", "medqa-lora", "--json"],
    ["show", EVIL.replace("\0", "")],
    ["report"],
    *[["report", "--format", form] for form in ("markdown", "html", "csv", "latex", "json")],
    ["compare", "medqa-lora", "full"],
    ["compare", "medqa-lora", "full", "--format", "markdown"],
    ["compare", "medqa-lora", EVIL],
    *[
        ["check", "--baseline", "medqa-lora", "--candidate", "full", "--format", form]
        for form in ("text", "github", "junit", "json")
    ],
    ["run", "--strategy", EVIL, "--task", EVIL, "--model", EVIL, "--set", EVIL, "--data", "sample"],
    ["run", "--plugin", EVIL],
    ["run", "--study", EVIL],
    ["run", "--limit", EVIL],
    [EVIL],
]


@pytest.mark.parametrize(
    "words", COMMANDS, ids=lambda words: " ".join(words).encode("ascii", "replace").decode()[:40]
)
def test_no_command_hands_on_what_a_terminal_obeys(root, words, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    words = [*words, "--results", str(root)] if words != [EVIL] else words
    with contextlib.suppress(SystemExit):
        main(words)
    out, err = capsys.readouterr()
    assert out + err
    assert_harmless(out, err)


def test_colours_of_our_own_are_kept_and_those_of_a_name_are_not():
    stream = io.StringIO()
    console = make_console(stream, 80, force_terminal=True, color_system="standard")
    console.print(f"name {EVIL}\x1b[31m", style="bold red")
    assert stream.getvalue().count("\x1b") == stream.getvalue().count("\x1b[1;31m") + stream.getvalue().count(
        "\x1b[0m"
    )
    assert "\\x1b[31m" in stream.getvalue()
    assert "[bold]x[/bold]" in stream.getvalue()


def test_the_displays_of_a_run(one, tmp_path):
    events = [
        {"event": "notice", "text": EVIL},
        {"event": "phase", "name": EVIL},
        {"event": "step", "step": 1, "of": 2, "loss": 1.0, "phase": EVIL},
        {"event": "progress", "phase": EVIL, "done": 1, "of": 2, "memory_bytes": 1, "memory_kind": EVIL},
    ]
    spec = one()
    spec = spec.model_copy(update={"task": spec.task.model_copy(update={"name": f"t{EVIL}"})})
    failure = Failure(phase=EVIL, kind="error", message=EVIL, remedy=EVIL)
    record = RunRecord(run_id=spec.run_id, status="failed", spec=spec, created="now", failure=failure)
    for make in (PlainDisplay, LiveDisplay):
        stream = io.StringIO()
        with safe_output_to(stream), make(EVIL, sys.stderr) as display:
            for event in events:
                display(event)
        assert_harmless(re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()))
    for board in (ParallelLines, LiveBoard):
        stream = io.StringIO()
        with safe_output_to(stream), board([spec], tmp_path, stream=sys.stderr) as shown:
            with shown.follow(spec) as display:
                for event in events:
                    display(event)
            shown.ended(spec, record, None)
        text = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
        assert "\\x1b" in text
        assert_harmless(text)


class safe_output_to:
    """Standard error goes, made harmless, to `stream`."""

    def __init__(self, stream):
        self.stream = stream

    def __enter__(self):
        self.before, sys.stderr = sys.stderr, self.stream
        self.safe = safe_output()
        self.safe.__enter__()

    def __exit__(self, *error):
        self.safe.__exit__(*error)
        sys.stderr = self.before


def test_what_an_encoding_lacks_is_written_out_and_no_traceback():
    raw = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    assert stream.write("Müller \ud800 ✓\n") == len("Müller \ud800 ✓\n")
    assert raw.getvalue() == b"M\\xfcller \\xd800 \\u2713\n"


def test_lines_and_letters_of_all_scripts_stay():
    for text in ("a\tb\nc\r\nd", "Müller, 王, عربي, नमस्ते\u200d, ✓ 👩\u200d⚕️", "x\xa0y", "\\x1b"):
        assert harmless(text) == text


def test_streams_are_put_back(capsys):
    before = sys.stdout, sys.stderr
    main(["list", "models"])
    assert (sys.stdout, sys.stderr) == before


def test_a_bug_s_traceback_is_harmless_too(tmp_path):
    plugin = tmp_path / "sitecustomize.py"
    plugin.write_text(
        "import sys\nclass Finder:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'harness.commands.list': raise RuntimeError({EVIL!r})\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    found = subprocess.run(
        [sys.executable, "-m", "harness", "list"], env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path,
        capture_output=True, timeout=60,
    )  # fmt: skip
    text = found.stderr.decode()
    assert found.returncode == 1
    assert "RuntimeError" in text
    assert_harmless(text)


def test_a_warning_of_a_plugin_is_harmless(tmp_path, capsys):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN.read_text() + f"\nprint({EVIL!r})\n")
    assert main(["list", "strategies", "--plugin", str(plugin)]) == 0
    out, err = capsys.readouterr()
    assert "\\x1b" in err
    assert_harmless(out, err)
