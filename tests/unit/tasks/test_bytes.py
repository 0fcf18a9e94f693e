"""Files that are no UTF-8 JSON Lines: what they are instead, by file and line, and a remedy that works."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.contracts import DataSource
from harness.errors import DataError
from tasks.medqa import MedQA

Write = Callable[[Path, str], object]


def row(number: int, question: str = "Question") -> dict[str, Any]:
    options = {letter: f"{letter} of {number}" for letter in "ABCD"}
    return {"question": f"{question} {number}?", "options": options, "answer_idx": "B"}


def text(question: str = "Question", *, rows: int = 4) -> str:
    return "".join(json.dumps(row(n, question), ensure_ascii=False) + "\n" for n in range(rows))


@pytest.fixture
def medqa(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text(text())
    (tmp_path / "test.jsonl").write_text(text("Test"))
    return tmp_path


def refused(folder: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        MedQA().load(DataSource("dir", folder))
    assert caught.value.remedy
    assert "\n" not in caught.value.message
    return caught.value


def _parquet(path: Path, content: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in content.splitlines()]), path)


def _zip(path: Path, content: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.jsonl", content)


KINDS: dict[str, tuple[Write, str, str]] = {
    "utf-16": (lambda p, t: p.write_bytes(t.encode("utf-16")), "line 1: UTF-16 text", "iconv -f UTF-16 "),
    "utf-16 without a mark": (
        lambda p, t: p.write_bytes(t.encode("utf-16-le")), "line 1: UTF-16LE text", "iconv -f UTF-16LE ",
    ),
    "utf-16be without a mark": (
        lambda p, t: p.write_bytes(t.encode("utf-16-be")), "line 1: UTF-16BE text", "iconv -f UTF-16BE ",
    ),
    "utf-32": (lambda p, t: p.write_bytes(t.encode("utf-32")), "line 1: UTF-32 text", "iconv -f UTF-32 "),
    "gzip": (lambda p, t: p.write_bytes(gzip.compress(t.encode())), "compressed with gzip", "gunzip -c "),
    "bzip2": (lambda p, t: p.write_bytes(bz2.compress(t.encode())), "compressed with bzip2", "bunzip2 -c "),
    "xz": (lambda p, t: p.write_bytes(lzma.compress(t.encode())), "compressed with xz", "xz -dc "),
    "zip": (_zip, "a zip archive", "unzip "),
    "parquet": (_parquet, "a parquet file", "read_parquet"),
    "lfs": (
        lambda p, t: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "a Git LFS pointer", "git lfs pull",
    ),
    "html": (lambda p, t: p.write_text("<!DOCTYPE html><html></html>"), "a web page", "Download"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_file_is_named(medqa: Path, kind: str) -> None:
    make, problem, remedy = KINDS[kind]
    path = medqa / "train.jsonl"
    make(path, text())
    error = refused(medqa)
    assert error.message.startswith(f"{path}, line 1: ")
    assert problem in error.message
    assert remedy in error.remedy


@pytest.mark.parametrize(
    ("question", "encoding"),
    [
        ("Crohn\u2019s disease", "cp1252"),
        ("Sj\u00f6gren\u2013Larsson \u201csyndrome\u201d", "cp1252"),
        ("caf\u00e9", "latin-1"),
        ("Crohn\u2019s", "utf-16"),
    ],
)
def test_the_conversion_that_is_advised_gives_the_right_text(
    medqa: Path, question: str, encoding: str
) -> None:
    path = medqa / "train.jsonl"
    path.write_bytes(text(question).encode(encoding))
    command = re.search(r"iconv .*", refused(medqa).remedy)
    assert command is not None
    subprocess.run(command[0], shell=True, cwd=medqa, check=True)
    (medqa / "new-train.jsonl").replace(path)
    assert MedQA().load(DataSource("dir", medqa)).train[0].question.startswith(question)


def test_the_line_of_a_byte_is_told(medqa: Path) -> None:
    path = medqa / "train.jsonl"
    path.write_bytes(text(rows=2).encode() + text("Crohn\u2019s", rows=1).encode("cp1252"))
    assert refused(medqa).message == f"{path}, line 3: not UTF-8 text (byte 0x92); it looks like Windows-1252"


def test_a_file_of_two_encodings_is_not_to_be_converted_as_a_whole(medqa: Path) -> None:
    path = medqa / "train.jsonl"
    path.write_bytes(
        (text("na\u00efve \u2013 \u03b2\u03b2\u03b2") + "x").encode()[:-1]
        + text("caf\u00e9").encode("cp1252")
    )
    error = refused(medqa)
    assert error.message.startswith(
        f"{path}, line 5: not UTF-8 text (byte 0xe9), though other lines are UTF-8"
    )
    assert "iconv" not in error.remedy


@pytest.mark.parametrize(
    ("question", "encoding"),
    [
        ("\u75c5\u4eba\u7684\u75c7\u72b6\u662f\u4ec0\u4e48", "gb18030"),
        ("\u0431\u043e\u043b\u044c\u043d\u043e\u0439", "cp1251"),
    ],
)
def test_an_encoding_that_is_not_known_is_not_guessed(medqa: Path, question: str, encoding: str) -> None:
    (medqa / "train.jsonl").write_bytes(text(question).encode(encoding))
    error = refused(medqa)
    assert "nor Windows-1252" in error.message
    assert "cp1252" not in error.remedy


def test_a_character_cut_short(medqa: Path) -> None:
    path = medqa / "train.jsonl"
    path.write_bytes(text().encode() + '{"question": "caf\u00e9'.encode()[:-1])
    assert refused(medqa).message == f"{path}, line 5: ends in the middle of a character: it was cut short"


@pytest.mark.parametrize("ending", ["\r", "\r\n"])
def test_other_line_ends_are_read(medqa: Path, ending: str) -> None:
    (medqa / "train.jsonl").write_bytes(text().replace("\n", ending).encode("utf-8-sig"))
    splits = MedQA().load(DataSource("dir", medqa))
    assert len(splits.train) + len(splits.validation) == 4


def test_a_byte_order_mark_in_the_middle(medqa: Path) -> None:
    path = medqa / "train.jsonl"
    path.write_bytes(text().encode("utf-8-sig") * 2)
    assert refused(medqa).message == f"{path}, line 5: a byte order mark in the middle of the file"


# --- hostile files ------------------------------------------------------------------------------

HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is a pipe (FIFO), expected a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device, expected a file"),
    "loop": (lambda path: path.symlink_to(path.name), "links point at each other in a circle"),
    "folder": (Path.mkdir, "is a folder, expected a file"),
    "too large": (lambda path: (path.touch(), os.truncate(path, 2**40)), "more than the 1,073,741,824"),
}


@pytest.mark.parametrize("name", ["train.jsonl", "test.jsonl", "validation.jsonl"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_file_is_refused_at_once(medqa: Path, kind: str, name: str) -> None:
    make, problem = HOSTILE[kind]
    path = medqa / name
    path.unlink(missing_ok=True)
    make(path)
    error = refused(medqa)
    assert str(path) in error.message
    assert problem in error.message


VALUES = {
    "deep": ("[" * 200_000 + "]" * 200_000, "nested more than 100 deep"),
    "a number of 5,000 digits": ("9" * 5000, "a number of 5,000 digits"),
    "1e999": ("1e999", "the number 1e999 is too large"),
    "NaN": ("NaN", "NaN is no JSON value (write null for a missing one)"),
    "half a character": (r'"\ud83d"', "half of a \\u escape pair"),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("column", ["meta_info", "of_no_use"])
def test_a_value_that_no_reader_expects(medqa: Path, kind: str, column: str) -> None:
    value, problem = VALUES[kind]
    path = medqa / "train.jsonl"
    path.write_text(text() + json.dumps(row(9))[:-1] + f', "{column}": {value}}}\n')
    error = refused(medqa)
    assert error.message.startswith(f"{path}, line 5: ")
    assert problem in error.message


@pytest.mark.parametrize("label", [10**50, -1, 1.5, True])
def test_an_odd_label_is_one_error(medqa: Path, label: Any) -> None:
    hf = {"sent1": "Q", **{f"ending{k}": f"e {k}" for k in range(4)}, "label": label}
    (medqa / "train.jsonl").write_text(json.dumps(hf) + "\n")
    assert "'label' is" in refused(medqa).message


def test_a_column_written_twice(medqa: Path) -> None:
    path = medqa / "train.jsonl"
    path.write_text(text() + json.dumps(row(9))[:-1] + ', "answer_idx": "C"}\n')
    assert refused(medqa).message == f"{path}, line 5: the column 'answer_idx' is written twice"


def test_a_very_long_line_is_read(medqa: Path) -> None:
    (medqa / "train.jsonl").write_text(text() + json.dumps(row(9, "x" * 10**7)) + "\n")
    splits = MedQA().load(DataSource("dir", medqa))
    assert len(splits.train) + len(splits.validation) == 5
