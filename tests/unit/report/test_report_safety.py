"""What stands in a name, a label or a message does nothing in any format."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made import spec_of, write_run

from harness.commands.report import render
from harness.record import Failure
from harness.render.clean import csv_cell, latex
from harness.report.build import build_report
from harness.report.options import Options
from harness.store.runs import Store

HOSTILE = (
    "<script>alert(1)</script>",
    '=HYPERLINK("http://x","y")',
    "</script><img src=x onerror=alert(1)>",
    "a|b `c` [d](javascript:alert(1)) **e**\n# f",
    "\x1b[31mred\x1b]0;title\x07 \u202edcba",
    r"\input{/etc/passwd} $x$ 100% {a}_b^c ~ & #",
    "{{ 7 * 7 }}{% raw %}",
    "@SUM(1)",
    "\t+1",
    "-1+1|cmd",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("hostile")
    for name in HOSTILE:
        write_run(root, spec_of(name), note=name)
        write_run(
            root,
            spec_of(name, "pubmedqa"),
            failure=Failure(phase="train", kind="error", message=name, remedy=name),
        )
    write_run(root, spec_of("full", settings={"x": HOSTILE[0]}))
    report = build_report(
        Store(root),
        Options(command=lambda records: f"run {records[0].spec.strategy.name}", confidences=True),
    )
    return {
        name: render(report, name, Store(root))
        for name in ("text", "markdown", "html", "csv", "latex", "json")
    }


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_html_holds_no_element_and_no_handler_from_data(hostile: dict[str, str]):
    page = Elements()
    page.feed(hostile["html"])
    scripts = [attrs for tag, attrs in page.found if tag == "script"]
    assert [attrs.get("type") for attrs in scripts] == ["application/json", None]
    assert not any(tag in ("img", "iframe", "object", "embed", "base", "form") for tag, _ in page.found)
    for _, attrs in page.found:
        assert not any(name.startswith("on") or name == "style" for name in attrs)
        assert "javascript:" not in (attrs.get("href") or "")
        assert "src" not in attrs
    assert "49" not in re.findall(r"<th scope=\"row\"[^>]*>([^<]*)", hostile["html"])
    assert (
        "http://x" not in re.sub(r">[^<]*<", "><", hostile["html"]).replace("&#34;", '"').split("<style>")[0]
    )


def test_the_data_in_the_page_cannot_end_its_script_and_is_whole(hostile: dict[str, str]):
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', hostile["html"], re.DOTALL)
    assert data is not None
    labels = {row["label"] for table in json.loads(data[1])["tables"] for row in table["rows"]}
    assert HOSTILE[2] in labels


def test_only_the_own_script_may_run(hostile: dict[str, str]):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', hostile["html"])
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]


def test_csv_has_no_formula(hostile: dict[str, str]):
    for row in csv.DictReader(io.StringIO(hostile["csv"])):
        for name, value in row.items():
            if not re.fullmatch(r"-?[\d.]+(e-?\d+)?", value or ""):
                assert (value or "")[:1] not in ("=", "+", "-", "@", "\t", "\r"), (name, value)


@pytest.mark.parametrize("name", ["text", "markdown", "latex", "csv", "json"])
def test_nothing_that_a_terminal_obeys(hostile: dict[str, str], name: str):
    assert re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", hostile[name]) == []


def test_markdown_is_words_only(hostile: dict[str, str]):
    outside = re.sub(r"```+sh\n.*?\n```+\n", "", hostile["markdown"], flags=re.DOTALL)
    assert not re.search(r"<[a-zA-Z/!]", outside)
    assert not re.search(r"(?<!\\)\[[^\]]*\]\(", outside)
    tables = [block for block in outside.split("\n\n") if block.startswith("| ")]
    assert tables
    for table in tables:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table


def test_latex_has_no_command_from_data(hostile: dict[str, str]):
    assert r"\input" not in hostile["latex"].replace(r"\textbackslash{}input", "")
    assert latex(r"a_b & 100% \x {y}") == r"a\_b \& 100\% \textbackslash{}x \{y\}"
    assert hostile["latex"].count(r"\begin{tabular}") == hostile["latex"].count(r"\end{tabular}")
    assert r"\toprule" in hostile["latex"]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(hostile: dict[str, str], tmp_path: Path):
    (tmp_path / "report.tex").write_text(hostile["latex"], encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "report.tex"],
        cwd=tmp_path, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("=1", "'=1"), (" =1", "' =1"), ("+1", "'+1"), ("-1", "'-1"), ("@a", "'@a"), ("a=1", "a=1"), ("", "")],
)
def test_csv_cell(text: str, shown: str):
    assert csv_cell(text) == shown
