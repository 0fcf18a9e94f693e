"""One side of benchmarks/training.py in a process of its own: ours, or Trainer + PEFT.

    python benchmarks/training_sides.py ours|peer JSON     # JSON: the fields of Setup

Prints one line of JSON: seconds and loss of each step, non-padding tokens, peaks of host memory.
Both sides get the same model, adapter, first weights, examples, batches, precision and AdamW.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from harness.contracts import DataSource, Scoring, Strategy
from harness.engines.deepspeed import ensure_process_group_environment
from harness.registry import load_registry
from harness.runtime.events import Events
from harness.runtime.meter import Meter, host_memory_bytes, host_peak_bytes
from harness.runtime.models.loading import Base, Located, load_tokenizer, locate, torch_dtype
from harness.runtime.tokens.rows import Row, encode_all
from harness.runtime.training.arguments import Plan
from harness.runtime.training.batches import shuffled
from harness.runtime.training.callbacks import RunCallback
from harness.runtime.training.trainer import train_model
from harness.spec import EngineSpec, ModelSpec, RunSpec, StrategySpec, TaskSpec, TrainSpec

SEED = 0


@dataclass(frozen=True)
class Setup:
    """What both sides do. `length`: every row lengthened or cut to so many tokens."""

    strategy: str
    scoring: Scoring
    steps: int
    dtype: str = "bfloat16"
    data: str = "sample"
    batch: int = 16
    length: int | None = None
    engine: str = "plain"
    model: str = "smollm2-135m"
    attention: str = "sdpa"
    train: dict[str, Any] = dataclasses.field(default_factory=dict)


class Clock(TrainerCallback):
    """When each step began and ended, the fetching of its batch included."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.tick()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.tick()

    def tick(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]


class TimedRun(RunCallback):
    """A run's own callback, with the clock in it."""

    def __init__(self, clock: Clock, *args: Any) -> None:
        super().__init__(*args)
        self._clock = clock

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_begin(*args, **kwargs)
        self._clock.tick()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_step_end(*args, **kwargs)
        self._clock.tick()


def spec_of(setup: Setup, strategy: Strategy) -> RunSpec:
    return RunSpec(
        model=ModelSpec(name=setup.model, dtype=setup.dtype, attention=setup.attention),  # type: ignore[arg-type]
        strategy=StrategySpec(name=setup.strategy),
        task=TaskSpec(name="medqa", source=setup.data, scoring=setup.scoring),
        train=TrainSpec(
            learning_rate=strategy.learning_rate_default(),
            max_steps=setup.steps,
            batch_size=setup.batch,
            checkpoint_steps=setup.steps,  # one, after the last timed step
            **setup.train,
        ),
        engine=EngineSpec(name=setup.engine),
        seed=SEED,
    )


def rows_of(setup: Setup, tokenizer: Any) -> list[Row]:
    task = load_registry().task("medqa")()
    train = task.load(DataSource.parse(setup.data)).train
    needed = setup.steps * setup.batch
    if len(train) < needed:
        sys.exit(f"{setup.data} has {len(train)} examples, and these steps need {needed}: lower --steps")
    rows = encode_all(task, train, setup.scoring, tokenizer, 1024)
    return [filled(row, rows, setup.length) for row in rows] if setup.length else rows


def filled(row: Row, rows: list[Row], length: int) -> Row:
    """`row` with other questions in front of it, `length` tokens in all."""
    front = tuple(islice(chain.from_iterable(r.ids for r in rows), length))
    return Row((front + row.ids)[-length:], length - (len(row.ids) - row.answer_start))


def order_of(setup: Setup, rows: list[Row]) -> list[list[int]]:
    """The examples of each step, as a run of ours draws them."""
    order = shuffled(len(rows), SEED, 0)
    return [order[step * setup.batch : (step + 1) * setup.batch] for step in range(setup.steps)]


