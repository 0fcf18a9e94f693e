"""Peak host memory of training with lora: ours against a plain Trainer + PEFT script.

The same model, adapter, precision, examples and batches (16 examples a step, in the same order);
each in a process of its own, measured by the kernel's high-water mark. Goal: at most 1x.

    python benchmarks/lora_memory.py           # both, and the ratio
    python benchmarks/lora_memory.py --peer    # the plain script alone; prints its peak in bytes
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = 12
BATCH = 16


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def peer() -> None:
    """Trainer + PEFT as in the PEFT documentation, on our order of examples."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from harness.contracts import DataSource
    from harness.registry import load_registry
    from harness.runtime.data import encode_all, shuffled
    from harness.runtime.models import load_tokenizer, locate
    from harness.spec import ModelSpec

    spec = ModelSpec()
    located = locate(spec)
    tokenizer = load_tokenizer(located, spec)
    task = load_registry().task("medqa")()
    rows = encode_all(task, task.load(DataSource("sample")).train, "cloze", tokenizer, 1024)
    order = shuffled(len(rows), 0, 0)[: STEPS * BATCH]

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for i, row in enumerate(batch):
            n = len(row["input_ids"])
            ids[i, :n] = torch.tensor(row["input_ids"])
            labels[i, :n] = torch.tensor(row["labels"])
            mask[i, :n] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    data = [
        {
            "input_ids": list(rows[i].ids),
            "labels": [-100] * rows[i].answer_start + list(rows[i].ids[rows[i].answer_start :]),
        }
        for i in order
    ]
    model = AutoModelForCausalLM.from_pretrained(located.folder, dtype=torch.bfloat16)
    config = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    model = get_peft_model(model, config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=STEPS, per_device_train_batch_size=BATCH, bf16=True, use_cpu=True,
            learning_rate=2e-4, train_sampling_strategy="sequential", save_strategy="no", report_to="none",
            remove_unused_columns=False, disable_tqdm=True,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=data, data_collator=collate).train()
    print(json.dumps({"peak_bytes": peak_bytes()}))


def ours() -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "harness", "run", "--strategy", "lora", "--task", "medqa", "--data", "sample",
            "--set", f"train.max_steps={STEPS}", "--set", f"train.batch_size={BATCH}", "--set", "strategy.alpha=32",
            "--results", folder, "--json",
        ]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    # The whole run's peak, evaluation included: nothing of ours is left out.
    return int(json.loads(done.stdout)["cost"]["host_memory_peak_bytes"])


def main() -> None:
    script = [sys.executable, __file__, "--peer"]
    done = subprocess.run(script, check=True, capture_output=True, text=True)
    theirs = int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])
    own = ours()
    print(f"plain Trainer + PEFT   {theirs / 2**20:7.0f} MiB")
    print(f"medtune lora           {own / 2**20:7.0f} MiB   {own / theirs:.2f} x")


if __name__ == "__main__":
    peer() if "--peer" in sys.argv else main()
