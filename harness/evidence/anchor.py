"""An anchor: a method of the baseline's time, run again in the candidate's environment.

Its change is the environment's. What a candidate changed beyond it is the method's:
(candidate - baseline) - (anchor now - anchor then). Legend: S seeds, n items, G clusters of items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from harness.errors import UsageError
from harness.escape import plain
from harness.evidence.audit import audit, comparable
from harness.evidence.compare import paired_test
from harness.evidence.outcomes import Group, aligned, digest_of
from harness.evidence.pairing import is_fixed
from harness.evidence.sides import Side, from_store, on_seeds
from harness.launch.local import LaunchOptions, run_local
from harness.launch.progress import make_display
from harness.plan.reuse import input_changes
from harness.registry import load_registry
from harness.stats import crossed
from harness.stats.paired import Paired
from harness.store.runs import Store

FOLDER = ".anchor"


@dataclass(frozen=True, slots=True)
class Anchored:
    """environment: the anchor now less then. method: the candidate's change beyond that."""

    name: str
    environment: Paired
    method: Paired


def rerun(anchor: Side, candidate: Side, results: Path) -> Side:
    """The anchor's specs run now, in a results folder for the candidate's environment.

    What ran there before in that environment is used again. Raises `UsageError` where a run fails or
    where this is not the candidate's environment.
    """
    fingerprint = _one_environment(candidate, "candidate")
    store = Store(results / FOLDER / fingerprint[:12])
    tasks = load_registry().tasks
    records = []
    for old in anchor.group.records:
        spec = old.spec
        if store.state(spec.run_id) == "ok":
            stored = store.record(spec.run_id)
            environment = stored.environment
            same = environment is not None and environment.fingerprint == fingerprint
            task = tasks.get(spec.task.name)
            if same and not input_changes(stored, task() if task else None):
                records.append(stored)
                continue
        processes = old.environment.processes if old.environment else 1
        options = LaunchOptions(processes=processes, force=True)
        with make_display(f"anchor {spec.run_id}", quiet=False, as_json=False) as display:
            record = run_local(spec, store, options, display)
        if record.status == "interrupted":
            raise KeyboardInterrupt
        if record.failure is not None:
            raise UsageError(
                f"the anchor run {record.run_id} failed: {record.failure.kind}: {record.failure.message}",
                f"Log: {store.folder(record.run_id) / 'log.txt'}",
            )
        records.append(record)
    now = from_store(store, Group(anchor.name, tuple(records)))
    if now.fingerprints != {fingerprint}:
        raise UsageError(
            "the anchor ran in another environment than the candidate: "
            + "; ".join(map(str, environment_differences(now, candidate))),
            "Check where the candidate ran, or run the candidate again here.",
        )
    return now


def _one_environment(side: Side, role: str) -> str:
    if len(side.fingerprints) != 1:
        raise UsageError(
            f"the {role}'s runs were made in {len(side.fingerprints)} environments, so that no anchor fits",
            "Run them again in one environment.",
        )
    return next(iter(side.fingerprints))


def environment_differences(one: Side, other: Side) -> list[str]:
    """What differs between two environments, in words."""
    found = audit(one.group.records, other.group.records)
    told = [
        plain(d)
        for d in found
        if d.what in ("device", "python", "processes") or d.what.startswith("package ")
    ]
    return told or ["nothing that is recorded by name"]


def suited(anchor: Side, baseline: Side, candidate: Side) -> Side:
    """The anchor over the candidate's seeds where it has them. Raises `UsageError` where it fits no baseline."""
    found = audit(anchor.group.records, baseline.group.records)
    if not comparable(found):
        breaks = plain("; ".join(str(d) for d in found if d.severity == "breaks"))
        raise UsageError(
            f"the anchor '{plain(anchor.name)}' was not asked what the baseline was: {breaks}",
            "Use an anchor on the same task, items and scoring.",
        )
    if anchor.fingerprints != baseline.fingerprints:
        raise UsageError(
            f"the stored anchor '{plain(anchor.name)}' ran in another environment than the baseline: "
            + "; ".join(environment_differences(anchor, baseline)),
            "An anchor says what changed since the baseline only if both were run together.",
        )
    _one_environment(baseline, "baseline")
    seeds = set(anchor.group.seeds) & set(candidate.group.seeds)
    return on_seeds(anchor, sorted(seeds)) if seeds else anchor


