"""What is asked of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.record import RunRecord


@dataclass(frozen=True)
class Options:
    """What was asked. margin, assumed_seed_sd: fractions. command: a group into the command that repeats it. confidences:
    whether reliability diagrams are to be drawn.
    """

    command: Callable[[Sequence[RunRecord]], str]
    reference: str | None = None
    margin: float = 0.02
    assumed_seed_sd: float | None = None
    all_pairs: bool = False
    verdicts: bool = True
    confidences: bool = False
