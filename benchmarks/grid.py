"""A grid of six strategies: our command, with and without --warm, against six scripts of the peers.

    python benchmarks/grid.py [--data sample|DIR] [--limit N] [--max-steps N] [--sides ours,warm,peer] [--json]

MedQA letter, smollm2-135m. The scripts (benchmarks/peer_run.py) are run one after another, as a user
runs them; the clock runs over whole commands. Goal: the peers' wall time over ours at least 1.5. The
accuracies after training are not expected to be equal to the item (Trainer has its own order of
examples, and bfloat16 rounds); those of zero-shot are, but for items whose two best choices are
within the rounding of HFLM's bfloat16 logits: more than 2% of differing items is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

STRATEGIES = ("zero-shot", "full", "lora", "qlora", "ia3", "prefix")
PEER = Path(__file__).with_name("peer_run.py")
ROOT = Path(__file__).parents[1]
GOAL = 1.5
MOST_DIFFERENT = 0.02

COLUMNS = ("predicted", "correct")


class Side(NamedTuple):
    """Wall seconds, and each strategy's answers: the choice, and whether it is right."""

    seconds: float
    answers: dict[str, list[tuple[int, bool]]]


def called(command: list[str]) -> tuple[float, str]:
    """Seconds and output of a command."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    started = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr[-3000:]}")
    return seconds, done.stdout


def grid_command(asked: argparse.Namespace, *words: str) -> list[str]:
    limit = ["--limit", str(asked.limit)] if asked.limit else []
    steps = ["--set", f"train.max_steps={asked.max_steps}"] if asked.max_steps else []
    return [
        sys.executable, "-m", "harness", "run", "--strategy", ",".join(STRATEGIES), "--task", "medqa",
        "--data", asked.data, "--model", asked.model, "--scoring", "letter", *limit, *steps, "--json", *words,
    ]  # fmt: skip


def ours(asked: argparse.Namespace, folder: Path, *words: str) -> Side:
    """The whole grid by one command."""
    seconds, out = called(grid_command(asked, "--results", str(folder), *words))
    answers = {}
    for record in json.loads(out):
        name = record["spec"]["strategy"]["name"]
        table = pq.read_table(folder / record["run_id"] / "predictions.parquet")
        answers[name] = list(zip(*(table[column].to_pylist() for column in COLUMNS), strict=True))
        phases = ", ".join(f"{phase['name']} {phase['seconds']:.1f}" for phase in record["phases"])
        print(f"    {name:10} {record['cost']['total_seconds']:7.1f} s ({phases})", file=sys.stderr)
    return Side(seconds, answers)


def peers(asked: argparse.Namespace, folder: Path) -> Side:
    """The six scripts, one after another."""
    _, out = called(grid_command(asked, "--dry-run", "--results", str(folder / "none")))
    total, answers = 0.0, {}
    for run in json.loads(out):
        name, path = run["spec"]["strategy"]["name"], folder / "spec.json"
        path.write_text(json.dumps(run["spec"]))
        seconds, said = called([sys.executable, str(PEER), str(path)])
        total += seconds
        answers[name] = [tuple(answer) for answer in json.loads(said.splitlines()[-1])]
        print(f"    {name:10} {seconds:7.1f} s", file=sys.stderr)
    return Side(total, answers)


def accuracy(answers: list[tuple[int, bool]]) -> float:
    return sum(correct for _, correct in answers) / len(answers)


def different(one: list[tuple[int, bool]], other: list[tuple[int, bool]]) -> float:
    """The share of items for which another choice was made."""
    return sum(a != b for (a, _), (b, _) in zip(one, other, strict=True)) / len(one)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="sample")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--limit", type=int, default=0, help="only the first N test items; default: all")
    parser.add_argument("--max-steps", type=int, default=0, help="default: two epochs")
    parser.add_argument("--sides", default="ours,warm,peer")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    sides: dict[str, Side] = {}
    called([sys.executable, "-m", "harness", "run", "--help"])  # the first reading of files is nobody's
    for name in asked.sides.split(","):
        print(f"{name}:", file=sys.stderr)
        with tempfile.TemporaryDirectory() as text:
            words = ["--warm"] if name == "warm" else []
            sides[name] = peers(asked, Path(text)) if name == "peer" else ours(asked, Path(text), *words)
    found = figures(sides)
    print(json.dumps(found) if asked.json else text_of(found))
    check(sides, found)


def figures(sides: dict[str, Side]) -> dict[str, Any]:
    """Seconds and accuracies of each side; of ours, the peers' wall time over it."""
    peer = sides.get("peer")
    own = [side for side in sides.values() if side is not peer]
    return {
        "goal": GOAL,
        "seconds": {name: side.seconds for name, side in sides.items()},
        "ratios": {name: peer.seconds / side.seconds for name, side in sides.items() if peer and side is not peer},
        "accuracies": {
            strategy: {name: accuracy(side.answers[strategy]) for name, side in sides.items()}
            for strategy in STRATEGIES
        },
        "zero_shot_different": different(own[0].answers["zero-shot"], peer.answers["zero-shot"])
        if peer and own
        else None,
    }  # fmt: skip


def text_of(found: dict[str, Any]) -> str:
    lines = []
    for name, seconds in found["seconds"].items():
        ratio = f"   {found['ratios'][name]:5.2f} x (goal {GOAL})" if name in found["ratios"] else ""
        lines.append(f"{name:10} {seconds:8.1f} s wall{ratio}")
    lines.append(f"{'accuracy %':10} " + " ".join(f"{name:>10}" for name in found["seconds"]))
    for strategy, values in found["accuracies"].items():
        lines.append(f"{strategy:10} " + " ".join(f"{value * 100:10.1f}" for value in values.values()))
    if found["zero_shot_different"] is not None:
        share = f"{found['zero_shot_different']:.1%}"
        lines.append(f"zero-shot: {share} of the items answered differently by ours and the peer")
    return "\n".join(lines)


def check(sides: dict[str, Side], found: dict[str, Any]) -> None:
    """Ends with an error where choices differ that should not."""
    own = [side for name, side in sides.items() if name != "peer"]
    if len(own) == 2 and own[0].answers != own[1].answers:
        sys.exit("the runs with and without --warm made different choices")
    if (found["zero_shot_different"] or 0.0) > MOST_DIFFERENT:
        sys.exit("zero-shot: too many items answered differently for rounding")


if __name__ == "__main__":
    main()
