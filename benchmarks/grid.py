"""A grid of six strategies: our command, with and without --warm, against six scripts of the peers.

    python benchmarks/grid.py [--data sample|DIR] [--limit N] [--max-steps N] [--sides ours,warm,peer]

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
from typing import NamedTuple

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
    asked = parser.parse_args()
    sides: dict[str, Side] = {}
    called([sys.executable, "-m", "harness", "run", "--help"])  # the first reading of files is nobody's
    for name in asked.sides.split(","):
        print(f"{name}:", file=sys.stderr)
        with tempfile.TemporaryDirectory() as text:
            words = ["--warm"] if name == "warm" else []
            sides[name] = peers(asked, Path(text)) if name == "peer" else ours(asked, Path(text), *words)
    show(sides)


def show(sides: dict[str, Side]) -> None:
    peer = sides.get("peer")
    for name, side in sides.items():
        ratio = f"   {peer.seconds / side.seconds:5.2f} x (goal {GOAL})" if peer and side is not peer else ""
        print(f"{name:10} {side.seconds:8.1f} s wall{ratio}")
    print(f"{'accuracy %':10} " + " ".join(f"{name:>10}" for name in sides))
    for strategy in STRATEGIES:
        values = [accuracy(side.answers[strategy]) * 100 for side in sides.values()]
        print(f"{strategy:10} " + " ".join(f"{value:10.1f}" for value in values))
    own = [side for side in sides.values() if side is not peer]
    if len(own) == 2 and own[0].answers != own[1].answers:
        sys.exit("the runs with and without --warm made different choices")
    if peer and own:
        share = different(own[0].answers["zero-shot"], peer.answers["zero-shot"])
        print(f"zero-shot: {share:.1%} of the items answered differently by ours and the peer")
        if share > MOST_DIFFERENT:
            sys.exit("too many for rounding")


if __name__ == "__main__":
    main()
