"""The table of all rows: scoring, training, memory and a grid, each beside its peer.

    python benchmarks/table.py [--data sample|DIR]      105 minutes on two cores

Every row is measured by the script named beside it, in this order, nothing else at the same time.
Ends with an error where a row's results are not equal to the peer's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MOST_OTHER_CHOICES = 0.05
"""Of a row's items, in bfloat16; in float32 there are none: see scoring.py."""

COLUMNS = ("work", "ours", "peer", "ratio", "goal", "peak memory", "equality")


def measured(script: str, *words: str) -> Iterator[dict[str, Any]]:
    """The rows of a script, as they are ready; their JSON goes to standard error too."""
    command = [sys.executable, str(HERE / script), *words, "--json"]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            yield json.loads(line)
    if running.returncode:
        sys.exit(f"{script} ended with {running.returncode}")


def scoring(data: str, rows: str, items: int, repeats: int) -> Iterator[list[str]]:
    words = ("--data", data, "--rows", rows, "--items", str(items), "--repeats", str(repeats))
    for row in measured("scoring.py", *words):
        name = f"{row['row']}, {row['title']}, {row['items']} items"
        if row["same_choice"] < 1 - MOST_OTHER_CHOICES:
            sys.exit(f"{name}: only {row['same_choice']:.1%} of the choices are the peer's")
        peak = f"{row['of_peak']:.0%} of {row['matmul_gflops']:.0f} GFLOP/s"
        yield [
            f"{name} ({peak})",
            f"{row['ours_items_per_second']:.2f} items/s",
            f"{row['peer_items_per_second']:.2f} (batch {row['peer_batch']})",
            f"{row['ratio']:.2f}",
            f"{row['goal']}",
            f"{row['ours_peak_bytes'] / row['peer_peak_bytes']:.2f}",
            f"same choice {row['same_choice']:.1%}",
        ]


def training(data: str) -> Iterator[list[str]]:
    words = ("--data", data, "--steps", "5", "--repeats", "1")
    for row in measured("training.py", *words):
        memory = f"{row['memory_ratio']:.2f} (goal {row['goal_memory']})"
        apart = f"losses at most {row['loss_apart_float32']:.0e} apart in float32"
        yield [
            f"training, {row['row']}",
            f"{row['ours_tokens_per_second']:.0f} tokens/s",
            f"{row['peer_tokens_per_second']:.0f}",
            f"{row['speed_ratio']:.2f}",
            "" if row["goal_speed"] is None else f"{row['goal_speed']}",
            memory,
            apart,
        ]


def memory() -> Iterator[list[str]]:
    for row in measured("scoring_memory.py"):
        grown = f"{row['grown_bytes'] / 2**20:.0f} MiB"
        yield [f"memory of scoring {row['items']:,} items", grown, "", "", "does not grow", "", ""]


def grid(steps: int) -> Iterator[list[str]]:
    words = ("--sides", "warm,peer", *(["--max-steps", str(steps)] if steps else []))
    for row in measured("grid.py", *words):
        steps_said = f"{steps} steps each" if steps else "two epochs"
        yield [
            f"grid of six strategies on the sample, {steps_said}",
            f"{row['seconds']['warm']:.0f} s",
            f"{row['seconds']['peer']:.0f} s",
            f"{row['ratios']['warm']:.2f}",
            f"{row['goal']}",
            "",
            f"zero-shot: {row['zero_shot_different']:.1%} other choices",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="sample", help="sample, or a folder of real data")
    parser.add_argument(
        "--grid-steps", type=int, default=20, help="training steps of each run; 0: two epochs"
    )
    asked = parser.parse_args()
    parts = (
        scoring(asked.data, "medqa-letter", 100, 2),
        scoring(asked.data, "medqa-letter-5shot", 200, 1),  # the peer takes minutes
        scoring(asked.data, "medqa-cloze,pubmedqa-letter", 100, 2),
        memory(),
        grid(asked.grid_steps),
        training(asked.data),
    )
    rows: list[list[str]] = []
    try:
        for row in itertools.chain(*parts):
            rows.append(row)
    finally:  # an error in one row, or Ctrl-C, loses no other
        for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows):
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
