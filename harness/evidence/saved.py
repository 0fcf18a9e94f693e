"""A baseline in a file of its own: records and per-item outcomes, no texts and no item ids.

{"format": "medtune-baseline", "version": 1 or 2, "created": ..., "medtune": ..., "baseline": GROUP,
 "anchors": [GROUP, ...], "sha256": over all the rest}
GROUP: {"name", "records": [record.json, ...], "items": [16 hex digits of the id's SHA-256, ...],
        "correct": [base64 of one bit an item, most significant first, padded with 0; one a record],
        "clusters": [16 hex digits of the SHA-256 of what each item belongs to, ...]}
Version 2 is a file with clusters; one without says 1, so that a medtune that knows of none reads it as it is.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, field_validator, model_validator

from harness import __version__
from harness.errors import UsageError
from harness.evidence.outcomes import Group, Outcomes, digest_of
from harness.evidence.sides import Side
from harness.io.files import make_folder, store_error
from harness.io.json_files import loads_bounded
from harness.record import RunRecord
from harness.spec import Frozen
from harness.store.boundary import MOST_DIGITS

FORMAT: Literal["medtune-baseline"] = "medtune-baseline"
VERSIONS = (1, 2)
MOST_BYTES = 2**28
"""More than this is no baseline (a million items and ten seeds are 30 MB)."""
REMEDY = "Write it again: python -m harness check --save FILE --candidate RUN"


class SavedGroup(Frozen):
    name: str
    records: tuple[RunRecord, ...]
    items: tuple[str, ...]
    correct: tuple[str, ...]
    clusters: tuple[str, ...] = ()

    @field_validator("items", "clusters")
    @classmethod
    def _are_hashes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(len(name) == 16 and set(name) <= set("0123456789abcdef") for name in names):
            raise ValueError("a name is not 16 hex digits")
        return names

    @field_validator("items")
    @classmethod
    def _each_once(cls, items: tuple[str, ...]) -> tuple[str, ...]:
        if not items:
            raise ValueError("no items")
        if len(set(items)) != len(items):
            raise ValueError("an item is there twice")
        return items

    @model_validator(mode="after")
    def _fits(self) -> SavedGroup:
        if not self.records or len(self.records) != len(self.correct):
            raise ValueError(f"{len(self.records)} records and {len(self.correct)} rows of outcomes")
        if self.clusters and len(self.clusters) != len(self.items):
            raise ValueError(f"{len(self.items)} items and {len(self.clusters)} clusters")
        if any(record.status != "ok" for record in self.records):
            raise ValueError("a record of a run that did not end well")
        if len({digest_of(record) for record in self.records}) > 1:
            raise ValueError("its records differ in more than the seed")
        for row in self.correct:
            _bits(row, len(self.items))
        return self

    def side(self) -> Side:
        """The group as it is checked."""
        rows = np.stack([_bits(row, len(self.items)) for row in self.correct])
        unnamed = ("",) * len(self.items)
        outcomes = Outcomes(self.items, unnamed, rows, clusters=self.clusters)
        return Side(self.name, Group(self.name, self.records), outcomes)


class SavedBaseline(Frozen):
    format: Literal["medtune-baseline"] = FORMAT
    version: Literal[1, 2]
    created: str
    medtune: str
    baseline: SavedGroup
    anchors: tuple[SavedGroup, ...] = ()


def _bits(text: str, n: int) -> NDArray[np.bool_]:
    """(n,) from base64. Raises ValueError for another number of items."""
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except binascii.Error as error:
        raise ValueError(f"outcomes are no base64 ({error})") from error
    if len(packed) != (n + 7) // 8:
        raise ValueError(f"outcomes of {len(packed) * 8 - 7} to {len(packed) * 8} items, expected {n}")
    bits = np.unpackbits(packed)
    if bits[n:].any():
        raise ValueError(f"outcomes of more than {n} items")
    return bits[:n].astype(bool)


def _group(side: Side) -> SavedGroup:
    rows = tuple(base64.b64encode(np.packbits(row).tobytes()).decode() for row in side.outcomes.correct)
    return SavedGroup(
        name=side.name, records=side.group.records, items=side.outcomes.example_ids, correct=rows,
        clusters=side.outcomes.clusters,
    )  # fmt: skip


def save(path: Path, baseline: Side, anchors: Sequence[Side] = ()) -> None:
    """Write a baseline file, gzipped where its name ends in .gz. Raises `StoreError`."""
    version: Literal[1, 2] = 2 if any(side.outcomes.clusters for side in (baseline, *anchors)) else 1
    value = SavedBaseline(
        version=version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        medtune=__version__,
        baseline=_group(baseline),
        anchors=tuple(map(_group, anchors)),
    )
    body = value.model_dump(mode="json")
    for group in (body["baseline"], *body["anchors"]):
        if not group["clusters"]:
            del group["clusters"]  # a file of version 1 holds no key that its readers do not know
    data = (json.dumps({**body, "sha256": _digest(body)}, indent=1, allow_nan=False) + "\n").encode()
    if path.name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise store_error(error, path, "write") from error


def read(path: Path) -> SavedBaseline:
    """Read a baseline file. Raises `UsageError` that says what is wrong with it and what to do."""
    value = _parsed(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        kind = "a run's record" if isinstance(value, dict) and "run_id" in value else "something else"
        raise UsageError(f"{path} is no baseline of medtune ({kind})", REMEDY)
    if value.get("version") not in VERSIONS:
        raise UsageError(
            f"{path} has version {value.get('version')!r}, this medtune reads {' and '.join(map(str, VERSIONS))}",
            "Read it with the medtune that wrote it, or write it again.",
        )
    digest = value.pop("sha256", None)
    if digest != _digest(value):
        raise UsageError(f"{path} was changed after it was saved (its SHA-256 does not fit)", REMEDY)
    try:
        return SavedBaseline.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise UsageError(f"{path} does not fit this medtune: {where}: {first['msg']}", REMEDY) from error


def _parsed(path: Path) -> Any:
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            data = (gzip.GzipFile(fileobj=raw) if zipped else raw).read(MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is broken or cut off ({error})", REMEDY) from error
    except OSError as error:
        raise UsageError(
            f"baseline {path}: {error.strerror or error}", "Give a file, a run or a strategy."
        ) from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path} is too large for a baseline (more than {MOST_BYTES:,} bytes)")
    try:
        return loads_bounded(data.decode("utf-8"), max_digits=MOST_DIGITS)
    except ValueError as error:  # also text that is not UTF-8
        raise UsageError(f"{path} is broken or cut off, or no JSON ({error})", REMEDY) from error


def _digest(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
