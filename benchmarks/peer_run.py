"""One run of benchmarks/grid.py as the script a user would write: Trainer + PEFT, then lm-eval's HFLM.

    python benchmarks/peer_run.py SPEC.json     # a run's spec, as `run --dry-run --json` gives it

The model, data, prompts, learning rate, schedule, epochs, batch and precision of the spec; evaluation
at batch size 16. Prints one line of JSON: of each item the choice predicted, and whether it is right.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from training_sides import Setup, peer_model
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from harness.contracts import DataSource, Example, Strategy, Task
from harness.registry import load_registry
from harness.runtime.evaluators.choice import predict
from harness.runtime.models.loading import load_tokenizer, locate, torch_dtype
from harness.runtime.tokens.rows import encode_all
from harness.runtime.training.arguments import Plan
from harness.spec import RunSpec

EVALUATION_BATCH = 16


def trained(spec: RunSpec, strategy: Strategy, task: Task, examples: list[Example], tokenizer: Any) -> Any:
    """The model after Trainer's own training, its examples in Trainer's own order."""
    train, dtype = spec.train, torch_dtype(spec.model.dtype)
    setup = Setup(spec.strategy.name, spec.task.scoring, steps=0, dtype=spec.model.dtype)
    model = peer_model(setup, strategy, locate(spec.model))
    rows = encode_all(task, examples, spec.task.scoring, tokenizer, train.max_length)
    plan = Plan.of(spec, len(rows), 0)
    data = [
        {
            "input_ids": list(row.ids),
            "attention_mask": [1] * len(row.ids),
            "labels": [-100] * row.answer_start + list(row.ids[row.answer_start :]),
        }
        for row in rows
    ]
    tokenizer.padding_side = "right"
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=train.batch_size, max_steps=plan.steps,
            bf16=dtype == torch.bfloat16, fp16=dtype == torch.float16,
            use_cpu=not torch.cuda.is_available(), learning_rate=train.required_learning_rate,
            lr_scheduler_type=train.schedule, warmup_steps=int(train.warmup_ratio * plan.steps),
            weight_decay=train.weight_decay, max_grad_norm=train.max_grad_norm, seed=spec.seed,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
        Trainer(model, arguments, train_dataset=data, data_collator=collator).train()
    if strategy.name == "full":  # what was trained in float32 is scored in the model's own dtype, as ours
        strategy.finish(model, dtype)
    return model


def main() -> None:
    spec = RunSpec.model_validate_json(Path(sys.argv[1]).read_text())
    registry = load_registry()
    strategy = registry.strategy(spec.strategy.name)(**spec.strategy.settings)
    task = registry.task(spec.task.name)()
    splits = task.load(DataSource.parse(spec.task.source))
    located = locate(spec.model)
    tokenizer = load_tokenizer(located, spec.model)
    if strategy.trains:
        model = trained(spec, strategy, task, list(splits.train), tokenizer)
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch_dtype(spec.model.dtype)
        model = AutoModelForCausalLM.from_pretrained(located.folder, dtype=dtype, device_map=device)
    lm = HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=EVALUATION_BATCH)
    test = splits.test[: spec.task.limit]
    found, _ = predict(lm, task, test, [], spec.task.scoring)
    print(json.dumps([[p.predicted, p.correct] for p in found]))


if __name__ == "__main__":
    main()
