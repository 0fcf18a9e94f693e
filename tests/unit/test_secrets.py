"""Passwords and tokens in addresses are in no message and no record."""

from __future__ import annotations

import json

import pytest
from stubs import PLUGIN

from harness.ask.sources import hub_problem
from harness.cli import main
from harness.errors import UsageError
from harness.escape import masked
from harness.record import Failure


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:s3cret@hub.example/api", "https://***@hub.example/api"),
        ("https://s3cret@hub.example", "https://***@hub.example"),
        ("https://user:s3/cr@et@hub.example:8080/x", "https://***@hub.example:8080/x"),
        ("('http://u:s3cret@h/a', 1) and https://h2/b", "('http://***@h/a', 1) and https://h2/b"),
        ("https://h/x?access_token=s3cret&a=1", "https://h/x?access_token=***&a=1"),
        ("https://h/x?a=1&api-key=s3cret", "https://h/x?a=1&api-key=***"),
        ("https://h/x?X-Amz-Signature=s3cret#f", "https://h/x?X-Amz-Signature=***#f"),
        ("Authorization: Bearer s3cret", "Authorization: Bearer ***"),
        ("token hf_abcdefghijklmnopqrstuv", "token hf_***"),
    ],
)
def test_secrets_are_masked(text, shown):
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text", ["https://hub.example/a?b=1", "me@example.org", "a: b", "monkey=1&turkey=2", "https://h/x?page=2"]
)
def test_other_texts_stay(text):
    assert masked(text) == text


@pytest.mark.parametrize(
    "endpoint", ["http://user:s3cret@localhost:1", "ftp://user:s3cret@h", "user:s3cret@h"]
)
def test_the_password_of_the_hub_s_address_is_in_no_message(endpoint, monkeypatch, tmp_path, capsys):
    from harness.registry import load_registry

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    problem = hub_problem(load_registry().task("medqa"))
    assert problem is not None
    assert "s3cret" not in problem
    words = ["--strategy", "lora", "--task", "medqa", "--dry-run", "--results", str(tmp_path / "runs")]
    assert main(["run", "--plugin", str(PLUGIN), *words]) == 0
    out, err = capsys.readouterr()
    assert "NOT THE REAL" in err
    assert "s3cret" not in out + err


def test_errors_and_records_hold_none():
    error = UsageError("cannot reach https://u:s3cret@h", "See https://h?token=s3cret")
    assert "s3cret" not in f"{error} {error.message} {error.args}"
    text = "OSError: https://u:s3cret@h"
    failure = Failure(phase="load", kind="error", message=text, remedy=text, traceback=text)
    assert "s3cret" not in failure.model_dump_json()


def test_notices_of_a_run_hold_none(tmp_path):
    from harness.runtime.events import Events

    Events(tmp_path / "events.jsonl").notice("from https://u:s3cret@h")
    assert json.loads((tmp_path / "events.jsonl").read_text())["text"] == "from https://***@h"
