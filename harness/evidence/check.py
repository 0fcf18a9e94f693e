"""The regression gate: a candidate against a baseline, gate by gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.ask.filters import Filters
from harness.errors import EXIT_FAILED, EXIT_OK, EXIT_UNDECIDED, UsageError
from harness.escape import plain
from harness.evidence.anchor import Anchored, environment_differences, rerun, separate, suited
from harness.evidence.audit import Difference, audit, comparable
from harness.evidence.compare import paired_test
from harness.evidence.gates import (
    Gate,
    Limits,
    Outcome,
    memory_gate,
    quality_gate,
    throughput_gate,
    trainable_gate,
)
from harness.evidence.outcomes import Group, digest_of
from harness.evidence.saved import SavedBaseline, read
from harness.evidence.selection import Selector, listed, only, pairs
from harness.evidence.sides import Side, from_store, on_seeds
from harness.io.paths import typed_path
from harness.store.runs import Store

EXIT_CODES: dict[Outcome, int] = {"pass": EXIT_OK, "fail": EXIT_FAILED, "cannot_tell": EXIT_UNDECIDED}


@dataclass(frozen=True, slots=True)
class Found:
    """What a command line names: groups that may be meant, in a results folder or in a file."""

    groups: tuple[Group, ...]
    origin: Store | SavedBaseline

    def load(self, group: Group) -> Side:
        """The outcomes of one of the groups, or of some of its runs."""
        if isinstance(self.origin, Store):
            return from_store(self.origin, group)
        return on_seeds(self.origin.baseline.side(), group.seeds)

    @property
    def saved(self) -> SavedBaseline | None:
        return self.origin if isinstance(self.origin, SavedBaseline) else None


@dataclass(frozen=True, slots=True)
class CheckResult:
    baseline: Side
    candidate: Side
    gates: tuple[Gate, ...]
    audit: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """Fail where a required gate fails, else cannot tell where one cannot, else pass."""
        required = {gate.outcome for gate in self.gates if gate.required}
        return "fail" if "fail" in required else "cannot_tell" if "cannot_tell" in required else "pass"

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]

    @property
    def caveat(self) -> str:
        """What must be said of what the answer is about: of single runs, or with an assumed seed deviation."""
        return next((gate.caveat for gate in self.gates if gate.required and gate.caveat), "")


class Finder:
    """Finds what is named: a saved file, the folder of a run, or runs in the results."""

    def __init__(self, results: Path, filters: Filters) -> None:
        self.results = results
        self.filters = filters
        self._selector: Selector | None = None

    @property
    def selector(self) -> Selector:
        if self._selector is None:
            self._selector = Selector(Store(self.results), self.filters)
        return self._selector

    def find(self, text: str) -> Found:
        """Raises `UsageError` where there is nothing of that name."""
        path = typed_path(text, "baseline or candidate")
        if path.is_file():
            saved = read(path)
            return Found((saved.baseline.side().group,), saved)
        if (path / "record.json").is_file():
            store = Store(path.resolve().parent)
            return Found(tuple(Selector(store).find(path.resolve().name)), store)
        if path.suffix in (".json", ".gz") or "/" in text:
            raise UsageError(f"there is no file {path}", "Write one: check --save FILE --candidate RUN")
        return Found(tuple(self.selector.find(text)), self.selector.store)

    def one(self, text: str) -> Side:
        """The only thing of that name."""
        found = self.find(text)
        return found.load(only(found.groups))

    def anchor(self, name: str, baseline: Side, saved: SavedBaseline | None) -> Side:
        """The anchor of that name in the baseline's file, else in the results."""
        stored = [*saved.anchors, saved.baseline] if saved else []
        for group in stored:
            if name in (group.name, group.records[0].spec.strategy.name):
                return group.side()
        if saved and name not in self._strategies():
            kept = plain(", ".join(group.name for group in stored))
            raise UsageError(
                f"there is no anchor '{name}' in the baseline's file (it has: {kept}) nor in {self.results}",
                "Save the baseline with one: check --save FILE --candidate RUN --anchor NAME",
            )
        alike = [g for g in self.selector.find(name) if g.condition == baseline.group.condition]
        if not alike:
            raise UsageError(
                f"'{name}' has no run under the baseline's conditions:\n{listed([baseline.group])}",
                "Run it as the baseline was run.",
            )
        return from_store(self.selector.store, only(alike))

    def _strategies(self) -> set[str]:
        records = self.selector.records
        return {r.spec.strategy.name for r in records} | {r.run_id for r in records}


