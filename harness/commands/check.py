"""`check`: did a candidate get worse than its baseline? Its exit code is the answer."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from harness.ask.options import filters_of
from harness.errors import EXIT_OK, UsageError
from harness.escape import plain
from harness.evidence.check import CheckResult, Finder
from harness.evidence.check import check as run_check
from harness.evidence.gates import Limits
from harness.evidence.saved import save
from harness.io.files import store_error
from harness.render.document import print_text
from harness.report.check_formats import as_github, as_json, as_junit, as_summary, blocks_of


def check(args: argparse.Namespace) -> int:
    """Check, or with --save write a baseline; returns the exit code."""
    if (args.baseline is None) == (args.save is None):
        raise UsageError(
            "check takes either --baseline B, to check against, or --save FILE, to write a baseline",
            "For example: python -m harness check --baseline baseline.json.gz --candidate lora",
        )
    finder = Finder(args.results, filters_of(args))
    if args.save is not None:
        return _save(args, finder)
    limits = Limits(
        margin=args.margin,
        confidence=args.confidence,
        max_memory_ratio=args.max_memory_ratio,
        min_throughput_ratio=args.min_throughput_ratio,
        max_trainable_ratio=args.max_trainable_ratio,
        assumed_seed_sd=args.assume_seed_sd,
    )
    result = run_check(args.baseline, args.candidate, finder, limits, args.gates, args.anchor)
    _show(result, args.format)
    return result.exit_code


def _save(args: argparse.Namespace, finder: Finder) -> int:
    """Write the candidate, and the anchor where one is named, as a baseline."""
    candidate = finder.one(args.candidate)
    anchors = []
    if args.anchor is not None:
        anchors.append(finder.anchor(args.anchor, candidate, None))
    save(args.save, candidate, anchors)
    if args.format == "json":
        print(json.dumps({"saved": str(args.save), "runs": [r.run_id for r in candidate.group.records]}))
    else:
        kept = f", with the anchor {anchors[0].name}" if anchors else ""
        items = len(candidate.outcomes.example_ids)
        told = f"saved {candidate.name} ({len(candidate.group.records)} runs, {items} items){kept} to {args.save}"
        print(plain(told), file=sys.stdout if args.format == "text" else sys.stderr)
    return EXIT_OK


def _show(result: CheckResult, form: str) -> None:
    if form == "json":
        print(as_json(result))
    elif form == "junit":
        print(as_junit(result), end="")
    elif form == "github":
        print(as_github(result), end="")
        _summarise(as_summary(result))
    else:
        print_text(blocks_of(result))


def _summarise(text: str) -> None:
    """Append to the job's summary page where GitHub gives one, else print it."""
    given = os.environ.get("GITHUB_STEP_SUMMARY")
    if not given:
        print(text, end="")
        return
    path = Path(given)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise store_error(error, path, "write") from error
