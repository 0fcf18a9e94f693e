"""A report as JSON: the model itself, fractions 0 to 1, `null` for what was not measured."""

from __future__ import annotations

import json

from harness.report.model import Report

SCHEMA = "medtune-report-1"


def as_json(report: Report, *, indent: int | None = 1) -> str:
    """ASCII only: what stands in names and messages does nothing to a terminal."""
    return json.dumps({"schema": SCHEMA, **report.plain}, indent=indent, allow_nan=False) + "\n"
