"""Two groups of runs on the same items: the one place where their outcomes become a paired comparison.

`report`, `compare` and `check` all ask here, so that they give one answer for one pair.
"""

from __future__ import annotations

from harness.evidence.outcomes import Group, Outcomes, aligned, clusters_of
from harness.stats.paired import Paired, compare


def is_fixed(group: Group) -> bool:
    """Whether seeds change nothing: no training, and no worked examples to draw."""
    return not group.first.spec.seeded


def paired(
    a: Group, one: Outcomes, b: Group, other: Outcomes, assumed_seed_sd: float | None = None
) -> Paired:
    """`a` compared with `b`, over all the runs of both. one, other: what they answered.

    Raises UsageError where they were asked other items, ValueError where there are too few.
    """
    one, other = aligned(one, other)
    return compare(
        one.correct, other.correct, clusters=clusters_of(one), fixed_a=is_fixed(a), fixed_b=is_fixed(b),
        assumed_seed_sd=assumed_seed_sd,
    )  # fmt: skip
