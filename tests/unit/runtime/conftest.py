"""A toy task, tokens, and a training run in this process on the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.contracts import DataSource, Example, Metric, Scoring, Splits, Strategy, Task
from harness.engines.plain import Plain
from harness.runtime.events import Events
from harness.runtime.meter import Meter
from harness.runtime.models import quantised
from harness.runtime.tokens.rows import Row, encode
from harness.runtime.training import token_cache
from harness.runtime.training.arguments import Plan
from harness.runtime.training.callbacks import RunCallback, Throughput
from harness.runtime.training.trainer import train_model
from harness.spec import EngineSpec, ModelSpec, RunSpec, StrategySpec, TaskSpec, TrainSpec

ORGANS = ("Liver", "Pancreas", "Spleen", "Kidney", "Heart", "Thyroid", "Left atrium of the heart")


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        # lm-eval and the libraries below it, about themselves.
        "ignore::DeprecationWarning:lm_eval",
        "ignore::DeprecationWarning:datasets",
        # bitsandbytes on a CPU.
        "ignore:.*gemm_4bit.*",
    ):
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What medtune keeps on disk: a folder of the test's own, with nothing said about whose data may be kept."""
    monkeypatch.setenv("MEDTUNE_CACHE", str(tmp_path / "cache"))
    for variable in (token_cache.VARIABLE, quantised.VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache"


class Toy(Task):
    """Which organ? Four options of one or more tokens."""

    name = "toy"
    title = "Toy"
    summary = "organs"
    source = "made up"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", chance=0.25),)
    class_names = ("A", "B", "C", "D")

    def load(self, source: DataSource) -> Splits:
        raise NotImplementedError

    def prompt(self, example: Example, scoring: Scoring) -> str:
        lines = [f"{name}. {text}" for name, text in zip(self.class_names, example.options, strict=True)]
        listed = "\n".join(lines) + "\n" if scoring == "letter" else ""
        return f"Question: {example.question}\n{listed}Answer:"

    def choices(self, example: Example, scoring: Scoring) -> tuple[str, ...]:
        return self.class_names if scoring == "letter" else example.options


def toy_examples(count: int, start: int = 0) -> tuple[Example, ...]:
    """Items of different lengths; the subgroup is s0 or s1, or none for every fifth."""
    found = []
    for i in range(start, start + count):
        options = tuple(ORGANS[(i * 3 + k) % len(ORGANS)] for k in range(4))
        question = f"Which organ is number {i * 37 % 101}" + ", and why" * (i % 4) + "?"
        found.append(Example(f"toy-{i}", question, options, i * 5 % 4, "" if i % 5 == 4 else f"s{i % 2}"))
    return tuple(found)


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def examples() -> Callable[..., tuple[Example, ...]]:
    return toy_examples


@pytest.fixture(scope="session")
def tokenizer(tiny_model_dir: Path) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model_dir)
    return found


@pytest.fixture(scope="session")
def rows(tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """22 rows of 20 to 50 tokens: an epoch of 8 to a step ends with a short one."""
    task = Toy()
    return [encode(tokenizer, task.prompt(e, "cloze"), task.target(e, "cloze"), 64) for e in toy_examples(22)]


@dataclass
class Trained:
    """What a training run left."""

    model: Any
    folder: Path
    throughput: Throughput
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "loss" in line]

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.steps]

    @property
    def validation(self) -> dict[int, float]:
        return {line["step"]: line["validation_loss"] for line in self.lines if "validation_loss" in line}


def spec_of(dtype: str = "float32", seed: int = 0, attention: str = "sdpa", **train: Any) -> RunSpec:
    """A spec with 6 steps of 8 examples, unless `train` says otherwise."""
    settings = {"learning_rate": 3e-3, "max_steps": 6, "batch_size": 8, "max_length": 64, **train}
    return RunSpec.model_validate(
        {
            "model": ModelSpec(name="tiny", dtype=dtype, attention=attention),  # type: ignore[arg-type]
            "strategy": StrategySpec(name="any"),
            "task": TaskSpec(name="toy"),
            "train": TrainSpec(**settings),
            "engine": EngineSpec(),
            "seed": seed,
        }
    )


@pytest.fixture
def make_spec() -> Callable[..., RunSpec]:
    return spec_of


Train = Callable[..., Trained]


@pytest.fixture
def run_training(
    tiny_model_dir: Path, tokenizer: PreTrainedTokenizerBase, rows: list[Row], tmp_path: Path
) -> Train:
    """Trains a strategy on `rows` as a run does, and reads steps.jsonl."""
    from transformers import AutoModelForCausalLM

    made = 0

    def adapted(
        strategy: Strategy, dtype: str, seed: int, base: Path = tiny_model_dir, attention: str = "sdpa"
    ) -> Any:
        class Loader:
            device = "cpu"

            def __init__(self) -> None:
                self.dtype = dtype

            def load(self, *, dtype: str | None = None, quantization: Any = None) -> Any:
                return AutoModelForCausalLM.from_pretrained(
                    base,
                    dtype=dtype or self.dtype,
                    quantization_config=quantization,
                    attn_implementation=attention,
                )

        model = strategy.load(Loader())
        torch.manual_seed(seed)
        return strategy.adapt(model)

    def go(
        strategy: Strategy,
        *,
        train_rows: list[Row] | None = None,
        validation_rows: list[Row] | None = None,
        folder: Path | None = None,
        dtype: str = "float32",
        seed: int = 0,
        base: Path = tiny_model_dir,
        attention: str = "sdpa",
        **train: Any,
    ) -> Trained:
        nonlocal made
        made += 1
        folder = folder or tmp_path / f"run{made}"
        folder.mkdir(exist_ok=True)
        spec = spec_of(dtype, seed, attention, **train)
        both = (train_rows if train_rows is not None else rows, validation_rows or [])
        plan = Plan.of(spec, len(both[0]), len(both[1]))
        callback = RunCallback(
            plan,
            strategy,
            folder,
            Events(folder / "events.jsonl"),
            writes=True,
            meter=Meter(torch.device("cpu")),
        )
        callback.resume()
        model = adapted(strategy, dtype, seed, base, attention)
        model = train_model(model, strategy, spec, both, tokenizer, folder / "checkpoints", callback, Plain())
        lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
        return Trained(model, folder, callback.throughput, lines)

    go.adapted = adapted  # type: ignore[attr-defined]
    return go


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """The layers that were compiled: as far as tracing goes, without the C++ that takes half a minute."""
    layers: list[torch.nn.Module] = []

    def compile_layer(layer: torch.nn.Module, **options: Any) -> None:
        layers.append(layer)
        layer._compiled_call_impl = torch.compile(layer._call_impl, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_layer)
    return layers