def separate(
    baseline: Side, candidate: Side, then: Side, now: Side, assumed_seed_sd: float | None = None
) -> Anchored:
    """What the environment changed and what the method changed."""
    base, old = aligned(baseline.outcomes, then.outcomes)
    _, new = aligned(base, now.outcomes)
    _, cand = aligned(base, candidate.outcomes)
    environment = paired_test(now.group, then.group, new, old, assumed_seed_sd)
    same_runs = digest_of(baseline.group.first) == digest_of(then.group.first)
    if same_runs and np.array_equal(base.correct, old.correct):
        # The baseline is the anchor: its old outcomes cancel, and what is left is a pair.
        method = paired_test(candidate.group, now.group, cand, new, assumed_seed_sd)
        return Anchored(then.name, environment, method)
    sides = [
        (candidate.group, cand.correct),
        (baseline.group, base.correct),
        (now.group, new.correct),
        (then.group, old.correct),
    ]
    method = difference_of_changes(
        [o.astype(np.float64) for _, o in sides], [is_fixed(g) for g, _ in sides], assumed_seed_sd,
        clusters=cand.clusters or new.clusters or None,
    )  # fmt: skip
    return Anchored(then.name, environment, method)


def difference_of_changes(
    outcomes: list[crossed.Floats],
    fixed: list[bool],
    assumed_seed_sd: float | None = None,
    clusters: ArrayLike | None = None,
) -> Paired:
    """(candidate - baseline) - (now - then): its t-test over items and seeds; as `harness.stats.paired.compare`
    it is about these very runs where one of the four has one run that is not fixed.

    outcomes: (S, n) each, in that order, items aligned. clusters: (n,) labels of items that belong together;
    None where every item stands alone. The four are taken as independent over seeds and as paired over items
    (harness.stats.crossed, with four groups in place of two). Raises `UsageError` for one item or cluster.
    """
    means, unit, starts = [correct.mean(axis=0) for correct in outcomes], "item", None
    if clusters is not None:
        unit = "cluster"
        order, starts = crossed.order_by_cluster(clusters)
        outcomes = [correct[:, order] for correct in outcomes]
    groups = [crossed.group(correct, starts) for correct in outcomes]
    cand, base, now, then = groups
    alone = sum(g.runs == 1 and not is_fixed for g, is_fixed in zip(groups, fixed, strict=True))
    if alone and assumed_seed_sd is None:
        fixed = [True] * 4  # about these very runs
    extra = alone * (assumed_seed_sd or 0.0) ** 2
    n = outcomes[0].shape[1]
    signed = cand.totals - base.totals - now.totals + then.totals  # (G,), G = n where every item stands alone
    count = len(signed)
    if count < 2:
        raise UsageError(f"one {unit} is too few for an anchor", "Check on more items.")
    items = count / (count - 1) * np.square(signed).sum() / n**2
    degrees = sum(g.runs - 1 for g, is_fixed in zip(groups, fixed, strict=True) if not is_fixed)
    flips, seeds, of_seeds = crossed.of_runs(groups, fixed)
    total, freedom = crossed.combine(items, flips, seeds, of_seeds, count - 1)
    total = np.maximum(total, crossed.floor(n))
    freedom = (total + extra) ** 2 / total**2 * freedom
    over_items = np.maximum(items, crossed.floor(n)) + extra
    variance = crossed.Variance(items, flips, seeds, total + extra, freedom, over_items, count - 1)
    change = float(cand.accuracy - base.accuracy - now.accuracy + then.accuracy)
    result = Paired(
        accuracy_a=float(cand.accuracy), accuracy_b=float(base.accuracy + now.accuracy - then.accuracy),
        difference=change, p=1.0, interval=(-1.0, 1.0), items_interval=(-1.0, 1.0),
        discordant=float(np.mean(np.abs(means[0] - means[1] - means[2] + means[3]) > 0)), n=n,
        runs_a=cand.runs, runs_b=base.runs, variance=variance, run_degrees=degrees, extra=extra,
        scope="methods" if not alone else "runs" if assumed_seed_sd is None else "methods_assumed_sd",
        assumed_seed_sd=assumed_seed_sd if alone else None,
        method=f"t-test of the difference of changes over {unit}s{' and seeds' if degrees or extra else ''}",
    )  # fmt: skip
    p = 2 * min(result.p_at_most(0.0), result.p_at_least(0.0))
    own = result.interval_at(0.95)
    return replace(result, p=min(p, 1.0), interval=own, items_interval=own)