def ours(setup: Setup, strategy: Strategy, rows: list[Row], located: Located, tokenizer: Any) -> Any:
    """A run's own training, from the loaded model to the last step."""
    spec = spec_of(setup, strategy)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if setup.engine == "deepspeed":
        ensure_process_group_environment()
    model = strategy.load(Base(located, spec.model, device))
    set_seed(SEED)
    model = strategy.adapt(model)
    yield model
    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = Plan.of(spec, len(rows), 0)
        callback = TimedRun(clock, plan, strategy, folder, Events(None), True, Meter(torch.device(device)))
        callback.resume()
        train_model(
            model, strategy, spec, (rows, []), tokenizer, folder / "checkpoints", callback,
            load_registry().engine(setup.engine)(),
        )  # fmt: skip
        lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    yield clock.seconds(), [line["loss"] for line in lines]


class Peer(Trainer):  # type: ignore[misc]
    """Trainer as it is; only notes each step's loss, which its log rounds."""

    noted: list[torch.Tensor]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        self.noted.append(loss.detach())
        return loss


def peer(setup: Setup, strategy: Strategy, rows: list[Row], located: Located, tokenizer: Any) -> Any:
    """Trainer + PEFT as in the PEFT documentation.

    One departure, to be as fast and precise as ours: for qlora no `prepare_model_for_kbit_training`,
    which recomputes all activations and keeps norms and embeddings in float32.
    """
    from transformers import DataCollatorForSeq2Seq

    model = peer_model(setup, strategy, located)
    yield model
    data = [
        {
            "input_ids": list(rows[i].ids),
            "attention_mask": [1] * len(rows[i].ids),
            "labels": [-100] * rows[i].answer_start + list(rows[i].ids[rows[i].answer_start :]),
        }
        for i in chain.from_iterable(order_of(setup, rows))
    ]
    train = spec_of(setup, strategy).train
    tokenizer.padding_side = "right"
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=setup.steps, per_device_train_batch_size=setup.batch,
            bf16=setup.dtype == "bfloat16", use_cpu=not torch.cuda.is_available(),
            learning_rate=train.required_learning_rate, lr_scheduler_type="cosine",
            warmup_steps=int(train.warmup_ratio * setup.steps),
            weight_decay=strategy.optimizer(model, train).param_groups[0]["weight_decay"],
            max_grad_norm=train.max_grad_norm, train_sampling_strategy="sequential",
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
        trainer = Peer(model, arguments, train_dataset=data, data_collator=collator, callbacks=[clock])
        trainer.noted = []
        trainer.train()
    yield clock.seconds(), [float(loss) for loss in trainer.noted]


def peer_model(setup: Setup, strategy: Strategy, located: Located) -> Any:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = torch_dtype("float32" if setup.strategy == "full" else setup.dtype)
    options: dict[str, Any] = {}
    if setup.strategy == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(located.folder, dtype=dtype, device_map=device, **options)
    set_seed(SEED)
    if setup.strategy == "full":
        return model
    model = get_peft_model(model, strategy.peft_config())  # type: ignore[attr-defined]
    if setup.strategy == "prefix":  # our start of the prefix, for the same losses
        weight = model.prompt_encoder[model.active_adapter].embedding.weight
        torch.nn.init.normal_(weight, std=strategy.init_std)  # type: ignore[attr-defined]
    return model


def main() -> None:
    setup = Setup(**json.loads(sys.argv[2]))
    settings = {"compute_dtype": setup.dtype} if setup.strategy == "qlora" else {}
    strategy = load_registry().strategy(setup.strategy)(**settings)
    model_spec = ModelSpec(name=setup.model, dtype=setup.dtype)  # type: ignore[arg-type]
    located = locate(model_spec)
    tokenizer = load_tokenizer(located, model_spec)
    rows = rows_of(setup, tokenizer)
    side = {"ours": ours, "peer": peer}[sys.argv[1]](setup, strategy, rows, located, tokenizer)
    next(side)
    loaded = host_memory_bytes()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        loaded = torch.cuda.memory_allocated()
    seconds, losses = next(side)
    figures = {
        "seconds": seconds,
        "losses": losses,
        "tokens": [sum(len(rows[i].ids) for i in step) for step in order_of(setup, rows)],
        "loaded_bytes": loaded,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else host_peak_bytes(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
