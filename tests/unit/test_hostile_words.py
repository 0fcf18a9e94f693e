"""Whatever stands on the command line or in a study file: one error, exit code 2, and no waiting."""

from __future__ import annotations

import os

import pytest

from harness.ask.settings import parse_value
from harness.cli import main
from harness.io import yaml_files

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
DEEP_BY_ALIASES = (
    "&a0 [x]\n"
    if False
    else "".join(f"k{i}: &a{i} {'[' * 30}{f'*a{i - 1}' if i else 'x'}{']' * 30}\n" for i in range(200))
)
MANY = "9" * 5000

VALUES = [
    "!!int x",
    "!!bool maybe",
    "!!timestamp 2001-13-45",
    "!!float x",
    "!!binary x",
    "!!python/object/apply:os.system [ls]",
    "!!python/name:os.system",
    "!mine x",
    "!<tag:yaml.org,2002:int> x",
    "!!omap [x]",
    "[" * 20_000,
    "[" * 500 + "]" * 500,
    "{a: " * 500 + "1" + "}" * 500,
    MANY,
    f"-{MANY}",
    "1e999",
    r'"\ud800"',
    r'"\U00110000"',
    r'"\x00"',
    r'"\e[31m"',
    "{a: 1, a: 2}",
    "{[a]: 1}",
    "{? {a: b} : 1}",
    "&a [*a]",
    "&a {b: *a}",
    "*nothing",
    "%YAML 9.9\n--- 1",
    "--- 1\n--- 2",
    "a: b: c",
    "\x00",
    "\x1b",
    "'",
    "x" * 70_000,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_a_value_that_cannot_be_read(value, capsys):
    with pytest.raises(ValueError, match="cannot read the value"):
        parse_value(value)
    code = main(
        [
            "run",
            "--strategy",
            "peft",
            "--task",
            "medqa",
            "--data",
            "sample",
            "--set",
            f"strategy.config={value}",
        ]
    )
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert len(err) < 2000


@pytest.mark.parametrize(
    "text",
    [*(f"set: {{strategy.config: {value}}}" for value in VALUES if "\n" not in value), BOMB, DEEP_BY_ALIASES,
     "? [a]\n: b\n", "grid: {seed: [0, 0x10, 1_000, 1e3]}", "tune: 1000000000000", "tune: -1", "plugins: [!!int x]",
     "shots: 99999999999999999999999", "".join(f"unknown{i}: 1\n" for i in range(3000)), "grid: &a {task: *a}", "[]", "x",
     "data: \"a\\0b\"", "data: ~nosuchuser/x", f"data: {'x' * 300}", "grid: {model: ~nosuchuser/m}",
     "grid: {strategy: lora, task: medqa, seed: ['" + "1" * 3000 + "']}"],
    ids=lambda text: repr(text)[:40],
)  # fmt: skip
def test_a_study_that_cannot_be_read(text, tmp_path, capsys):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    code = main(["run", "--study", str(path), "--dry-run", "--results", str(tmp_path / "runs")])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert len(err) < 12_000


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "loop", "large", "not text", "utf-16"])
def test_a_study_that_is_no_text_file(kind, tmp_path, capsys):
    path = tmp_path / "study.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2**40)
    else:
        path.write_bytes(b"\xff\xfe\x00" if kind == "not text" else "name: x".encode("utf-16"))
    assert main(["run", "--study", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


RUN = ["run", "--strategy", "lora", "--task", "medqa", "--data", "sample", "--dry-run"]


@pytest.mark.parametrize(
    "words",
    [
        [*RUN, "--seed", MANY],
        [*RUN, "--seed", "²"],
        [*RUN, "--seed", "-1"],
        [*RUN, "--parallel", "1" + "0" * 20],
        [*RUN, "--parallel", MANY],
        [*RUN, "--tune", "1000000000000"],
        [*RUN, "--tune", "²"],
        [*RUN, "--limit", MANY],
        [*RUN, "--limit", "-1"],
        [*RUN, "--shots", MANY],
        [*RUN, "--shots", "-1"],
        [*RUN, "--processes", "1" + "0" * 20],
        [*RUN, "--timeout", MANY],
        [*RUN, "--set", f"train.max_steps={MANY}"],
        [*RUN, "--set", f"train.learning_rate={MANY}"],
        [*RUN, "--set", f"strategy.{'a.' * 5000}b=1"],
        [*RUN, "--set", f"{'a' * 5000}=1"],
        [*RUN, "--model", "x" * 300],
        [*RUN, "--model", "x/" * 4000],
        [*RUN, "--model", "~nosuchuser"],
        [*RUN, "--model", "random:~nosuchuser"],
        [*RUN, "--model", "a\0b"],
        [*RUN, "--model", "a\nb"],
        [*RUN, "--model", "a\x1bb"],
        [*RUN, "--model", "\udcff"],
        [*RUN, "--strategy", "x" * 100_000],
        [*RUN, "--task", "a\nb"],
        [*RUN, "--data", "x" * 300],
        [*RUN, "--data", "~nosuchuser/x"],
        [*RUN, "--data", "a\0b"],
        [*RUN, "--data", ""],
        [*RUN, "--results", "x" * 300],
        [*RUN, "--results", "a\0b"],
        [*RUN, "--results", ""],
        [*RUN, "--plugin", "x" * 300],
        [*RUN, "--plugin", "\udcff"],
        [*RUN, "--study", "x" * 300],
        ["show", "x" * 300],
        ["show", "a\0b"],
        ["show", "../.."],
        ["compare", "x" * 300, "y"],
        ["compare", "lora", "full", "--seed", MANY],
        ["compare", "lora", "full", "--shots", MANY],
        ["compare", "lora", "full", "--data", "~nosuchuser"],
        ["compare", "lora", "full", "--margin", MANY],
        ["check", "--baseline", "x" * 300, "--candidate", "y"],
        ["check", "--baseline", "~nosuchuser/x", "--candidate", "y"],
        ["check", "--save", "x" * 300, "--candidate", "y"],
        ["report", "--out", "x" * 300],
        ["report", "--out", "a\0b"],
        ["report", "--task", "x" * 300],
        ["list", "x" * 300],
        ["\udcff"],
        ["x" * 100_000],
    ],
    ids=lambda words: " ".join(words[-2:])[:40].encode("ascii", "replace").decode(),
)  # fmt: skip
def test_one_error_and_exit_code_2(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert "error: " in err
    assert "Traceback" not in err
    assert len(err) < 4000
    assert list(tmp_path.iterdir()) == []


def test_a_grid_of_too_many_runs(tmp_path, capsys):
    seeds = ",".join(map(str, range(400)))
    study = tmp_path / "study.yaml"
    names = ", ".join(f"random:org/m{i}" for i in range(300))
    study.write_text(
        f"grid: {{strategy: lora, task: medqa, model: [{names}], seed: [{seeds}]}}\ndata: sample\n"
    )
    assert main(["run", "--study", str(study), "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert "these are 120,000 runs, more than 100,000" in told
    assert "org/m1 " not in told  # nothing was asked of the models


def test_what_is_read_is_read_as_before():
    for text, value in (
        ("1e-4", 1e-4), ("no", "no"), ("1:30", "1:30"), ("~", None), ("", None), ("TRUE", True), ("0x10", "0x10"),
        ("-7", -7), ("+7", 7), ("'7'", "7"), ("a!b", "a!b"), ("[1, a, null]", [1, "a", None]),
        ("{a: {b: 1.}}", {"a": {"b": 1.0}}), ("[&x {a: 1}, *x]", [{"a": 1}, {"a": 1}]), ("2026-01-01", "2026-01-01"),
        (".inf", ".inf"), ("09", "09"), ("é✓", "é✓"),
    ):  # fmt: skip
        assert yaml_files.load(text) == value
        assert type(yaml_files.load(text)) is type(value)
