"""Figures from papers, with their protocol and source (results/published/README.md)."""

from __future__ import annotations

import csv
from collections.abc import Collection
from functools import cache
from importlib.resources import files

from harness.report.model import Published

METRICS = ("accuracy", "macro_f1", "auroc")
"""What stands beside a report's figures; costs measured by others do not."""


def published_for(tasks: Collection[str]) -> tuple[Published, ...]:
    """The published scores on these tasks, in the order of the file."""
    return tuple(figure for figure in _all() if figure.task in tasks and figure.metric in METRICS)


@cache
def _all() -> tuple[Published, ...]:
    text = files("harness.report").joinpath("published/published.csv").read_text(encoding="utf-8")
    return tuple(_figure(row) for row in csv.DictReader(text.splitlines()))


def _figure(row: dict[str, str]) -> Published:
    return Published(
        model=row["model"],
        params_billion=float(row["params_billion"]) if row["params_billion"] else None,
        tuning=row["tuning"],
        task=row["task"],
        metric=row["metric"],
        value=float(row["value"]),
        protocol=row["protocol"],
        source=row["source"],
        verified=row["verified"] == "yes",
    )
