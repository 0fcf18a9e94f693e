"""A baseline, a candidate or an anchor: its records and which items it got right.

Items are known by a hash of their id here, so that a saved file holds no ids of a user's own data.
Legend: S seeds, n items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.errors import UsageError
from harness.evidence.outcomes import Group, Outcomes, load_outcomes
from harness.store.runs import Store


@dataclass(frozen=True, slots=True)
class Side:
    """outcomes: (S, n) over `group`'s runs; its example ids and clusters are hashes, its subgroups empty."""

    name: str
    group: Group
    outcomes: Outcomes

    @property
    def fingerprints(self) -> frozenset[str]:
        """The environments its runs were made in."""
        return frozenset(r.environment.fingerprint for r in self.group.records if r.environment)


def hashed(name: str) -> str:
    """16 hex digits of an item's id, or of its cluster's."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def from_store(store: Store, group: Group) -> Side:
    """A group of stored runs. Raises `StoreError` where its predictions cannot be read."""
    found = load_outcomes(store, group)
    if not found.example_ids:
        raise UsageError(f"{group.first.run_id} holds no items", "Run it again with --force.")
    ids = tuple(map(hashed, found.example_ids))
    clusters = tuple(map(hashed, found.clusters))
    return Side(group.label, group, Outcomes(ids, ("",) * len(ids), found.correct, clusters=clusters))


def on_seeds(side: Side, seeds: Sequence[int]) -> Side:
    """The side without the runs of other seeds."""
    kept = [index for index, seed in enumerate(side.group.seeds) if seed in seeds]
    records = tuple(side.group.records[index] for index in kept)
    outcomes = replace(side.outcomes, correct=side.outcomes.correct[kept])
    return replace(side, group=replace(side.group, records=records), outcomes=outcomes)
