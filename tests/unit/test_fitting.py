"""Tables at the widths of terminals: nothing sticks out, no word is cut, every name can be copied."""

from __future__ import annotations

import io
import re

import pytest

from harness.cli import main
from harness.commands.list import _print_runs
from harness.io.terminal import make_console
from harness.render.tables import print_table

WIDTHS = (60, 80, 120)
NAMES = (
    "medqa-zero-shot-smollm2-135m-s0-0123abcd",
    "pubmedqa-lora-some-very-long-model-name-for-a-run-s12-89abcdef",
)
LONGER = "pubmedqa-peft-" + "-".join(["a-model-of-a-folder"] * 6) + "-s0-89abcdef"


def entries(*names: str) -> list[dict[str, object]]:
    score = {"value": 0.532, "ci_low": 0.461, "ci_high": 0.6, "n": 200}
    rows = [
        {"run_id": name, "state": "ok", "created": "2026-01-01T00:00:00+00:00", "accuracy": score}
        for name in names
    ]
    failed = {"run_id": f"{names[0]}f", "state": "failed", "created": None, "accuracy": None}
    return [*({**row, "failure": None} for row in rows), {**failed, "failure": "out_of_memory"}]


def widest(text: str) -> int:
    return max(len(line.rstrip()) for line in text.splitlines())


@pytest.mark.parametrize("width", WIDTHS)
def test_runs_fit_and_their_names_stay_whole(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    _print_runs(entries(*NAMES), False)
    out = capsys.readouterr().out
    for name in NAMES:
        assert sum(name in line.split() for line in out.splitlines()) == 1, out
    if all(len(name) <= width for name in NAMES):
        assert widest(out) <= width
    assert "53.2 [46.1, 60.0]" in out
    assert "out_of_memory" in out


@pytest.mark.parametrize("width", WIDTHS)
def test_a_name_longer_than_the_width_has_a_line_of_its_own(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    _print_runs(entries(LONGER), False)
    lines = capsys.readouterr().out.splitlines()
    assert LONGER in lines
    assert all(len(line.rstrip()) <= width for line in lines if "pubmedqa" not in line)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "words", [("list",), ("list", "strategies", "-v"), ("list", "tasks", "-v"), ("list", "models")]
)
def test_what_there_is_fits(
    words: tuple[str, ...], width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    assert main(list(words)) == 0
    whole = set(capsys.readouterr().out.split())
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(list(words)) == 0
    out = capsys.readouterr().out
    too_long = [line for line in out.splitlines() if len(line.rstrip()) > width]
    assert all(len(line.split()) == 1 for line in too_long), too_long  # a single word, which is not cut
    cut = {word for word in out.split() if word not in whole and re.search(r"[a-z]", word)}
    said = {"Not", "shown", "at", "this", "width:"}
    assert not {word for word in cut if word.strip(".,:") not in {w.strip(".,:") for w in whole | said}}, cut


@pytest.mark.parametrize("width", WIDTHS)
def test_columns_give_way_by_importance_and_are_named(width: int) -> None:
    stream = io.StringIO()
    headers = ["run", "figure", "note", "least"]
    rows = [[NAMES[0], "1.0", "some words to be wrapped over lines", "x" * 30]]
    print_table(make_console(stream, width), headers, rows, fold=(2,), drop=(3, 2))
    out = stream.getvalue()
    assert widest(out) <= width
    assert NAMES[0] in out.split()
    assert "1.0" in out.split()
    assert ("least" in out.split()) == (width == 120)
    if width < 120:
        assert "Not shown at this width: " in out
