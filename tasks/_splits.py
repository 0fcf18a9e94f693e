"""Which file of a folder holds which split."""

from __future__ import annotations

from harness.contracts import PARTS, Part
from harness.errors import DataError
from tasks._read import Folder

SPLIT_NAMES: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "devel", "development"),
    "test": ("test", "testing"),
}
ENDINGS = (".jsonl", ".json")


def split_files(folder: Folder) -> dict[Part, str]:
    """The file of each split by one of the usual names, `validation` only where there is one.

    Where there is none of such a name, one that ends in it (phrases_no_exclude_dev.jsonl, as MedQA is
    published) will do. Raises `DataError` for two candidates; the usual name where there is none, so that
    reading it says what is missing.
    """
    there = folder.names()
    chosen: dict[Part, str] = {}
    for part in PARTS:
        found = _candidates(there, part, exact=True) or _candidates(there, part, exact=False)
        if len(found) > 1:
            raise DataError(
                f"{folder.base}: {len(found)} files for the {part} split: {', '.join(found)}",
                "Leave one of them there: only one can be read.",
            )
        if found or part != "validation":
            chosen[part] = found[0] if found else f"{part}.jsonl"
    return chosen


def unread_files(folder: Folder, chosen: dict[Part, str]) -> list[str]:
    """JSON Lines files that lie there and are read as no split."""
    return [name for name in folder.names() if name.endswith(".jsonl") and name not in chosen.values()]


def _candidates(there: list[str], part: Part, *, exact: bool) -> list[str]:
    found = []
    for name in there:
        stem, dot, ending = name.rpartition(".")
        last = stem if exact else stem.replace("-", "_").replace(".", "_").rpartition("_")[2]
        if dot + ending in ENDINGS and last in SPLIT_NAMES[part]:
            found.append(name)
    return found
