"""The bytes of a data file as text. What they are instead is told apart, with how to convert it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from harness.errors import DataError

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "compressed with gzip", "Unpack it: gunzip -c {old} > {new}"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it: zstd -dc {old} > {new}"),
    (b"BZh", "compressed with bzip2", "Unpack it: bunzip2 -c {old} > {new}"),
    (b"\xfd7zXZ\x00", "compressed with xz", "Unpack it: xz -dc {old} > {new}"),
    (b"PK\x03\x04", "a zip archive", "Unpack it (unzip {old}) and give the file inside."),
    (b"PAR1", "a parquet file",
     'Convert it: python -c "import pandas; pandas.read_parquet({old!r}).to_json({new!r}, orient=\'records\', '
     'lines=True, force_ascii=False)"'),
    (b"ARROW1", "an arrow file", "Write it again as JSON Lines (in Python: datasets' to_json)."),
    (b"%PDF", "a PDF", "Give a JSON Lines file."),
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself", "Fetch it: git lfs pull"),
    (b"<!DOCTYPE", "a web page and not the data", "Download the file itself (on the Hub: by its 'resolve' link)."),
    (b"<!doctype", "a web page and not the data", "Download the file itself (on the Hub: by its 'resolve' link)."),
    (b"<html", "a web page and not the data", "Download the file itself (on the Hub: by its 'resolve' link)."),
)  # fmt: skip
_UTF_16 = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_UTF_32 = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32"}
_LOOKED_AT = 4096


def decode(content: bytes, path: Path) -> str:
    """`content` as text, its line ends as \\n. Raises `DataError` that says what the file is and how to mend it."""
    for start, what, remedy in _MAGIC:
        if content.startswith(start):
            raise _not_text(path, 1, what, remedy)
    if encoding := _wide_encoding(content):
        raise _not_text(path, 1, f"{encoding} text, expected UTF-8", _iconv(encoding))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(content, path, error) from error
    # JSON has no bare carriage return within a text, so all three kinds of line ends can be read as one.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _wide_encoding(content: bytes) -> str | None:
    """UTF-16 or UTF-32, by its mark or by the NUL bytes that every ASCII character has in it."""
    for marks in (_UTF_32, _UTF_16):
        for mark, encoding in marks.items():
            if content.startswith(mark):
                return encoding
    head = content[:_LOOKED_AT]
    if len(head) < 4 or b"\x00" not in head[:4]:
        return None
    if head[:3] == b"\x00\x00\x00" or head[1:4] == b"\x00\x00\x00":
        return "UTF-32BE" if head[0] == 0 else "UTF-32LE"
    if head.count(b"\x00") * 3 > len(head):
        return "UTF-16BE" if head[0] == 0 else "UTF-16LE"
    return None


def _not_utf8(content: bytes, path: Path, error: UnicodeDecodeError) -> DataError:
    bad = content[error.start]
    line = content.replace(b"\r\n", b"\n").count(b"\n", 0, error.start) + 1
    found = f"not UTF-8 text (byte 0x{bad:02x})"
    if error.reason == "unexpected end of data" and error.end == len(content):
        cut = "ends in the middle of a character: it was cut short"
        return _not_text(path, line, cut, "Copy or download {old} again.")
    if any(map(_is_utf8_beyond_ascii, content.split(b"\n"))):
        return _not_text(
            path, line, f"{found}, though other lines are UTF-8",
            "Mend this line, or each part on its own: the file was put together from files of two encodings, "
            "and converting all of it would spoil the rest.",
        )  # fmt: skip
    if _is_single_byte(content):
        return _not_text(path, line, f"{found}; it looks like Windows-1252", _iconv("cp1252"))
    return _not_text(
        path, line, f"{found}, nor Windows-1252",
        "Find out in which encoding it was written, and convert it: iconv -f ENCODING -t utf-8 {old} > {new}",
    )  # fmt: skip


def _is_utf8_beyond_ascii(line: bytes) -> bool:
    if line.isascii():
        return False
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_single_byte(content: bytes) -> bool:
    """Whether it reads as Windows-1252 (latin1 has control characters at 0x80 to 0x9f, which no text holds).

    In a western text letters with accents and quote marks stand alone among ASCII. In an encoding of
    several bytes a character, and in other alphabets, most of them are neighbours.
    """
    try:
        content.decode("cp1252")
    except UnicodeDecodeError:
        return False
    high = [i for i, byte in enumerate(content) if byte > 127]
    neighbours = sum(one + 1 == other for one, other in pairwise(high))
    return neighbours * 2 < len(high)


def _iconv(encoding: str) -> str:
    return f"Convert it: iconv -f {encoding} -t utf-8 {{old}} > {{new}}"


def _not_text(path: Path, line: int, what: str, remedy: str) -> DataError:
    old, new = path.name, f"new-{path.name}"
    return DataError(f"{path}, line {line}: {what}", remedy.format(old=old, new=new))