def check(
    baseline: str, candidate: str, finder: Finder, limits: Limits, gates: Sequence[str], anchor: str | None
) -> CheckResult:
    """Check `candidate` against `baseline`. Raises `UsageError` for what is not there."""
    asked = finder.find(baseline)
    base, cand = _chosen(asked, finder.find(candidate))
    notes: list[str] = []
    found = audit(base.group.records, cand.group.records)
    if not comparable(found):
        breaks = "; ".join(str(d) for d in found if d.severity == "breaks")
        gate = Gate("quality", "cannot_tell", f"the scores must not be compared, different are: {breaks}")
        return CheckResult(base, cand, (gate,), tuple(found), tuple(notes))
    anchored = None
    if anchor is not None and base.fingerprints == cand.fingerprints:
        notes.append("the environment is the same on both sides: no anchor run is needed, none was made")
    elif anchor is not None:
        then = suited(finder.anchor(anchor, base, asked.saved), base, cand)
        now = rerun(then, cand, finder.results)
        anchored = separate(base, cand, then, now, limits.assumed_seed_sd)
    decided = [
        *_quality(base, cand, limits, anchored),
        memory_gate(base.group.records, cand.group.records, limits.max_memory_ratio),
        throughput_gate(base.group.records, cand.group.records, limits.min_throughput_ratio),
        trainable_gate(base.group.records, cand.group.records, limits.max_trainable_ratio),
    ]
    # The method's own change is the quality gate with the environment's part taken out.
    kept = {*gates, "method"} if "quality" in gates else set(gates)
    decided = [replace(gate, required=gate.required and gate.name in kept) for gate in decided]
    return CheckResult(base, cand, tuple(decided), tuple(found), tuple(notes))


def _chosen(base: Found, cand: Found) -> tuple[Side, Side]:
    """The one pair that is meant, with all its runs. Raises `UsageError` where it may be several."""
    matched = pairs(base.groups, cand.groups)
    if len(matched) > 1:
        raise UsageError(
            f"check takes one baseline at a time, these are {len(matched)}:\n{listed(b for b, _ in matched)}",
            "Narrow them with --task, --model, --data, --scoring or --limit.",
        )
    one, other = matched[0]
    return base.load(one), cand.load(other)


def _quality(base: Side, cand: Side, limits: Limits, anchored: Anchored | None) -> list[Gate]:
    """The gates of quality and environment, and with an anchor the method's own.

    One method on both sides: what is on trial is all that changed since, the environment with it. Two
    methods: the method is, so that with an anchor its own change decides and the sum is only shown.
    """
    found = paired_test(cand.group, base.group, cand.outcomes, base.outcomes, limits.assumed_seed_sd)
    quality = quality_gate(found, limits)
    same_method = digest_of(base.group.first) == digest_of(cand.group.first)
    if anchored is None:
        return [quality, _environment(base, cand, same_method)]
    told = f"accuracy of the anchor {anchored.name}, run again in the candidate's environment,"
    environment = replace(quality_gate(anchored.environment, limits, "environment", told), required=False)
    what = f"accuracy, beyond the anchor's change of {anchored.environment.difference * 100:+.2f} points,"
    method = quality_gate(anchored.method, limits, "method", what)
    if same_method:
        return [quality, environment, replace(method, required=False)]
    return [replace(quality, required=False), environment, method]


def _environment(base: Side, cand: Side, same_method: bool) -> Gate:
    if base.fingerprints == cand.fingerprints:
        return Gate("environment", "pass", "the same packages, Python and device")
    told = "; ".join(environment_differences(base, cand))
    anchor = "an anchor run is needed to tell the environment's part from the method's: --anchor NAME"
    if same_method:
        return Gate(
            "environment", "pass", f"changed, and on trial, as the method is the same ({told}); where its code "
            f"changed too, {anchor}",
        )  # fmt: skip
    return Gate("environment", "cannot_tell", f"changed ({told}): {anchor}")
