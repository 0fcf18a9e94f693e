"""What a strategy and a task are. The engine knows these types and no strategy or task by name.

Nothing here imports torch, transformers, pandas or numpy: `list` and `--help` load this module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict

from harness.io.paths import typed_path
from harness.spec import Scoring as Scoring
from harness.spec import TrainSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
TRAINED_ON: tuple[Part, ...] = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Example:
    """One multiple-choice item.

    `id` is unique within its task and stable over splits; `gold` indexes `options`; `subgroup` is
    what accuracy is broken down by (an exam step, a subject; empty where there is none); `context`
    is text that the question is about (PubMedQA's abstract); `cluster` names what makes items dependent (a
    patient, a vignette, a fact asked in several ways), empty where an item stands alone.
    """

    id: str
    question: str
    options: tuple[str, ...]
    gold: int
    subgroup: str = ""
    context: str = ""
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """A score of a task. `chance` is what guessing reaches, `None` where that has no one value."""

    name: str
    unit: str = "fraction"
    higher_is_better: bool = True
    chance: float | None = None


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where a task's rows come from: the Hub, a folder, or the built-in sample."""

    kind: Literal["hub", "dir", "sample"]
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> DataSource:
        """`hub`, `sample`, or anything else as the path of a folder."""
        if text == "hub":
            return cls("hub")
        if text == "sample":
            return cls("sample")
        return cls("dir", typed_path(text, "data"))


