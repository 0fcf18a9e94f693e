"""Our scorer against lm-eval's HFLM, item by item: the same choice, log-likelihoods within 1e-3.

    python benchmarks/agreement.py --data DIR [--limit N] [--model NAME] [--dtype float32]

Untrained model, zero-shot, both scorings, every task in DIR. Prints seconds and the ratio too.
"""

from __future__ import annotations

import argparse
import time

import torch
from lm_eval.models.huggingface import HFLM

from harness.contracts import SCORINGS, DataSource
from harness.registry import load_registry
from harness.runtime.evaluate import predict
from harness.runtime.models import Base, context_length, load_tokenizer, locate
from harness.runtime.scorer import Scorer
from harness.spec import ModelSpec


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--tasks", default="medqa,pubmedqa")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--peer-batch", type=int, default=8)
    asked = parser.parse_args()

    spec = ModelSpec(name=asked.model, dtype=asked.dtype)
    located = locate(spec)
    tokenizer = load_tokenizer(located, spec)
    model = Base(located, spec, "cuda" if torch.cuda.is_available() else "cpu").load()
    length = context_length(model, spec)
    registry = load_registry()
    for name in asked.tasks.split(","):
        task = registry.task(name)()
        test = task.load(DataSource.parse(asked.data)).test[: asked.limit]
        for scoring in SCORINGS:
            scorer = Scorer(model, tokenizer, max_length=length, batch_tokens=4096)
            started = time.perf_counter()
            ours, _ = predict(scorer, task, test, [], scoring)
            middle = time.perf_counter()
            peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=asked.peer_batch, max_length=length)
            theirs, _ = predict(peer, task, test, [], scoring)
            ended = time.perf_counter()
            same = sum(a.predicted == b.predicted for a, b in zip(ours, theirs, strict=True))
            furthest = max(
                abs(x - y)
                for a, b in zip(ours, theirs, strict=True)
                for x, y in zip(a.logprobs, b.logprobs, strict=True)
            )
            print(
                f"{name:9} {scoring:6} {asked.dtype:8} {len(test):5} items   same choice {same / len(test):.2%}   "
                f"log-likelihood within {furthest:.1e}   ours {middle - started:6.1f} s   "
                f"HFLM {ended - middle:6.1f} s   {(ended - middle) / (middle - started):.2f} x",
                flush=True,
            )


if __name__ == "__main__":
    main()
