"""Scoring: ours against lm-eval's HFLM at its best batch size, item by item.

    python benchmarks/scoring.py [--data DIR] [--items 200] [--dtype bfloat16] [--rows NAME,...]
    python benchmarks/scoring.py --data DIR --dtype float32 --items 0     all items, exact: the same choices

Each side in a process of its own, in turns: the same model, items and precision; ours in the environment
that `run` gives to its processes, HFLM's as the user's shell has it. The clock runs over everything from
texts to predictions. `of peak`: model FLOPs a second of ours (padding not counted) over those of a
bfloat16 (or float32) matrix product measured in the same process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from sides import figures

from harness.runtime.meter import host_peak_bytes


class Row(NamedTuple):
    """One line of the table; goal: items a second over HFLM's."""

    task: str
    scoring: str
    shots: int
    strategy: str
    goal: float


ROWS = {
    "medqa-letter": Row("medqa", "letter", 0, "zero-shot", 1.4),
    "medqa-letter-5shot": Row("medqa", "letter", 5, "few-shot", 6.0),
    "medqa-cloze": Row("medqa", "cloze", 0, "zero-shot", 4.0),
    "pubmedqa-letter": Row("pubmedqa", "letter", 0, "zero-shot", 1.4),
    "pubmedqa-cloze": Row("pubmedqa", "cloze", 0, "zero-shot", 1.4),
    "medqa-cloze-prefix": Row("medqa", "cloze", 0, "prefix", 4.0),
    "medqa-cloze-qlora": Row("medqa", "cloze", 0, "qlora", 4.0),
}
DEFAULT_ROWS = "medqa-letter,medqa-letter-5shot,medqa-cloze,pubmedqa-letter"
PEER_BATCHES = (1, 4, 8, 16, 32)
TRIAL_ITEMS = 24
PROFILED = 8
"""Operations that a profile names."""


