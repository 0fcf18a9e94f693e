"""The result of one run, as stored in record.json. `None` means not measured; NaN is refused."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from harness.escape import masked
from harness.spec import Frozen, RunSpec

SCHEMA_VERSION: Literal[1] = 1


class Score(Frozen):
    """A metric's value with its 95% interval, over `n` items. Fractions are 0 to 1."""

    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = Field(ge=0)

    @model_validator(mode="after")
    def _interval_holds_value(self) -> Score:
        if (self.ci_low is None) != (self.ci_high is None):
            raise ValueError("an interval has two ends")
        if self.ci_low is None or self.ci_high is None:
            return self
        # A hair of slack: Wilson's interval at 0 or 1 ends on the value up to rounding.
        if not self.ci_low - 1e-9 <= self.value <= self.ci_high + 1e-9:
            raise ValueError(f"value {self.value} outside [{self.ci_low}, {self.ci_high}]")
        return self


class Cost(Frozen):
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    trainable_fraction: float | None = None
    adapter_bytes: int | None = None
    gpu_memory_allocated_peak_bytes: int | None = None
    gpu_memory_reserved_peak_bytes: int | None = None
    gpu_memory_device_peak_bytes: int | None = None
    host_memory_peak_bytes: int | None = None
    train_seconds: float | None = None
    eval_seconds: float | None = None
    total_seconds: float | None = None
    train_steps: int | None = None
    train_tokens: int | None = None
    train_tokens_per_second: float | None = None
    train_examples_per_second: float | None = None
    eval_examples_per_second: float | None = None
    train_flops: float | None = None
    model_flops_utilisation: float | None = Field(
        None, ge=0, le=1, description="train_flops over what the devices could have done in train_seconds"
    )
    energy_joules: float | None = None
    gpu_hours: float | None = None


class Phase(Frozen):
    name: str = Field(
        pattern=r"^(load|adapt|train|save|evaluate|probe:\S+)$",
        description="load, adapt, train, save, evaluate, or probe:NAME",
    )
    seconds: float
    import_seconds: float | None = Field(
        None, description="of `load`: until Python and the libraries were there"
    )
    gpu_memory_allocated_peak_bytes: int | None = None
    gpu_memory_reserved_peak_bytes: int | None = None
    gpu_memory_device_peak_bytes: int | None = None
    host_memory_peak_bytes: int | None = None


class Environment(Frozen):
    git: str | None
    packages: dict[str, str]
    python: str
    device_name: str
    device_count: int
    driver: str | None
    fingerprint: str
    cores: int | None = Field(
        None, ge=1, description="processor cores that the run could use; None in older records"
    )
    threads: int | None = Field(None, ge=1, description="PyTorch's threads a process; None in older records")
    processes: int = 1
    parallel_runs: int = Field(
        1, ge=1, description="runs that shared this machine; above 1, a CPU's speeds are theirs together"
    )
    warm: bool = Field(
        False, description="forked from a process with the libraries imported, which no time here counts"
    )


class DataInfo(Frozen):
    task: str
    title: str
    source: Literal["hub", "dir", "sample"]
    revision: str | None
    fingerprint: str = Field(description="SHA-256 over prompts, choices and gold of all items of the source")
    test_fingerprint: str = Field(
        description="the same over the items that were scored; empty where training failed before they were read"
    )
    train_n: int
    validation_n: int
    test_n: int
    test_known_n: int = Field(description="test items in the source, before --limit")
    comparable: bool
    note: str = ""
    files: dict[str, str] = Field(default_factory=dict)


class ModelInfo(Frozen):
    source: Literal["hub", "dir", "package", "random"]
    revision: str | None
    fingerprint: str | None = Field(description="SHA-256 over the weight files; None for a random model")
    dtype: str
    quantization: str | None = Field(
        None, description="how the checkpoint's own weights are stored quantised; None for plain ones"
    )
    notes: tuple[str, ...] = ()
    files: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of each file read: weights, configuration, tokenizer"
    )


class Inputs(Frozen):
    """What the model was shown and asked, where that is not all that was meant. Zeros: it was."""

    truncated_items: int = Field(0, ge=0, description="scored items whose prompt did not fit the context")
    truncated_item_tokens: int = Field(0, ge=0, description="tokens that their prompts lost, together")
    shots_min: int | None = Field(
        None, ge=0, description="worked examples that each item was scored behind, at least"
    )
    shots_mean: float | None = Field(None, ge=0, description="the same on average")
    truncated_rows: int = Field(0, ge=0, description="training examples whose prompt did not fit")
    truncated_row_tokens: int = Field(0, ge=0, description="tokens that their prompts lost, together")
    tied_items: int = Field(0, ge=0, description="items all of whose choices score exactly the same")
    repeated_gold_items: int = Field(
        0, ge=0, description="items with the right answer's text more than once among the options"
    )


class Failure(Frozen):
    phase: str
    kind: Literal["out_of_memory", "non_finite_loss", "timeout", "crash", "interrupted", "error"]
    message: str
    remedy: str = ""
    traceback: str | None = None

    @field_validator("message", "remedy", "traceback")
    @classmethod
    def _no_secrets(cls, text: str | None) -> str | None:
        """What a library raised may hold the Hub's address with its password."""
        return None if text is None else masked(text)


class MetricInfo(Frozen):
    unit: str
    higher_is_better: bool
    chance: float | None = None
    definition: str = ""


class ProbeResult(Frozen):
    """What a probe measured on the finished model, and what each figure is; or why it could not."""

    scores: dict[str, Score] = Field(default_factory=dict)
    metrics: dict[str, MetricInfo] = Field(default_factory=dict)
    failure: Failure | None = None


class RunRecord(Frozen):
    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    status: Literal["ok", "failed", "interrupted"]
    spec: RunSpec
    created: str = Field(description="UTC, ISO 8601")
    started: str | None = Field(
        None, description="UTC: when the process began and `environment` was taken; None in older records"
    )
    scores: dict[str, Score] = Field(default_factory=dict)
    cost: Cost = Cost()
    phases: tuple[Phase, ...] = ()
    environment: Environment | None = None
    data: DataInfo | None = None
    model: ModelInfo | None = None
    inputs: Inputs | None = Field(None, description="of a run that ended well; None in older records")
    failure: Failure | None = None
    probes: dict[str, ProbeResult] = Field(
        default_factory=dict, description="by name; what they took is in `phases`, and in no cost of the run"
    )
    resumed: int = Field(0, ge=0, description="times training went on from a checkpoint")
    passed_over: tuple[str, ...] = Field(
        (), description="checkpoints that were found damaged, each with what training went on from"
    )
    notices: tuple[str, ...] = Field(
        (), description="what was told while it ran, such as what was fallen back to"
    )

    @model_validator(mode="after")
    def _status_fits(self) -> RunRecord:
        if (self.status == "ok") == (self.failure is not None):
            raise ValueError(f"status '{self.status}' does not fit failure {self.failure!r}")
        if self.status == "ok" and not (self.scores and self.data and self.environment and self.model):
            raise ValueError("a run that ended well has scores, data, model and environment")
        if self.status == "ok":
            accuracy = self.scores.get("accuracy")
            if accuracy is None or not 0 <= accuracy.value <= 1 or accuracy.n < 1:
                raise ValueError("a run that ended well has an accuracy from 0 to 1 on at least one item")
        return self

    def as_json(self) -> str:
        return self.model_dump_json(indent=1)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of record.json."""
    return RunRecord.model_json_schema()
