"""Scoring with a 7B model: ours against lm-eval's HFLM, and the share of the matmul speed that is used.

    python benchmarks/scoring_gpu.py [--lengths 512,2048] [--questions 256] [--json]

A model of Llama-2-7B's shape with random weights in bfloat16; questions of random tokens, all of one
length, with four answers of one token (letter) or of eight (cloze). Model FLOPs are the matrix products
of every token fed, attention scores left out. Goal on an H200-class card: 55%. Without a GPU only
`--shape tiny` can be asked for: it shows that this script works, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from training_gpu import SHAPES, matmul_flops_per_second
from transformers import LlamaConfig

from harness.runtime.models.loading import Base, load_tokenizer, locate
from harness.runtime.scoring.scorer import Scorer
from harness.spec import ModelSpec

GOAL = 0.55
CHOICES = 4
ANSWERS = {"letter": 1, "cloze": 8}

Request = tuple[tuple[str, str], list[int], list[int]]


def requests(length: int, questions: int, answer: int, vocabulary: int) -> list[Request]:
    """lm-eval's (text, prompt ids, answer ids), `CHOICES` of each question."""
    generator = torch.Generator().manual_seed(0)
    width = length + CHOICES * answer
    rows = torch.randint(3, vocabulary, (questions, width), generator=generator).tolist()
    return [
        ((str(n), str(choice)), row[:length], row[length + choice * answer :][:answer])
        for n, row in enumerate(rows)
        for choice in range(CHOICES)
    ]


def timed(lm: Any, asked: list[Request]) -> tuple[float, list[float]]:
    """Seconds and log-likelihoods; ours and HFLM's `_loglikelihood_tokens` take the same arguments."""
    lm._loglikelihood_tokens(asked[: 4 * CHOICES], disable_tqdm=True)  # warm-up
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    found = lm._loglikelihood_tokens(asked, disable_tqdm=True)
    return time.perf_counter() - started, [value for value, _ in found]


def measure(
    model: Any, tokenizer: Any, length: int, scoring: str, options: argparse.Namespace
) -> dict[str, Any]:
    answer = ANSWERS[scoring]
    asked = requests(length, options.questions, answer, model.config.vocab_size)
    own = Scorer(model, tokenizer, max_length=4096)
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.peer_batch, max_length=4096)
    ours, mine = timed(own, asked)
    theirs, its = timed(peer, asked)
    matrices = [
        w for name, w in model.named_parameters() if w.ndim > 1 and "embed" not in name and "head" not in name
    ]
    tokens = options.questions * (length + CHOICES * (answer - 1))
    flops = 2 * tokens * sum(w.numel() for w in matrices)
    device = model.device
    peak = matmul_flops_per_second(device, 8192 if device.type == "cuda" else 512)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "scoring": scoring, "length": length, "questions_per_second": options.questions / ours,
        "ratio": theirs / ours, "furthest_log_likelihood": max(abs(a - b) for a, b in zip(mine, its, strict=True)),
        "used": flops / ours / peak, "matmul_flops_per_second": peak, "batch_tokens": own.likelihood.batch_tokens,
    }  # fmt: skip


def text(row: dict[str, Any]) -> str:
    return (
        f"{row['device']:20} {row['scoring']:6} {row['length']:5} tokens   {row['questions_per_second']:8.1f} "
        f"questions/s   {row['ratio']:.2f} x HFLM, log-likelihoods within {row['furthest_log_likelihood']:.1e}   "
        f"{row['used']:6.1%} (goal {GOAL:.0%}) of {row['matmul_flops_per_second'] / 1e12:.2f} TFLOP/s measured"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", default="512,2048")
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--peer-batch", type=int, default=16)
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-2-7b")
    parser.add_argument("--tokenizer", default="smollm2-135m", help="any: the questions are random tokens")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if not on_gpu and asked.shape != "tiny":
        sys.exit("no GPU here, so these rows stay empty: a 7B model is not scored on a CPU")
    plain = ModelSpec(name=asked.tokenizer)
    tokenizer = load_tokenizer(locate(plain, weights=False), plain)
    with tempfile.TemporaryDirectory() as folder:
        LlamaConfig(**SHAPES[asked.shape], max_position_embeddings=4096).save_pretrained(folder)
        spec = ModelSpec(name=f"random:{folder}")
        model = Base(locate(spec), spec, "cuda" if on_gpu else "cpu").load().eval()
        for scoring in ANSWERS:
            for length in map(int, asked.lengths.split(",")):
                row = measure(model, tokenizer, length, scoring, asked)
                print(json.dumps(row) if asked.json else text(row), flush=True)


if __name__ == "__main__":
    main()