def side(asked: argparse.Namespace) -> None:
    """One side of one row; prints JSON."""
    import torch
    from lm_eval.models.huggingface import HFLM

    from harness.contracts import DataSource
    from harness.registry import load_registry
    from harness.runtime.evaluators.choice import predict, worked_examples
    from harness.runtime.models.context import context_length
    from harness.runtime.models.loading import Base, load_tokenizer, locate
    from harness.runtime.scoring.scorer import Scorer
    from harness.spec import ModelSpec

    row = ROWS[asked.rows]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    registry = load_registry()
    task = registry.task(row.task)()
    splits = task.load(DataSource.parse(asked.data))
    test = splits.test[: asked.items or None]
    shots = worked_examples(splits.train, row.shots, 0)
    spec = ModelSpec(name=asked.model, dtype=asked.dtype)
    located = locate(spec)
    tokenizer = load_tokenizer(located, spec)
    strategy = registry.strategy(row.strategy)()
    torch.manual_seed(0)
    model: Any = strategy.adapt(strategy.load(Base(located, spec, device))).eval()
    length = context_length(model, tokenizer, spec.max_length)
    loaded = host_peak_bytes()

    def seconds(lm: Any, items: Any) -> tuple[float, Any]:
        started = time.perf_counter()
        found, _ = predict(lm, task, items, shots, row.scoring)
        return time.perf_counter() - started, found

    def hflm(batch: int) -> Any:
        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=length)

    more: dict[str, float] = {}
    if asked.side == "ours":
        scorer = Scorer(model, tokenizer, max_length=length, batch_tokens=asked.batch_tokens or None)
        seconds(scorer, test[:4])
        counted, before = Counted(scorer), scorer.likelihood.forward_seconds
        with profiled(asked.profile) as shares:
            took, found = seconds(scorer, test)
        more = {
            "tokens": counted.tokens, "flops": counted.flops, "matmul_flops": matmul_flops(model.dtype),
            "forward_seconds": scorer.likelihood.forward_seconds - before, "profile": shares,
        }  # fmt: skip
    elif asked.side == "search":
        trial = test[:: max(1, len(test) // TRIAL_ITEMS)][:TRIAL_ITEMS]
        tried = {size: seconds(hflm(size), trial)[0] for size in PEER_BATCHES}
        print(json.dumps({"batch": min(tried, key=lambda size: tried[size])}))
        return
    else:
        peer = hflm(asked.peer_batch)
        seconds(peer, test[:4])
        took, found = seconds(peer, test)
    print(
        json.dumps(
            {
                "seconds": took,
                "items": len(test),
                "peak_bytes": host_peak_bytes(),
                "loaded_bytes": loaded,
                "predicted": [p.predicted for p in found],
                "logprobs": [p.logprobs for p in found],
                "title": splits.title,
                **more,
            }
        )
    )


@contextlib.contextmanager
def profiled(wanted: bool) -> Iterator[dict[str, float]]:
    """While open, fills the shares of the time that operations of PyTorch took themselves, in all threads."""
    shares: dict[str, float] = {}
    if not wanted:
        yield shares
        return
    from torch._C._profiler import _ExperimentalConfig
    from torch.profiler import profile

    with profile(experimental_config=_ExperimentalConfig(profile_all_threads=True)) as seen:
        yield shares
    times = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    most = sorted(times, key=lambda name: -times[name])[:PROFILED]
    shares.update({name: times[name] / sum(times.values()) for name in most})


class Counted:
    """Counts the tokens and model FLOPs that a scorer computes, padding left out."""

    def __init__(self, scorer: Any) -> None:
        from harness.runtime.models.counting import logical_size
        from harness.runtime.models.positions import base_model

        own = scorer.likelihood._passes
        base = base_model(own.model)
        self.tokens = self.flops = 0.0
        adding = threading.Lock()  # passes run side by side
        head = base.get_output_embeddings().weight
        matrices = {id(w): w for name, w in base.named_parameters() if w.ndim > 1 and "embed" not in name}
        matrices.pop(id(head), None)
        body = sum(map(logical_size, matrices.values()))
        attention = 4 * base.config.num_hidden_layers * base.config.hidden_size
        call, choose = own._call, own._choose

        def counted_call(batch: Any, width: int, kept: Any, cache: Any) -> Any:
            with adding:
                for row in batch:
                    seen = (kept.length if kept else 0) + row.length / 2
                    self.tokens += row.length
                    self.flops += row.length * (2 * body + attention * seen)
            return call(batch, width, kept, cache)

        def counted_choose(places: Any, width: int) -> None:
            with adding:
                self.flops += 2 * head.numel() * len(places)
            choose(places, width)

        own._call, own._choose = counted_call, counted_choose


def matmul_flops(dtype: Any, size: int = 2048) -> float:
    """Floating-point operations a second of a square matrix product, best of five."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else size
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def run_side(name: str, row: str, asked: argparse.Namespace, peer_batch: int = 0) -> dict[str, Any]:
    words = [
        __file__, "--side", name, "--rows", row, "--data", asked.data, "--items", str(asked.items),
        "--dtype", asked.dtype, "--model", asked.model, "--batch-tokens", str(asked.batch_tokens),
        "--peer-batch", str(peer_batch),
        *(["--profile"] if asked.profile else []),
    ]  # fmt: skip
    return figures(words, ours=name == "ours")


def compare(row: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Both sides of one row."""
    # In a process of its own: what a larger batch needs is no part of the peer's peak.
    batch = asked.peer_batch or run_side("search", row, asked)["batch"]
    turns = [
        (run_side("ours", row, asked), run_side("hflm", row, asked, batch)) for _ in range(asked.repeats)
    ]
    ours, peer = (min(own, key=lambda side: side["seconds"]) for own in zip(*turns, strict=True))
    differences = [
        abs(x - y) for a, b in zip(ours["logprobs"], peer["logprobs"], strict=True) for x, y in zip(a, b, strict=True)
    ]  # fmt: skip
    same = sum(a == b for a, b in zip(ours["predicted"], peer["predicted"], strict=True))
    return {
        "row": row,
        "title": ours["title"],
        "items": ours["items"],
        "ours_items_per_second": ours["items"] / ours["seconds"],
        "peer_items_per_second": peer["items"] / peer["seconds"],
        "ratio": peer["seconds"] / ours["seconds"],
        "goal": ROWS[row].goal,
        "peer_batch": batch,
        "same_choice": same / ours["items"],
        "furthest_log_likelihood": max(differences),
        "ours_peak_bytes": ours["peak_bytes"],
        "peer_peak_bytes": peer["peak_bytes"],
        "of_peak": ours["flops"] / ours["seconds"] / ours["matmul_flops"],
        "of_peak_in_forward": ours["flops"] / ours["forward_seconds"] / ours["matmul_flops"],
        "matmul_gflops": ours["matmul_flops"] / 1e9,
        "profile": ours["profile"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="sample", help="sample, or a folder with real data")
    parser.add_argument("--items", type=int, default=200, help="of each row; 0 for all")
    parser.add_argument("--rows", default=DEFAULT_ROWS, help=f"of {', '.join(ROWS)}")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--batch-tokens", type=int, default=0, help="default: found by itself")
    parser.add_argument("--peer-batch", type=int, help="HFLM's batch size; default: the fastest of some")
    parser.add_argument(
        "--repeats", type=int, default=1, help="turns of each side, of which the shortest counts"
    )
    parser.add_argument("--profile", action="store_true", help="where our time goes; slows ours down")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each row")
    parser.add_argument("--side", choices=["ours", "search", "hflm"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if unknown := set(asked.rows.split(",")) - set(ROWS):
        parser.error(f"unknown rows {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    if asked.side:
        side(asked)
        return
    for name in asked.rows.split(","):
        found = compare(name, asked)
        if asked.json:
            print(json.dumps(found), flush=True)
            continue
        print(
            f"{name:20} {found['title']}, {found['items']} items, {asked.dtype}: ours "
            f"{found['ours_items_per_second']:.2f} items/s, HFLM (batch {found['peer_batch']}) "
            f"{found['peer_items_per_second']:.2f}, {found['ratio']:.2f} x (goal {found['goal']} x); same choice "
            f"{found['same_choice']:.2%}, log-likelihoods within {found['furthest_log_likelihood']:.1e}; peak host "
            f"memory {found['ours_peak_bytes'] / found['peer_peak_bytes']:.2f} x; {found['of_peak']:.0%} of the "
            f"matrix product's {found['matmul_gflops']:.0f} GFLOP/s ({found['of_peak_in_forward']:.0%} in the model)",
            flush=True,
        )
        for operation, share in found["profile"].items():
            print(f"    {share:6.1%} {operation}", flush=True)


if __name__ == "__main__":
    main()
