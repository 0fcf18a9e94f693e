"""Files that are no files, and JSON that no reader expects: an error at once, never a hang or a traceback."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from harness.errors import EXIT_USAGE
from harness.io.files import NotReadableError, open_regular, read_bounded, sha256_of
from harness.io.json_files import loads_bounded


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Path.mkdir, "is a folder"),
        (_fifo, "is a pipe"),
        (_device, "is a device"),
        (_loop, "links point at each other"),
        (_socket, "is a socket"),
    ],
)
def test_what_is_no_regular_file_is_refused_without_waiting(
    make: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    path = Path("x")
    make(path)
    for read in (open_regular, sha256_of, lambda path: read_bounded(path, 10)):
        with pytest.raises(NotReadableError, match=told) as caught:
            read(path)
        assert caught.value.exit_code == EXIT_USAGE
        assert caught.value.remedy


@pytest.mark.parametrize("name", ["a" * 300, "a\x00b"])
def test_a_name_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotReadableError):
        open_regular(tmp_path / name)


def test_a_file_is_read_up_to_the_limit_and_not_above(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(NotReadableError, match="has 5 bytes, more than the 4"):
        read_bounded(path, 4)
    with path.open("r+b") as file:
        file.truncate(10**12)  # holes only: it takes no space
    with pytest.raises(NotReadableError, match=r"1,000,000,000,000 bytes"):
        read_bounded(path, 10**6)


def test_what_is_missing_stays_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "missing", 10)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested more than 100 deep"),
        ("[" * 101 + "]" * 101, "nested more than 100 deep"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested more than 100 deep"),
        ("1" * 101, "a number of 101 digits"),
        ("-" + "1" * 5000, "a number of 5,000 digits"),
        ("[1e999]", "1e999 is too large"),
        ("[NaN]", "NaN is no JSON value"),
        ("[-Infinity]", "-Infinity is no JSON value"),
        (r'["\ud83d"]', "half of a"),
        (r'{"\uDE00": 1}', "half of a"),
        ("{", "Expecting"),
    ],
)
def test_json_that_no_reader_expects_is_a_value_error(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        loads_bounded(text)


def test_what_is_allowed_is_read_as_json_reads_it() -> None:
    value = {"a": [1, -2.5, None, True, "\U0001f600"], "b": int("9" * 100)}
    for ascii_only in (True, False):
        assert loads_bounded(json.dumps(value, ensure_ascii=ascii_only)) == value
    assert loads_bounded("[" * 100 + "]" * 100) == json.loads("[" * 100 + "]" * 100)
    assert loads_bounded("[" + ",".join(["[]"] * 1000) + "]") == [[]] * 1000
    assert loads_bounded('{"a": 1, "a": 2}', pairs=len) == 2
