"""Training of a 7B model: tokens a second and the share of the device's matmul speed that they use.

    python benchmarks/training_gpu.py [--strategies lora,qlora] [--lengths 512,2048]
        [--rows equal,padded,packed] [--json]

A model of Llama-2-7B's shape with random weights in bfloat16, on examples with one answer token: of
equal length; or of a quarter of it to all of it, in padded rows with sdpa, and packed into rows without
padding with flex_attention. Padding does not count as tokens. Model FLOPs are counted as
harness/runtime/training/flops.py does (attention scores and recomputation left out); what is used is their
share of the fastest bfloat16 matmul measured here. Goals on an H200-class card, for examples of equal
length: lora 45%, qlora 35%. Without a GPU only `--shape tiny` can be asked for, where packed rows take
sdpa too: it shows that this script works, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
from sides import figures
from training_sides import Setup, order_of, ours
from transformers import LlamaConfig

from harness.registry import load_registry
from harness.runtime.models.loading import locate
from harness.runtime.tokens.rows import Row
from harness.runtime.training.flops import train_flops
from harness.spec import ModelSpec

WARMUP = 2
SHAPES: dict[str, dict[str, int]] = {
    "llama-2-7b": {},  # LlamaConfig's own defaults, but for the context
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 512,
    },
}  # fmt: skip
GOALS = {"lora": 0.45, "qlora": 0.35}
ROWS = ("equal", "padded", "packed")


def matmul_flops_per_second(device: torch.device, size: int) -> float:
    """The fastest of some bfloat16 products of square matrices."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        _wait(device)
        started = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def made_up(setup: Setup, rows: str, vocabulary: int) -> list[Row]:
    """Random examples of `setup.length` tokens, or of a quarter of it to all of it."""
    length, count = setup.length or 512, setup.steps * setup.batch
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (count, length), generator=generator).tolist()
    shortest = length if rows == "equal" else length // 4
    lengths = torch.randint(shortest, length + 1, (count,), generator=generator).tolist()
    return [Row(tuple(row[:own]), own - 1) for row, own in zip(ids, lengths, strict=True)]


def measure(setup: Setup, kind: str) -> dict[str, Any]:
    """One strategy on one kind of rows at one length, in this process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = matmul_flops_per_second(device, 8192 if device.type == "cuda" else 512)
    located = locate(ModelSpec(name=setup.model))
    vocabulary = json.loads((located.folder / "config.json").read_text())["vocab_size"]
    rows = made_up(setup, kind, vocabulary)
    strategy = load_registry().strategy(setup.strategy)()
    side = ours(setup, strategy, rows, located, SimpleNamespace(pad_token_id=0))
    model = next(side)
    seconds, _ = next(side)
    timed = seconds[WARMUP:]
    tokens = sum(len(rows[i].ids) for step in order_of(setup, rows)[WARMUP:] for i in step)
    flops = train_flops(model, tokens, len(timed) * setup.batch)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "strategy": setup.strategy, "rows": kind, "attention": setup.attention, "length": setup.length,
        "batch": setup.batch, "device": name, "tokens_per_second": tokens / sum(timed),
        "matmul_flops_per_second": peak, "used": flops / sum(timed) / peak,
        "goal": GOALS.get(setup.strategy) if kind == "equal" else None,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }  # fmt: skip


def text(row: dict[str, Any]) -> str:
    goal = "" if row["goal"] is None else f" (goal {row['goal']:.0%})"
    memory = "" if row["peak_bytes"] is None else f"   {row['peak_bytes'] / 2**30:6.1f} GiB peak"
    return (
        f"{row['device']:20} {row['strategy']:8} {row['rows']:6} {row['attention']:14} "
        f"{row['length']:5} tokens x {row['batch']:3} "
        f"{row['tokens_per_second']:9.0f} tokens/s   {row['used']:6.1%}{goal} of "
        f"{row['matmul_flops_per_second'] / 1e12:.2f} TFLOP/s measured{memory}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strategies", default="lora,qlora")
    parser.add_argument("--lengths", default="512,2048")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-2-7b")
    parser.add_argument("--steps", type=int, default=8, help=f"the first {WARMUP} are warm-up")
    parser.add_argument("--step-tokens", type=int, default=8192, help="tokens an optimiser step")
    parser.add_argument("--set", type=json.loads, default={}, help='train settings, {"compile": true}')
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a measurement in a process of its own
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(Setup(**json.loads(asked.one)), asked.rows)))
        return
    if asked.steps <= WARMUP:
        parser.error(f"--steps must be more than the {WARMUP} of warm-up")
    kinds = asked.rows.split(",")
    if not set(kinds) <= set(ROWS):
        parser.error(f"--rows takes some of {', '.join(ROWS)}")
    on_gpu = torch.cuda.is_available()
    if not on_gpu and asked.shape != "tiny":
        sys.exit("no GPU here, so these rows stay empty: a 7B model is not trained on a CPU")
    with tempfile.TemporaryDirectory() as folder:
        LlamaConfig(**SHAPES[asked.shape], max_position_embeddings=4096).save_pretrained(folder)
        asked_for = product(asked.strategies.split(","), map(int, asked.lengths.split(",")), kinds)
        for strategy, length, kind in asked_for:
            mean = length if kind == "equal" else length * 5 // 8
            packed = kind == "packed"
            setup = {
                "strategy": strategy, "scoring": "letter", "steps": asked.steps, "length": length,
                "batch": max(1, asked.step_tokens // mean), "model": f"random:{folder}",
                "attention": "flex_attention" if packed and on_gpu else "sdpa",  # flex trains on no CPU
                "train": {**asked.set, "packing": "on" if packed else "off"},
            }  # fmt: skip
            found = figures([__file__, "--rows", kind, "--one", json.dumps(setup)], ours=True)
            print(json.dumps(found) if asked.json else text(found), flush=True)


if __name__ == "__main__":
    main()
