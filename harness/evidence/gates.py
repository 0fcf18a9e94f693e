"""The gates: each says pass, fail or cannot tell, with its numbers.

Quality is non-inferiority with a margin. Two one-sided tests at the confidence asked for decide it:
pass: a loss of the margin or more is excluded; fail: a loss of less than the margin is excluded;
cannot tell: neither. So either answer is wrong at most in 1 - confidence of all checks.
Differences are the candidate less the baseline, in fractions of 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from scipy import special

from harness.evidence.costs import devices, on_one_device, over_runs
from harness.measures import Measure, measure
from harness.record import RunRecord
from harness.render.numbers import points
from harness.stats import exact
from harness.stats.equivalence import exact_table, noninferiority
from harness.stats.paired import Paired
from harness.stats.power import POWER
from harness.stats.verdict import caveat

Outcome = Literal["pass", "fail", "cannot_tell"]
Number = float | int | str | bool | None


@dataclass(frozen=True, slots=True)
class Gate:
    """One question and its answer. `required`: whether it decides the exit code. caveat: what the answer is
    about, where that is not simply the methods; it stands in the message too.
    """

    name: str
    outcome: Outcome
    message: str
    numbers: dict[str, Number] = field(default_factory=dict)
    required: bool = True
    caveat: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is allowed. margin, assumed_seed_sd in fractions of 1; ratios are candidate over baseline."""

    margin: float = 0.02
    confidence: float = 0.95
    max_memory_ratio: float = 1.1
    min_throughput_ratio: float = 0.9
    max_trainable_ratio: float = 1.05
    assumed_seed_sd: float | None = None


def quality_gate(result: Paired, limits: Limits, name: str = "quality", what: str = "accuracy") -> Gate:
    """Is the candidate worse by less than the margin?"""
    found = noninferiority(result, limits.margin, limits.confidence)
    sure, margin = f"{limits.confidence * 100:g}%", f"{limits.margin * 100:g} points"
    change = f"{what} changed by {points(result.difference)} points"
    table = exact_table(result)
    worse = exact.p_at_least(table, 0.0) if table else result.p_at_least(0.0)
    method = "exact unconditional test, ordered by Tango's score" if table else result.method
    if found.outcome == "pass":
        message = f"{change}, with {sure} confidence by no less than {points(found.lower)}: within {margin}"
    elif found.outcome == "fail":
        message = (
            f"{change}, with {sure} confidence at best {points(found.upper)}: worse by more than {margin}"
        )
    else:
        message = f"{change}, anything from {points(found.lower)} to {points(found.upper)}: {_why_open(result, limits)}"
        if worse < 1 - limits.confidence:
            message += f"; it is worse (p = {worse:.4f}), but by more than {margin} is not shown"
    told = caveat(result.scope, result.assumed_seed_sd)
    message += f" ({told})" if told else ""
    numbers: dict[str, Number] = {
        "baseline_accuracy": result.accuracy_b, "candidate_accuracy": result.accuracy_a,
        "difference": result.difference, "lower": found.lower, "upper": found.upper,
        "margin": limits.margin, "confidence": limits.confidence, "p_not_inferior": found.p, "p_worse": worse,
        "items": result.n, "baseline_runs": result.runs_b, "candidate_runs": result.runs_a,
        "scope": result.scope, "assumed_seed_sd": result.assumed_seed_sd, "method": method,
    }  # fmt: skip
    return Gate(name, found.outcome, message, numbers, caveat=told)


def _why_open(result: Paired, limits: Limits) -> str:
    if result.variance is not None:
        return f"{result.n} items and {result.runs_b} and {result.runs_a} runs do not decide it"
    needed = items_needed(result.discordant, limits)
    if result.n < needed:
        return f"{result.n} items do not decide it (about {needed} would, in four of five checks, if nothing has changed)"
    return f"{result.n} items do not decide it"


def items_needed(discordant: float, limits: Limits, power: float = POWER) -> int:
    """Items with which a true difference of 0 passes with this chance, at this share of discordant ones (one
    run of each).

    For none discordant exact: n items that agree exclude a loss m where (1 - m)^n is below 1 - confidence.
    Else by the normal approximation, which is short by about 1%.
    """
    agreeing = math.log(1 - limits.confidence) / math.log1p(-limits.margin)
    z = float(special.ndtri(limits.confidence) + special.ndtri(power))
    return math.ceil(max(agreeing, z**2 * discordant / limits.margin**2))


def memory_gate(baseline: Sequence[RunRecord], candidate: Sequence[RunRecord], limit: float) -> Gate:
    """Peak memory: the GPU's where both have one, else the host's where neither has."""
    own, kind = measure("gpu_memory_reserved_peak_bytes"), "GPU"
    if all(getattr(r.cost, own.field) is None for r in (*baseline, *candidate)):
        own, kind = measure("host_memory_peak_bytes"), "host"
    return _ratio_gate("memory", f"{kind} memory peak", own, (baseline, candidate), highest=limit)


def throughput_gate(baseline: Sequence[RunRecord], candidate: Sequence[RunRecord], limit: float) -> Gate:
    """Tokens a second in training; for methods that do not train, examples a second in evaluation."""
    trains = any(r.spec.trains for r in (*baseline, *candidate))
    own = measure("train_tokens_per_second" if trains else "eval_examples_per_second")
    return _ratio_gate("throughput", own.label, own, (baseline, candidate), lowest=limit)


def trainable_gate(baseline: Sequence[RunRecord], candidate: Sequence[RunRecord], limit: float) -> Gate:
    """The trained share of the parameters, on whatever device."""
    own = measure("trainable_fraction")
    return _ratio_gate("trainable", own.label, own, (baseline, candidate), highest=limit)


def _ratio_gate(
    name: str,
    what: str,
    own: Measure,
    sides: tuple[Sequence[RunRecord], Sequence[RunRecord]],
    *,
    highest: float | None = None,
    lowest: float | None = None,
) -> Gate:
    """The ratio of the candidate's cost to the baseline's, against its limit."""
    b, c = (None if (v := over_runs(side, own)) is None else v / own.scale for side in sides)
    unit = own.unit
    limit, bound = (highest, "at most") if highest is not None else (lowest, "at least")
    ratio = None if b is None or c is None or b == 0 else c / b
    if b == c == 0:
        ratio = 1.0
    numbers: dict[str, Number] = {"baseline": b, "candidate": c, "unit": unit, "ratio": ratio, "limit": limit}
    if own.by_device and not on_one_device(*sides):
        other = f"other devices, {devices(sides[0])} and {devices(sides[1])}"
        return Gate(name, "cannot_tell", f"{what}: measured on {other}", numbers)
    if b is None or c is None:
        lacking = [side for side, value in (("the baseline", b), ("the candidate", c)) if value is None]
        message = f"{what} was not measured in {' and '.join(lacking)}"
        # What neither side has is no gate that the candidate could be held to.
        return Gate(name, "cannot_tell", message, numbers, required=len(lacking) == 1)
    told = f"{what} {_figure(b)} to {_figure(c)} {unit}"
    if ratio is None:
        return Gate(name, "fail" if highest else "pass", f"{told}: the baseline has none", numbers)
    slack = 1e-9  # a ratio of 1.1 is often stored as a hair more
    held = ratio <= highest + slack if highest is not None else lowest is not None and ratio >= lowest - slack
    message = f"{told}, ratio {ratio:.3f}, allowed {bound} {limit:g}"
    return Gate(name, "pass" if held else "fail", message, numbers)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10_000 else f"{value:.4g}"
