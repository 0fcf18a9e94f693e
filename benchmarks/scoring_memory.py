"""Scoring's peak of host memory beyond the loaded model, for 1,000 and for 10,000 items.

    python benchmarks/scoring_memory.py [--json]

A tiny model's, so that the memory is the items' own; each number of items in a process of its own, in
the environment that `run` gives to its processes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

from sides import figures

ITEMS = (1_000, 10_000)


def side(items: int) -> None:
    """Scores `items` in this process; prints JSON."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from harness.contracts import DataSource
    from harness.registry import load_registry
    from harness.runtime.evaluators.choice import predict
    from harness.runtime.meter import host_memory_bytes, host_peak_bytes
    from harness.runtime.models.loading import load_tokenizer, locate
    from harness.runtime.scoring.scorer import Scorer
    from harness.spec import ModelSpec

    spec = ModelSpec()
    tokenizer = load_tokenizer(locate(spec), spec)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=2048,
        )
    )  # fmt: skip
    task = load_registry().task("medqa")()
    some = task.load(DataSource.parse("sample")).test
    scorer = Scorer(model, tokenizer, max_length=2048)
    predict(scorer, task, some, [], "cloze")
    test = [  # no two alike: equal requests are computed once
        dataclasses.replace(own, id=str(i), question=f"Case {i}. {own.question}")
        for i in range(items)
        for own in [some[i % len(some)]]
    ]
    before = host_memory_bytes() or 0
    predictions, _ = predict(scorer, task, test, [], "cloze")
    assert len(predictions) == items
    print(json.dumps({"items": items, "grown_bytes": (host_peak_bytes() or 0) - before}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each number of items")
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        side(asked.side)
        return
    for items in ITEMS:
        found = figures([__file__, "--side", str(items)], ours=True)
        text = f"{items:6} items: {found['grown_bytes'] / 2**20:.0f} MiB over the loaded model"
        print(json.dumps(found) if asked.json else text, flush=True)


if __name__ == "__main__":
    main()