@dataclass(frozen=True, slots=True)
class Splits:
    """The three splits of a task, and where they came from.

    `title` is the name a table shows ("MedQA", "MedQA (built-in sample)"); `comparable` says
    whether a score on `test` may stand beside published figures, and `note` says why not;
    `files` maps each file read (relative to the folder) to its SHA-256; `notices` are what the user should
    hear before a run starts, a line each.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    title: str
    source: Literal["hub", "dir", "sample"]
    revision: str | None
    comparable: bool
    note: str = ""
    files: dict[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


class Task(ABC):
    """A medical task: where its rows come from and how an item becomes text.

    One template serves training and evaluation: the text a model is trained to continue is the
    text it is scored on.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    class_names: ClassVar[tuple[str, ...]]
    hub_id: ClassVar[str | None] = None

    @abstractmethod
    def load(self, source: DataSource) -> Splits:
        """Read and check all splits. Raises `DataError` naming the file and line of a bad row."""

    def load_parts(self, source: DataSource, parts: Collection[Part]) -> Splits:
        """Only these splits, the others empty: what trains does not hold the test items.

        By default all are read and the others are dropped; a task that can leave files unread does so.
        """
        splits = self.load(source)
        return replace(
            splits,
            train=splits.train if "train" in parts else (),
            validation=splits.validation if "validation" in parts else (),
            test=splits.test if "test" in parts else (),
        )

    def files(self, source: DataSource, parts: Collection[Part] = PARTS) -> dict[str, Path] | None:
        """The files that loading these splits reads, by their names in `Splits.files`; nothing is read.

        A stored result is used again only where they are the same and no other has come. By default `None`:
        the items themselves are then read and compared.
        """
        return None

    @abstractmethod
    def prompt(self, example: Example, scoring: Scoring) -> str:
        """The text before the answer. Has no trailing space; the answer is joined with one."""

    @abstractmethod
    def choices(self, example: Example, scoring: Scoring) -> tuple[str, ...]:
        """The K continuations scored against each other, without the joining space."""

    def target(self, example: Example, scoring: Scoring) -> str:
        """The continuation a model is trained on: the gold choice, without the joining space."""
        return self.choices(example, scoring)[example.gold]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model answered to one item. `logprobs` are natural logs, one a choice, unnormalised.

    `predicted` is the choice of highest log-likelihood (lm-eval's `acc`); `predicted_norm` the one
    of highest log-likelihood a character of its text (lm-eval's `acc_norm`). Where the chosen option
    says the same as the gold one, both are the gold one's. `same_as`: for each choice the first that
    says the same; empty where each says something else. `merged`: one log-likelihood a text then, at
    its first choice, and minus infinity at the others.
    """

    example_id: str
    gold: int
    predicted: int
    predicted_norm: int
    logprobs: tuple[float, ...]
    subgroup: str = ""
    cluster: str = ""
    same_as: tuple[int, ...] = ()
    merged: tuple[float, ...] = ()

    @property
    def correct(self) -> bool:
        return self.predicted == self.gold


class BaseLoader(Protocol):
    """Loads the base model a strategy adapts. Given by the engine; `dtype` is the spec's."""

    @property
    def dtype(self) -> str: ...

    @property
    def device(self) -> str: ...

    def load(self, *, dtype: str | None = None, quantization: Any = None) -> PreTrainedModel:
        """The base model in `dtype` (default: the spec's), or quantised by a transformers config.

        `base_revision` of the model is the Hub's commit, None for one that is not from there.
        """
        ...


class Strategy(BaseModel, ABC):
    """A way of adapting a model. One file a method; its settings are this class's fields.

    Each field has a default and a one-line description with its source. Only `adapt` must be
    written. Methods import torch and peft inside themselves, so that `list` stays fast.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    trains: ClassVar[bool] = True
    default_learning_rate: ClassVar[float | None] = None
    learning_rate_source: ClassVar[str] = ""
    default_engine: ClassVar[Literal["plain", "deepspeed"]] = "plain"
    default_shots: ClassVar[int] = 0
    packages: ClassVar[tuple[str, ...]] = ()

    def at_precision(self, dtype: str) -> Self:
        """These settings for a run in `dtype`, with what follows a run's precision filled in; most have none."""
        return self

    def load(self, base: BaseLoader) -> PreTrainedModel:
        """The base model. Frozen weights stay in the spec's dtype (the precision rule)."""
        return base.load()

    @abstractmethod
    def adapt(self, model: PreTrainedModel) -> torch.nn.Module:
        """`model` with its trainable weights in place, in float32, and all others frozen.

        Lines in its attribute `notes`, where it has one, are told to the user and kept in the record.
        """

    def learning_rate_default(self) -> float | None:
        """The learning rate where the spec gives none. A method of several kinds chooses by its settings."""
        return self.default_learning_rate

    def optimizer(self, model: torch.nn.Module, train: TrainSpec) -> torch.optim.Optimizer:
        """AdamW over the trainable weights; no decay on vectors (norms, biases, IA3 scales)."""
        import torch

        # One kernel for all of an update where PyTorch has one: the same numbers, read and written once.
        fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters() if p.requires_grad)
        return torch.optim.AdamW(
            parameter_groups(model, train.weight_decay),
            lr=train.required_learning_rate,
            betas=(train.adam_beta1, train.adam_beta2),
            fused=fused or None,
        )

    def finish(self, model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        """The form in which the trained model is scored and saved; by default as it was trained."""
        return model

    def penalty(self, model: torch.nn.Module) -> torch.Tensor | None:
        """A scalar added to the loss of each step, outside the reported loss; most methods: none."""
        return None

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Called after optimiser step `step` (1-based); AdaLoRA re-allocates ranks here."""

    def state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """What `after_step` keeps between steps outside trained weights: part of each checkpoint."""
        return {}

    def restore(self, model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Take `state` back, on the CPU, when training goes on from the checkpoint that holds it."""

    def save(self, model: Any, folder: Path) -> None:
        """Write what was trained to `folder` as safetensors. PEFT models write only the adapter."""
        model.save_pretrained(folder)


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable weights in two groups: matrices with decay, vectors and scalars without."""
    trainable = [p for p in model.parameters() if p.requires_grad]

    def group(members: Iterable[torch.nn.Parameter], decay: float) -> dict[str, Any]:
        return {"params": list(members), "weight_decay": decay}

    groups = [
        # `ds_shape` is a weight's real shape under ZeRO-3, where its local piece is flat.
        group((p for p in trainable if len(getattr(p, "ds_shape", p.shape)) >= 2), weight_decay),
        group((p for p in trainable if len(getattr(p, "ds_shape", p.shape)) < 2), 0.0),
    ]
    return [g for g in groups if g["params"]]


def norms_in_float32(model: torch.nn.Module) -> None:
    """Where part of a norm is trained (in float32), the rest of it in float32 too: the same numbers.

    Kernels of norms take one dtype; those of matrix products are given one by autocast. Behind embeddings
    that are trained the inputs of norms are float32, and so all norms are.
    """
    import torch

    # Virtual tokens of PEFT, outside the base model, come in the base's dtype.
    base: torch.nn.Module = getattr(model, "get_base_model", lambda: model)()
    embedded = any(
        isinstance(module, torch.nn.Embedding) and module.weight.requires_grad for module in base.modules()
    )
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        trained = any(weight.requires_grad for weight in own)
        if (trained or embedded) and all(weight.ndim < 2 and weight.is_floating_point() for weight in own):
            for weight in own:
                weight.data = weight.data.to(torch.float32)
