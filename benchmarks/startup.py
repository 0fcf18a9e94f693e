"""Start-up: `python -m harness --help` and `list` against `lm-eval --help`, in turn, in one run.

Prints the median wall seconds of each and the ratios. Goals: help at most 1x, list under 2x.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 7
BIN = Path(sys.executable).parent
COMMANDS = {
    "lm-eval --help": [str(BIN / "lm-eval"), "--help"],
    "python -m harness --help": [sys.executable, "-m", "harness", "--help"],
    "python -m harness list": [sys.executable, "-m", "harness", "list"],
}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():
        seconds(command)  # warms the file cache
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(own) for name, own in times.items()}
    peer = medians["lm-eval --help"]
    for name, own in medians.items():
        print(f"{name:28} {own:6.3f} s   {own / peer:5.2f} x lm-eval --help")


if __name__ == "__main__":
    main()
