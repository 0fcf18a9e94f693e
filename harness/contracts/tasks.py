"""A medical task: where its items come from, how an item becomes text, and what is answered to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.io.paths import typed_path
from harness.spec import Scoring

if TYPE_CHECKING:
    pass


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
    """A score of a task or a probe. `chance` is what guessing reaches, `None` where that has no one value."""

    name: str
    unit: str = "fraction"
    higher_is_better: bool = True
    chance: float | None = None
    definition: str = ""


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
