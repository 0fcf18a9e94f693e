"""Training: ours against Trainer + PEFT as in the PEFT documentation, one table.

    python benchmarks/training.py [--rows lora-letter,ia3] [--data DIR] [--steps 8] [--json]

The same model, examples, batches (16 a step, in our order), precision (bfloat16 autocast, trained
weights in float32) and AdamW on both sides, each in a process of its own, taking turns. Printed per
row: non-padding tokens a second of both and their ratio (the first steps left out; of repeats, each
step's shortest time), how far the losses of a step are apart (in bfloat16, and in float32, where
more than 1e-3 is an error), and peak host memory, also as it is over the loaded model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sides import figures

SIDES = Path(__file__).with_name("training_sides.py")
WARMUP = 2
FURTHEST = 1e-3
"""How far a step's losses may be apart in float32."""
CHECKED_BATCH = 4
"""Examples of a step that is computed in float32: for equality, not for speed."""


@dataclass(frozen=True)
class Case:
    """A row of the table: what differs from lora on letters, and the goals."""

    setup: dict[str, Any]
    speed: float | None
    memory: float


CASES = {
    "lora-letter": Case({"strategy": "lora"}, 1.5, 1.0),
    "lora-cloze": Case({"strategy": "lora", "scoring": "cloze"}, 1.5, 1.0),
    "qlora": Case({"strategy": "qlora"}, 1.3, 1.0),
    "ia3": Case({"strategy": "ia3"}, 1.3, 1.0),
    "prefix": Case({"strategy": "prefix"}, 1.3, 1.0),
    "full": Case({"strategy": "full"}, 1.3, 1.0),
    "full-deepspeed": Case({"strategy": "full", "engine": "deepspeed"}, None, 1.0),
    # The memory of lora at batch 8 x 512 tokens.
    "lora-8x512": Case({"strategy": "lora", "batch": 8, "length": 512}, None, 0.7),
}


def side(name: str, setup: dict[str, Any]) -> dict[str, Any]:
    """The figures of one side, measured in a process of its own."""
    words = [str(SIDES), name, json.dumps({"scoring": "letter", **setup})]
    return figures(words, ours=name == "ours")


def both(setup: dict[str, Any], repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours and the peer's figures, in turns; each step's shortest time, the highest peaks."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for turn in range(repeats):
        for name in ("ours", "peer") if turn % 2 == 0 else ("peer", "ours"):
            found[name].append(side(name, setup))
    return _merged(found["ours"]), _merged(found["peer"])


def _merged(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    shortest = [min(times) for times in zip(*(r["seconds"] for r in repeats), strict=True)]
    peaks = {name: max(r[name] for r in repeats) for name in ("peak_bytes", "loaded_bytes")}
    return {**repeats[0], **peaks, "seconds": shortest}


def tokens_per_second(figures: dict[str, Any]) -> float:
    return sum(figures["tokens"][WARMUP:]) / sum(figures["seconds"][WARMUP:])  # type: ignore[no-any-return]


def apart(own: dict[str, Any], peer: dict[str, Any]) -> float:
    """The furthest that the losses of one step are apart."""
    return max(abs(a - b) for a, b in zip(own["losses"], peer["losses"], strict=True))


def measure(name: str, case: Case, asked: argparse.Namespace) -> dict[str, Any]:
    setup = {"data": asked.data, "model": asked.model, "steps": asked.steps, **case.setup}
    own, peer = both(setup, asked.repeats)
    exact = None
    if asked.check_steps:
        in_float32 = {**setup, "dtype": "float32", "steps": asked.check_steps, "batch": CHECKED_BATCH}
        exact = apart(side("ours", in_float32), side("peer", in_float32))
    speeds = tokens_per_second(own), tokens_per_second(peer)
    over = [f["peak_bytes"] - f["loaded_bytes"] for f in (own, peer)]
    return {
        "row": name, "goal_speed": case.speed, "goal_memory": case.memory,
        "ours_tokens_per_second": speeds[0], "peer_tokens_per_second": speeds[1],
        "speed_ratio": speeds[0] / speeds[1],
        "ours_peak_bytes": own["peak_bytes"], "peer_peak_bytes": peer["peak_bytes"],
        "memory_ratio": own["peak_bytes"] / peer["peak_bytes"], "memory_over_model_ratio": over[0] / over[1],
        "ours_losses": own["losses"], "peer_losses": peer["losses"],
        "loss_apart_bfloat16": apart(own, peer), "loss_apart_float32": exact,
    }  # fmt: skip


def text(row: dict[str, Any]) -> str:
    goal = "" if row["goal_speed"] is None else f" (goal {row['goal_speed']})"
    exact = row["loss_apart_float32"]
    return (
        f"{row['row']:15} {row['ours_tokens_per_second']:7.0f} {row['peer_tokens_per_second']:7.0f} "
        f"{row['speed_ratio']:6.2f} x{goal:11} "
        f"{row['ours_peak_bytes'] / 2**20:7.0f} {row['peer_peak_bytes'] / 2**20:7.0f} "
        f"{row['memory_ratio']:6.2f} x (goal {row['goal_memory']}) {row['memory_over_model_ratio']:6.2f} x   "
        f"{row['loss_apart_bfloat16']:.1e}   " + ("not asked" if exact is None else f"{exact:.1e}")
    )


HEADER = (
    f"{'':15} {'ours':>7} {'peer':>7} {'tokens/s':>8} {'':10} {'ours':>7} {'peer':>7} {'MiB peak':>8} {'':10} "
    f"{'over model':>10} {'loss apart: bf16':>13} float32"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(CASES), help=f"some of {','.join(CASES)}")
    parser.add_argument("--data", default="sample", help="sample, or a folder of real data")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=8, help=f"the first {WARMUP} are warm-up")
    parser.add_argument("--repeats", type=int, default=2, help="turns of each side")
    parser.add_argument("--check-steps", type=int, default=2, help="steps compared in float32; 0: none")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.rows.split(",")) - set(CASES)):
        parser.error(f"unknown rows {', '.join(unknown)}; there are {', '.join(CASES)}")
    if asked.steps <= WARMUP:
        parser.error(f"--steps must be more than the {WARMUP} of warm-up")
    if not asked.json:
        threads = os.environ.get("OMP_NUM_THREADS", "not set")
        print(f"{asked.model}, MedQA from {asked.data}, {asked.steps} steps, OMP_NUM_THREADS {threads}")
        print(HEADER, flush=True)
    differ = []
    for name in asked.rows.split(","):
        row = measure(name, CASES[name], asked)
        print(json.dumps(row) if asked.json else text(row), flush=True)
        if (row["loss_apart_float32"] or 0.0) > FURTHEST:
            differ.append(name)
    if differ:
        sys.exit(f"losses are more than {FURTHEST} apart in float32: {', '.join(differ)}")


if __name__ == "__main__":
    main()
