"""The phases of one run."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from harness.contracts import (
    TRAINED_ON,
    DataSource,
    Engine,
    Example,
    Finished,
    Prediction,
    Probe,
    Splits,
    Strategy,
    Task,
)
from harness.errors import DataError, UsageError
from harness.io.files import sync_folder
from harness.items import check_choices, data_fingerprint, scored_items
from harness.provenance import is_installed
from harness.record import Cost, DataInfo, Inputs, ModelInfo, ProbeResult, Score
from harness.registry import Registry, load_registry
from harness.runtime.device import rank, world_size
from harness.runtime.evaluators.choice import predict, worked_examples, write_predictions
from harness.runtime.events import Events
from harness.runtime.meter import Meter, memory_now
from harness.runtime.models.adapted import adapted
from harness.runtime.models.context import context_length
from harness.runtime.models.counting import count_parameters
from harness.runtime.models.loading import (
    Base,
    autocast,
    copy_tokenizer,
    load_tokenizer,
    locate,
    model_info,
    one_dtype,
    torch_dtype,
)
from harness.runtime.models.positions import vocabulary_size
from harness.runtime.models.precision import slow_products
from harness.runtime.models.text_path import as_text_model
from harness.runtime.peaks import peak_flops, utilisation
from harness.runtime.probing import probed
from harness.runtime.scoring.scorer import Progress, Scorer
from harness.runtime.scoring.scores import all_scores
from harness.runtime.scoring.shown import scored_inputs, trained_inputs
from harness.runtime.scoring.work import Work
from harness.runtime.seeds import set_seed
from harness.runtime.tokens.rows import Row, RowError, refuse_outside, text_pairs
from harness.runtime.training.batches import shuffled, split_fold
from harness.runtime.training.flops import train_flops
from harness.runtime.training.token_cache import TokenCache
from harness.spec import FOLDS, RunSpec
from harness.store.inputs import scoring_sentences, training_sentences
from harness.store.leftovers import CHECKPOINTS, last_checkpoint
from harness.store.trained_on import TrainedOn, check_trained_on, write_trained_on

if TYPE_CHECKING:
    from harness.runtime.training.callbacks import Throughput

TRAINING = "harness.runtime.training.trainer"
"""Imported only by runs that train: transformers.Trainer brings PEFT, and that bitsandbytes."""


class Run:
    """One run's state. What was measured so far stays readable when a phase fails."""

    def __init__(
        self, spec: RunSpec, folder: Path, device: torch.device, meter: Meter, events: Events
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.device = device
        self.meter = meter
        self.events = events
        self.scores: dict[str, Score] = {}
        self.data: DataInfo | None = None
        self.model_info: ModelInfo | None = None
        self.inputs = Inputs()
        self.resumed = 0
        self.passed_over: tuple[str, ...] = ()
        self._earlier_seconds = 0.0
        self.probes: dict[str, ProbeResult] = {}
        self._measured: dict[str, Any] = {}
        self._spent: Cost | None = None

    def go(self) -> None:
        """All phases. In a distributed run only the first process saves and evaluates."""
        strategy, task, engine, probes = self._resolve_plugins()
        base, tokenizer, model, splits = self._load(strategy, task, engine)
        with self._phase("adapt"):
            # Seeded here and not before: the adapter's first weights depend on nothing but the seed.
            set_seed(self.spec.seed)
            model = adapted(strategy, model)
            self._tell(getattr(model, "notes", ()))
            self._count(model)
        if strategy.trains:
            model = self._train(model, strategy, task, tokenizer, splits, base, engine)
            if rank() != 0:
                return
        model = strategy.finish(model, torch_dtype(self.spec.model.dtype))
        if strategy.trains:
            with self._phase("save"):
                self._save(model, strategy, base)
        with self._phase("evaluate"):
            if strategy.trains:
                splits = self._with_test(task, splits)
            finished = self._evaluate(model, task, tokenizer, splits)
        self._spent = self.cost()  # what a probe takes is its own
        for probe in probes:
            with self._phase(f"probe:{probe.name}"):
                self.probes[probe.name] = probed(probe, finished)
        sync_folder(self.folder)  # on the disk before a record speaks of it

    def _phase(self, name: str) -> Any:
        self.events.phase(name)
        return self.meter.phase(name)

    def _resolve_plugins(self) -> tuple[Strategy, Task, Engine, list[type[Probe]]]:
        registry = load_registry(self.spec.plugins, with_installed=False)
        loaded = {plugin.sha256 for plugin in registry.origins.values()}
        for plugin in self.spec.plugins:  # of an installed one only its loading shows what it is now
            if plugin.sha256 not in loaded:
                raise UsageError(
                    f"plugin {plugin.path} changed since this run was described", "Run the command again."
                )
        strategy = registry.strategy(self.spec.strategy.name)(**self.spec.strategy.settings)
        probes = [registry.probe(name) for name in self.spec.probes]
        engine = registry.engine(self.spec.engine.name)()
        engine.check(self.spec)
        self._tell_engine(strategy, registry)
        return strategy, registry.task(self.spec.task.name)(), engine, probes

    def _load(
        self, strategy: Strategy, task: Task, engine: Engine
    ) -> tuple[Base, PreTrainedTokenizerBase, Any, Splits]:
        with self._phase("load"):
            if strategy.trains:
                importlib.import_module(TRAINING)
                engine.prepare(self.spec)
            self.meter.imported()
            if slow := slow_products(self.device, self.spec.model.dtype):
                self.events.notice(slow)
            # What trains does not hold the test items; they were checked before this process was started.
            source = DataSource.parse(self.spec.task.source)
            splits = task.load_parts(source, TRAINED_ON) if strategy.trains else task.load(source)
            located = locate(self.spec.model)
            for note in located.notes:
                self.events.notice(note)
            tokenizer = load_tokenizer(located, self.spec.model)
            base = Base(located, self.spec.model, str(self.device), self.spec.seed)
            model = strategy.load(base)
            for note in base.notes:
                self.events.notice(note)
            self.model_info = model_info(located, self.spec.model, base.notes)
            if strategy.trains:
                self._check_unfinished(task, splits)
            self.data = self._data_info(task, splits, scored=not strategy.trains)
        return base, tokenizer, model, splits

    def _tell_engine(self, strategy: Strategy, registry: Registry) -> None:
        if not strategy.trains or strategy.default_engine == self.spec.engine.name:
            return
        needed = registry.engine(strategy.default_engine).packages
        if missing := [package for package in needed if not is_installed(package)]:
            self.events.notice(
                f"{strategy.name} trains on the {self.spec.engine.name} engine: {strategy.default_engine}, its default, "
                f"is not installed (pip install {' '.join(missing)})"
            )

    def _check_unfinished(self, task: Task, splits: Splits) -> None:
        """Refuse to go on from a checkpoint that was made of other data or another model."""
        inputs = TrainedOn(
            data=data_fingerprint(task, self.spec.task.scoring, (splits.train, splits.validation)),
            data_files=splits.files,
            model_files=self.model_info.files if self.model_info else {},
        )
        check_trained_on(inputs, self.folder, resumes=last_checkpoint(self.folder) is not None)
        if rank() == 0:
            write_trained_on(inputs, self.folder)

    def _with_test(self, task: Task, trained_on: Splits) -> Splits:
        """All splits, of which train and validation must be what was trained on. Raises `DataError`."""
        source = DataSource.parse(self.spec.task.source)
        # A trial scores validation or a fold of train and leaves test alone.
        is_trial = self.spec.task.split != "test"
        splits = trained_on if is_trial else task.load(source)
        if (splits.train, splits.validation) != (trained_on.train, trained_on.validation):
            raise DataError(
                f"the training data in {self.spec.task.source} has changed while the run trained",
                "Put it back as it was and run again: the run goes on from its last checkpoint.",
            )
        check_choices(task, self._test(splits), self.spec.task.scoring)
        self.data = self._data_info(task, splits, scored=True)
        return splits

    def _data_info(self, task: Task, splits: Splits, *, scored: bool) -> DataInfo:
        """`scored`: whether what is scored has been loaded."""
        test = self._test(splits) if scored else ()
        train, validation = self._train_examples(splits), splits.validation
        scoring = self.spec.task.scoring
        on_test, fold = self.spec.task.split == "test", self.spec.task.fold
        held_out = "validation split" if fold is None else f"fold {fold + 1} of {FOLDS} of train"
        return DataInfo(
            task=task.name,
            # Of its own title: a row scored on validation never shares a table with one of test.
            title=splits.title if on_test else f"{splits.title} ({held_out})",
            source=splits.source,
            revision=splits.revision,
            fingerprint=data_fingerprint(task, scoring, (splits.train, validation, splits.test)),
            test_fingerprint=data_fingerprint(task, scoring, (test,)) if scored else "",
            train_n=len(train),
            validation_n=len(validation),
            test_n=len(test),
            test_known_n=len(splits.test if on_test else validation),
            comparable=scored and on_test and splits.comparable and len(test) == len(splits.test),
            note=splits.note,
            files=splits.files,
        )

    def _test(self, splits: Splits) -> tuple[Example, ...]:
        """The items that are scored: of the test split, or in a tuning trial of validation or a fold of train."""
        if self.spec.task.fold is not None:
            return self._folded(splits.train)[1][: self.spec.task.limit]
        return scored_items(splits, self.spec.task.split, self.spec.task.limit)

    def _train_examples(self, splits: Splits) -> Sequence[Example]:
        train, limit = self._folded(splits.train)[0], self.spec.train.limit
        if limit is None or limit >= len(train):
            return train
        return [train[i] for i in shuffled(len(train), self.spec.seed, 0)[:limit]]

    def _folded(self, train: tuple[Example, ...]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        """(what is trained on, what is held out): all and nothing, but in a trial on a fold of train."""
        fold = self.spec.task.fold
        return (train, ()) if fold is None else split_fold(train, fold, FOLDS, self.spec.seed)

    def _tell(self, notes: Sequence[str]) -> None:
        """What a strategy has to say of the adapted model."""
        for note in notes:
            self.events.notice(note)
        if self.model_info is not None:
            self.model_info = self.model_info.model_copy(update={"notes": (*self.model_info.notes, *notes)})

    def _count(self, model: nn.Module) -> None:
        trainable, total = count_parameters(model)
        self._measured |= {
            "trainable_parameters": trainable,
            "total_parameters": total,
            "trainable_fraction": trainable / total,
        }

    def _train(
        self,
        model: nn.Module,
        strategy: Strategy,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        splits: Splits,
        base: Base,
        engine: Engine,
    ) -> nn.Module:
        from harness.runtime.training.arguments import Plan
        from harness.runtime.training.callbacks import RunCallback
        from harness.runtime.training.trainer import train_model

        checkpoints = self.folder / CHECKPOINTS
        with self._phase("train"):
            rows = self._rows(task, splits, tokenizer, model)
            plan = Plan.of(self.spec, len(rows[0]), len(rows[1]))
            callback = RunCallback(
                plan, strategy, self.folder, self.events, writes=rank() == 0, meter=self.meter
            )
            callback.resume()
            try:
                model = train_model(
                    model, strategy, self.spec, rows, tokenizer, checkpoints, callback, engine
                )
            finally:
                self._measure_training(callback.throughput)
        self._measured["train_flops"] = train_flops(
            model, callback.throughput.tokens, callback.throughput.answer_tokens
        )
        self._measure_utilisation()
        self.meter.combine_processes("train")
        return self._whole(model, engine.whole_weights(model, self.spec), strategy, base)

    def _whole(
        self, model: nn.Module, weights: dict[str, torch.Tensor] | None, strategy: Strategy, base: Base
    ) -> nn.Module:
        """The trained model outside the engine; in the first process whole, where each process held a piece."""
        if weights is None or rank() != 0:
            return model
        set_seed(self.spec.seed)  # weights that are drawn and never trained (VeRA's) come out the same
        whole: nn.Module = adapted(strategy, strategy.load(base))
        unknown = whole.load_state_dict(weights, strict=False).unexpected_keys
        if unknown:
            raise RuntimeError(f"trained weights that the model does not have: {unknown[:5]}")
        return whole

    def _rows(
        self, task: Task, splits: Splits, tokenizer: PreTrainedTokenizerBase, model: nn.Module
    ) -> tuple[list[Row], list[Row]]:
        train = self.spec.train
        length = min(train.max_length, context_length(model, tokenizer, self.spec.model.max_length))
        scoring = self.spec.task.scoring
        # Validation is tokenised only where a validation loss was asked for.
        asked = train.evaluation_steps is not None or train.early_stopping_patience is not None
        cache = TokenCache(splits.source, self.events.notice)

        def encoded(examples: Sequence[Example]) -> list[Row]:
            try:
                found = cache.encode_pairs(tokenizer, text_pairs(task, examples, scoring), length)
                refuse_outside(tokenizer, found, vocabulary_size(model))
            except RowError as error:
                raise UsageError(f"item {examples[error.index].id}: {error.message}", error.remedy) from error
            return found

        rows = encoded(self._train_examples(splits))
        validation = encoded(splits.validation if asked else ())
        self.inputs = trained_inputs(rows)
        for notice in training_sentences(self.inputs, len(rows)):
            self.events.notice(notice)
        return rows, validation

    def _measure_training(self, throughput: Throughput) -> None:
        self.resumed = throughput.resumed
        self.passed_over = tuple(throughput.passed_over)
        self._earlier_seconds = throughput.earlier_seconds
        if not throughput.steps:
            return
        self._measured |= {
            "train_seconds": throughput.seconds,
            "train_steps": throughput.steps,
            "train_tokens": throughput.tokens,
            "train_tokens_per_second": throughput.rate(throughput.timed_tokens),
            "train_examples_per_second": throughput.rate(throughput.timed_examples),
        }

    def _measure_utilisation(self) -> None:
        if self.device.type != "cuda":
            return
        peak = peak_flops(torch.cuda.get_device_name(self.device), self.spec.model.dtype)
        flops, seconds = self._measured["train_flops"], self._measured.get("train_seconds")
        self._measured["model_flops_utilisation"], told = utilisation(flops, seconds, peak, world_size())
        if told:
            self.events.notice(told)

    def _save(self, model: nn.Module, strategy: Strategy, base: Base) -> None:
        folder = self.folder / "adapter"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        strategy.save(as_text_model(model), folder)
        if (folder / "config.json").is_file():  # a whole model, which can be given as --model
            copy_tokenizer(base.located.folder, folder)
        weights = list(folder.rglob("*.safetensors"))
        if not weights:
            raise RuntimeError(f"strategy {strategy.name} saved no safetensors file")
        self._measured["adapter_bytes"] = sum(path.stat().st_size for path in weights)

    def _evaluate(
        self, model: nn.Module, task: Task, tokenizer: PreTrainedTokenizerBase, splits: Splits
    ) -> Finished:
        test, settings = self._test(splits), self.spec.task
        scorer = self._scorer(model, task, tokenizer, test)
        for note in scorer.notes:
            self.events.notice(note)
        shots = worked_examples(self._folded(splits.train)[0], settings.shots, self.spec.seed)
        log_samples = os.environ.get("HARNESS_LOG_SAMPLES") == "1"
        started = time.perf_counter()
        predictions, asked = predict(scorer, task, test, shots, settings.scoring, texts=log_samples)
        self._measured["eval_seconds"] = time.perf_counter() - started
        own = scorer.likelihood
        self.events.emit(
            "evaluated", n=len(test), forward_seconds=own.forward_seconds, batch_tokens=own.batch_tokens,
            passes_at_a_time=own.workers,
        )  # fmt: skip
        self._measured["eval_examples_per_second"] = len(test) / self._measured["eval_seconds"]
        self.inputs = scored_inputs(
            task, test, shots, settings.scoring, predictions, scorer.prompts.cuts, self.inputs
        )
        for notice in scoring_sentences(self.inputs, len(test), len(shots)):
            self.events.notice(notice)
        write_predictions(predictions, self.folder, asked)
        self.scores = all_scores(task, predictions, self._folded(splits.train)[0])

        def answers(items: Sequence[Example]) -> Sequence[Prediction]:
            again = self._scorer(model, task, tokenizer, items)
            return predict(again, task, items, shots, settings.scoring)[0]

        return Finished(task, settings.scoring, self.spec.seed, test, predictions, answers, model, tokenizer)

    def _scorer(
        self, model: nn.Module, task: Task, tokenizer: PreTrainedTokenizerBase, items: Sequence[Example]
    ) -> Scorer:
        dtype = "float32" if one_dtype(model) else self.spec.model.dtype
        return Scorer(
            model,
            tokenizer,
            max_length=context_length(model, tokenizer, self.spec.model.max_length, self.events.notice),
            batch_tokens=self.spec.engine.evaluation_batch_tokens,
            autocast=functools.partial(autocast, self.device, dtype),
            on_progress=self._evaluation_progress(task, items),
        )

    def _evaluation_progress(self, task: Task, test: Sequence[Example]) -> Callable[[Progress], None]:
        work = Work.of(task, test, self.spec.task.scoring)
        started, phase = time.perf_counter(), self.meter.current

        def show(done: Progress) -> None:
            memory, kind = memory_now(self.device)
            self.events.progress(
                phase=phase, done=done.answered * len(test) // work.requests, of=len(test), memory_bytes=memory,
                memory_kind=kind, seconds_left=work.seconds_left(done, time.perf_counter() - started),
                final=done.answered == work.requests,
            )  # fmt: skip

        return show

    def cost(self) -> Cost:
        """What is known so far, without probes; what was not measured is None."""
        if self._spent is not None:
            return self._spent
        total = self._earlier_seconds + self.meter.total_seconds()
        gpus = world_size() if self.device.type == "cuda" else 0
        return Cost(
            **self._measured,
            **self.meter.peaks(),
            total_seconds=total,
            # NVML was read for the first process's GPU, and in this try, only.
            energy_joules=self.meter.energy.joules() if gpus == 1 and not self.resumed else None,
            gpu_hours=total * gpus / 3600 if gpus else None,
        )
