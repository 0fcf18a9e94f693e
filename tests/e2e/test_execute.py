"""Whole runs of the tiny model: what they leave behind, and how they go on after they were stopped.

This file is also a program, for what needs processes of its own:
`python test_execute.py run FOLDER` executes one run;
`python test_execute.py pairs FOLDER...` executes each in two processes, as torchrun starts them;
`python test_execute.py stopped-pairs STEP|save FOLDER ...` does too, and kills them there;
`python test_execute.py kill STEP FOLDER...` executes each in a child that is killed after STEP steps.
All but the first import the libraries once and fork, which is most of their time.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from harness.contracts import DataSource, Example
from harness.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from harness.record import RunRecord
from harness.registry import load_registry
from harness.runtime import execute
from harness.runtime import run as run_module
from harness.runtime.meter import Meter
from harness.runtime.run import Run
from harness.runtime.training.callbacks import RunCallback
from harness.spec import RunSpec

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"r": 4},
    "qlora": {"r": 4},
    "ia3": {},
    "prefix": {"num_virtual_tokens": 4},
    "peft": {"config": {"peft_type": "VERA", "r": 4}},
    "zero-shot": {},
    "few-shot": {},
}
RATES = {"full": 1e-3, "ia3": 1e-2, "prefix": 1e-2}
Make = Callable[..., Path]


def make_run(root: Path, base: Path, strategy: str, **more: Any) -> Path:
    """A folder with a spec.json: six steps of four examples, eight test items."""
    registry = load_registry()
    trains = registry.strategy(strategy).trains if strategy in registry.strategies else True
    train = {"max_steps": 6, "batch_size": 4, "limit": 18, "micro_batch_tokens": 900, "max_length": 400}
    spec = RunSpec.model_validate(
        {
            "model": {"name": str(base), "dtype": "float32", **more.pop("model", {})},
            "strategy": {"name": strategy, "settings": more.pop("settings", SETTINGS.get(strategy, {}))},
            "task": {"name": "pubmedqa", "limit": 8, **more.pop("task", {})},
            "train": {"learning_rate": RATES.get(strategy, 3e-3), **train, **more.pop("train", {})}
            if trains
            else {},
            "engine": {"evaluation_batch_tokens": 1200, **more.pop("engine", {})},
            **more,
        }
    )
    folder = root / f"{len(list(root.iterdir()))}-{spec.run_id}"
    folder.mkdir()
    (folder / "spec.json").write_text(spec.model_dump_json())
    return folder


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield


@pytest.fixture(autouse=True)
def _same_process() -> Iterator[None]:
    """A run changes its process: variables for DeepSpeed."""
    environment = dict(os.environ)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for name in set(os.environ) - set(environment):
        del os.environ[name]


@pytest.fixture
def make(tmp_path: Path, tiny_model_dir: Path) -> Make:
    return lambda strategy="lora", **more: make_run(tmp_path, tiny_model_dir, strategy, **more)


def record(folder: Path) -> RunRecord:
    return RunRecord.model_validate_json((folder / "record.json").read_text())


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder, "steps") if "loss" in line]


def predictions(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "predictions.parquet").to_pylist()
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (file,) = (folder / "adapter").glob("*.safetensors")
    return load_file(file)


def run(folder: Path) -> RunRecord:
    assert execute.main(folder) == EXIT_OK, (folder / "record.json").read_text()[-2000:]
    return record(folder)


# ---- what a run leaves


def test_an_engine_of_a_plugin_trains_what_the_plain_one_does(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "own_engine.py"
    file.write_text(
        "from harness.engines.plain import Plain\n\n\nclass Own(Plain):\n    name = 'own'\n"
        "    def without_exchange(self, accelerator, model):\n        return super().without_exchange(accelerator, model)\n"
    )
    plugin = load_registry([file]).origins["engine", "own"].model_dump()
    plain = make("lora")
    own = make("lora", engine={"name": "own"}, plugins=[plugin])
    expected, found = run(plain), run(own)
    assert found.spec.engine.name == "own"
    assert_same(own, plain, found, expected)


def test_a_probe_has_a_phase_and_a_cost_of_its_own(make: Make) -> None:
    asked = {"task": {"name": "medqa", "limit": 8, "scoring": "letter"}, "train": {"max_steps": 1}}
    plain, probed = (run(make("lora", **asked, probes=probes)) for probes in ((), ("option-order",)))
    assert [phase.name for phase in probed.phases] == [*(p.name for p in plain.phases), "probe:option-order"]
    assert probed.scores == plain.scores
    result = probed.probes["option-order"]
    assert result.failure is None
    assert set(result.scores) == {"accuracy_reordered", "answers_changed"}
    assert probed.cost.total_seconds is not None
    measured = [phase.seconds for phase in probed.phases]
    assert probed.cost.total_seconds < sum(measured)  # what the probe took is not in it
    assert plain.run_id.rpartition("-")[2] != probed.run_id.rpartition("-")[2]


@pytest.mark.parametrize("strategy", sorted(load_registry().strategies))
def test_a_run_leaves_a_whole_record(strategy: str, make: Make) -> None:
    trains = load_registry().strategy(strategy).trains
    folder = make(strategy, task={"shots": 1} if strategy == "few-shot" else {}, model={"dtype": "bfloat16"})
    found = run(folder)
    assert found.status == "ok"
    assert found.run_id == folder.name
    assert found.resumed == 0
    assert {"accuracy", "macro_f1", "nll", "brier", "ece"} <= set(found.scores)
    expected = ["load", "adapt", "train", "save", "evaluate"] if trains else ["load", "adapt", "evaluate"]
    assert [phase.name for phase in found.phases] == expected
    imports = [phase.import_seconds for phase in found.phases]
    assert 0 < imports[0] < found.phases[0].seconds  # type: ignore[operator]
    assert not any(imports[1:])
    assert [e["name"] for e in lines(folder, "events") if e["event"] == "phase"] == expected
    assert found.data is not None
    assert (found.data.test_n, found.data.comparable) == (8, False)
    assert found.data.test_known_n > 8
    assert found.model is not None
    assert found.model.fingerprint
    assert [p["example_id"] for p in predictions(folder)] == [e.id for e in sample_test()[:8]]
    assert not (folder / "checkpoints").exists()
    cost = found.cost
    assert cost.gpu_memory_allocated_peak_bytes is cost.energy_joules is cost.gpu_hours is None
    assert cost.total_seconds is not None
    assert sum(phase.seconds for phase in found.phases) <= cost.total_seconds
    if not trains:
        assert not (folder / "adapter").exists()
        assert (cost.train_seconds, cost.train_tokens, cost.adapter_bytes) == (None, None, None)
        assert cost.trainable_parameters == 0
        return
    assert found.data.train_n == 18
    steps = lines(folder, "steps")
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert cost.train_steps == 6
    assert cost.train_tokens == sum(step["tokens"] for step in steps)
    assert cost.adapter_bytes == sum(p.stat().st_size for p in (folder / "adapter").glob("*.safetensors"))
    assert cost.train_flops
    assert cost.train_tokens_per_second
    assert cost.trainable_parameters
    assert cost.trainable_fraction == pytest.approx(cost.trainable_parameters / (cost.total_parameters or 1))


def sample_test() -> Any:
    return load_registry().task("pubmedqa")().load(DataSource.parse("sample")).test


@pytest.mark.parametrize(
    ("strategy", "unused"),
    [
        ("zero-shot", {"peft", "bitsandbytes", "deepspeed", "sklearn", "matplotlib", "plotly"}),
        ("lora", {"deepspeed", "sklearn", "matplotlib", "plotly"}),
    ],
)
def test_a_run_imports_nothing_that_it_does_not_use(strategy: str, unused: set[str], make: Make) -> None:
    folder = make(strategy)
    code = f"import sys; from harness.cli import main; main(['exec', {str(folder)!r}]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert {"torch", "transformers"} <= imported
    assert not imported & unused


@pytest.mark.parametrize("strategy", ["full", "lora", "prefix", "ia3"])
def test_what_is_saved_predicts_what_was_scored(strategy: str, make: Make, tiny_model_dir: Path) -> None:
    """In bfloat16, where a cast at the wrong place shows."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.runtime.evaluators.choice import predict
    from harness.runtime.models.loading import autocast
    from harness.runtime.scoring.scorer import Scorer

    folder = make(strategy, model={"dtype": "bfloat16"})
    run(folder)
    source = folder / "adapter" if strategy == "full" else tiny_model_dir
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    if strategy != "full":
        model = PeftModel.from_pretrained(model, folder / "adapter")
    task = load_registry().task("pubmedqa")()
    scorer = Scorer(
        model.eval(),
        AutoTokenizer.from_pretrained(source),  # of full, its folder is a model of its own
        max_length=508 if strategy == "prefix" else 512,
        batch_tokens=1200,
        autocast=lambda: autocast(torch.device("cpu"), "float32" if strategy == "full" else "bfloat16"),
    )
    found, _ = predict(scorer, task, sample_test()[:8], [], "letter")
    for own, stored in zip(found, predictions(folder), strict=True):
        assert list(own.logprobs) == pytest.approx(stored["logprobs"], abs=1e-5)


def test_the_same_seed_gives_the_same_run_and_another_another(make: Make) -> None:
    settings = {"r": 4, "dropout": 0.1}
    first, again, other = (make(settings=settings, seed=seed) for seed in (1, 1, 2))
    for folder in (first, again, other):
        run(folder)
    assert losses(first) == losses(again)
    assert predictions(first) == predictions(again)
    assert all(torch.equal(weights(again)[name], weight) for name, weight in weights(first).items())
    assert losses(first) != losses(other)
    assert any(
        not torch.equal(weights(other)[name], w) for name, w in weights(first).items() if "lora_A" in name
    )
    order = [[line["tokens"] for line in lines(folder, "steps")] for folder in (first, again, other)]
    assert order[0] == order[1] != order[2]


def test_what_one_run_kept_another_reads_with_the_same_result(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setenv("MEDTUNE_CACHE", str(tmp_path / "cache"))
    first, second, third = (make("qlora", train={"max_steps": 2}) for _ in range(3))
    notes = [run(folder).model.notes for folder in (first, second)]  # type: ignore[union-attr]
    assert [note.split(", ")[0] for (note,) in notes] == [
        "quantised weights kept in the cache",
        "quantised weights read from the cache",
    ]
    assert set(notes[1]) <= {line["text"] for line in lines(second, "events") if line["event"] == "notice"}
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 1
    for name in ("TOKENS", "QUANTISED"):
        monkeypatch.setenv(f"MEDTUNE_CACHE_{name}", "none")
    assert run(third).model.notes == ()  # type: ignore[union-attr]
    for folder in (second, third):
        assert losses(folder) == losses(first)
        assert predictions(folder) == predictions(first)
        assert all(torch.equal(weights(folder)[name], w) for name, w in weights(first).items())


def test_every_strategy_sees_the_same_batches(make: Make) -> None:
    folders = [make(name) for name in ("lora", "full", "prefix")]
    for folder in folders:
        run(folder)
    tokens = [[line["tokens"] for line in lines(folder, "steps")] for folder in folders]
    assert tokens[0] == tokens[1] == tokens[2]


def test_early_stopping_and_validation_in_a_whole_run(make: Make) -> None:
    folder = make(train={"early_stopping_patience": 1, "evaluation_steps": 2})
    run(folder)
    validation = [line for line in lines(folder, "steps") if "validation_loss" in line]
    assert validation
    assert all(set(line) == {"step", "validation_loss"} for line in validation)


def test_no_text_is_written_unless_asked(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, loud = make("zero-shot"), make("zero-shot", seed=1)
    run(quiet)
    monkeypatch.setenv("HARNESS_LOG_SAMPLES", "1")
    run(loud)
    question = sample_test()[0].question.encode()
    written = [path.name for path in quiet.rglob("*") if path.is_file() and question in path.read_bytes()]
    assert written == []
    assert "prompt" in predictions(loud)[0]
    modes = [(folder / "predictions.parquet").stat().st_mode & 0o077 for folder in (quiet, loud)]
    assert modes[1] == 0 != modes[0]  # texts are their owner's


# ---- what goes wrong


def refused(folder: Path) -> dict[str, Any]:
    assert execute.main(folder) == EXIT_USAGE
    assert not (folder / "record.json").exists()
    (event,) = [event for event in lines(folder, "events") if event["event"] == "refused"]
    assert event["exit_code"] == EXIT_USAGE
    return event


def test_what_is_asked_wrongly_is_refused_and_not_recorded(make: Make, tmp_path: Path) -> None:
    assert "no-such" in refused(make("no-such-strategy"))["message"]
    assert "nowhere" in refused(make(model={"name": str(tmp_path / "nowhere")}))["message"]
    assert refused(make(task={"source": str(tmp_path / "nothing")}))["message"]
    assert (
        "gradient checkpointing" in refused(make("prefix", train={"gradient_checkpointing": True}))["message"]
    )


def test_a_missing_package_is_refused_with_its_exit_code(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.errors import EXIT_MISSING, MissingDependencyError

    def missing(*_: Any, **__: Any) -> Any:
        raise MissingDependencyError("not installed", "pip install it")

    monkeypatch.setattr("harness.runtime.run.locate", missing)
    folder = make("zero-shot")
    assert execute.main(folder) == EXIT_MISSING
    assert not (folder / "record.json").exists()
    assert lines(folder, "events")[-1]["exit_code"] == EXIT_MISSING


def test_out_of_memory_is_a_failed_row_with_a_remedy(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.runtime.training.trainer import StepTrainer

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(StepTrainer, "_nll", full)
    folder = make()
    assert execute.main(folder) == EXIT_FAILED
    found = record(folder)
    assert found.status == "failed"
    assert found.failure is not None
    assert (found.failure.kind, found.failure.phase) == ("out_of_memory", "train")
    assert "micro_batch_tokens" in found.failure.remedy
    assert found.scores == {}
    assert [phase.name for phase in found.phases] == ["load", "adapt", "train"]
    assert found.cost.trainable_parameters  # what was measured before is kept
    assert found.data is not None


def test_a_loss_that_is_not_a_number_is_a_failed_row(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from strategies.lora import Lora

    def spoil(self: Any, model: Any, step: int) -> None:
        if step == 3:
            next(w for w in model.parameters() if w.requires_grad).data.fill_(float("nan"))

    monkeypatch.setattr(Lora, "after_step", spoil)
    folder = make()
    assert execute.main(folder) == EXIT_FAILED
    found = record(folder)
    assert found.failure is not None
    assert (found.failure.kind, found.failure.phase) == ("non_finite_loss", "train")
    assert "step 4 of 6" in found.failure.message
    assert found.cost.train_steps == 3


def test_provenance_is_of_the_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit or an upgrade while a run computes is not what it computed with."""
    versions = iter([{"torch": "at the start"}, {"torch": "at the end"}])
    monkeypatch.setattr("harness.runtime.device.package_versions", lambda extra=(): next(versions))
    folder = make("zero-shot")
    run(folder)
    found = record(folder)
    assert found.environment is not None
    assert found.environment.packages == {"torch": "at the start"}
    assert found.started is not None
    assert found.started <= found.created
    assert found.environment.cores == len(os.sched_getaffinity(0))
    assert found.environment.threads == torch.get_num_threads()


def test_a_bug_keeps_its_traceback(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("oops")

    monkeypatch.setattr("harness.runtime.run.predict", broken)
    folder = make("zero-shot")
    assert execute.main(folder) == EXIT_FAILED
    failure = record(folder).failure
    assert failure is not None
    assert (failure.kind, failure.phase, failure.message) == ("error", "evaluate", "KeyError: 'oops'")
    assert "in broken" in (failure.traceback or "")


def failing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("harness.runtime.training.trainer.StepTrainer._nll", fail)


def test_the_process_that_failed_first_gives_the_reason(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the second process runs out of memory, the first only sees its connection close."""
    folder = make()
    original = execute.failure_of

    def second_fails_meanwhile(error: Exception, phase: str) -> Any:
        if execute.rank() == 0:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(execute, "rank", lambda: 1)
                failing(torch.OutOfMemoryError("on the second GPU"), patch)
                assert execute.main(folder) == EXIT_FAILED
            assert not (folder / "record.json").exists()
        return original(error, phase)

    failing(RuntimeError("Connection closed by peer"), monkeypatch)
    monkeypatch.setattr(execute, "failure_of", second_fails_meanwhile)
    assert execute.main(folder) == EXIT_FAILED
    failure = record(folder).failure
    assert failure is not None
    assert failure.kind == "out_of_memory"
    assert "on the second GPU" in failure.message
    monkeypatch.undo()
    assert run(folder).status == "ok"
    assert not list(folder.glob("failure-*"))


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    original = RunCallback.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == step:
            action()

    monkeypatch.setattr(RunCallback, "on_step_end", on_step_end)


def test_sigterm_leaves_an_interrupted_row_to_go_on_from(make: Make) -> None:
    folder, whole = make(train={"checkpoint_steps": 2}), make(train={"checkpoint_steps": 2})
    write = execute._record

    def told_again(*args: Any) -> Any:  # as by a launcher with several threads that is killed
        os.kill(os.getpid(), signal.SIGTERM)
        return write(*args)

    with pytest.MonkeyPatch.context() as patch:
        stop_at(5, patch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        patch.setattr(execute, "_record", told_again)
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        assert execute.main(folder) == EXIT_INTERRUPTED
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    found = record(folder)
    assert found.status == "interrupted"
    assert found.failure is not None
    assert (found.failure.kind, found.failure.phase) == ("interrupted", "train")
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-4"}
    again = run(folder)
    assert again.status == "ok"
    assert again.resumed == 1
    assert_same(folder, whole, again, run(whole))


class Killed(BaseException):
    """What ends a process that nothing in it can catch."""


def kill_in(monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> None:
    def killed(*_: Any, **__: Any) -> Any:
        raise Killed

    monkeypatch.setattr(where, name, killed)


PHASES: dict[str, tuple[Any, str]] = {
    "save": (Run, "_save"),
    "evaluate": (Run, "_evaluate"),
    "probe": (run_module, "probed"),
    "before the record": (execute, "_write"),
    "after the record": (execute, "tidy"),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("early", [False, True], ids=["plain", "early stopping"])
def test_a_run_killed_after_training_does_not_train_on(
    phase: str, early: bool, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint is there until its record is; then it goes."""
    settings = {"schedule": "constant", "max_steps": 7}  # an epoch is 5
    settings |= {"early_stopping_patience": 1, "evaluation_steps": 2} if early else {}
    probed = {"task": {"name": "medqa", "limit": 8, "scoring": "letter"}, "probes": ("option-order",)}
    folder, whole = (make(train=settings, **probed) for _ in range(2))
    expected = run(whole)
    for _ in range(2):
        with monkeypatch.context() as patch:
            kill_in(patch, *PHASES[phase])
            with pytest.raises(Killed):
                execute.main(folder)
        assert (folder / "record.json").exists() == (phase == "after the record")
        assert list((folder / "checkpoints").glob("checkpoint-*/complete"))
    again = run(folder)
    assert_same(folder, whole, again, expected)
    assert not (folder / "checkpoints").exists()
    assert again.resumed == 1
    steps = [line["seconds"] for line in lines(folder, "steps") if "loss" in line]
    assert again.cost.train_seconds == pytest.approx(sum(steps))


def test_memory_that_training_took_is_in_the_record_of_a_try_that_made_no_step(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make()
    with monkeypatch.context() as patch:
        patch.setattr(Meter, "peaks_so_far", lambda self: {"host_memory_peak_bytes": 10**15})
        kill_in(patch, Run, "_evaluate")
        with pytest.raises(Killed):
            execute.main(folder)
    assert run(folder).cost.host_memory_peak_bytes == 10**15


def assert_same(folder: Path, whole: Path, found: RunRecord, expected: RunRecord) -> None:
    """To the bit: what was trained, answered and written; and what it cost, but for seconds."""

    def untimed(folder: Path) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in line.items() if key != "seconds"} for line in lines(folder, "steps")
        ]

    assert untimed(folder) == untimed(whole)
    assert predictions(folder) == predictions(whole)
    assert found.scores == expected.scores
    assert found.probes == expected.probes
    files = sorted(path.name for path in (whole / "adapter").iterdir())
    assert sorted(path.name for path in (folder / "adapter").iterdir()) == files
    assert [(folder / "adapter" / name).read_bytes() for name in files] == [
        (whole / "adapter" / name).read_bytes() for name in files
    ]
    for key in ("train_steps", "train_tokens", "train_flops", "trainable_parameters", "adapter_bytes"):
        assert getattr(found.cost, key) == getattr(expected.cost, key), key


def medqa_folder(root: Path, mark: str) -> Path:
    """Sixty rows to train on and eight to test; `mark` stands in each test question."""
    folder = root / "data"
    folder.mkdir()
    for name, numbers in (("train", range(60)), ("test", range(100, 108))):
        rows = (
            {
                "question": f"{mark if name == 'test' else ''} Item {n}: which fits?",
                "options": {letter: f"{letter.lower()} {n}" for letter in "ABCD"},
                "answer_idx": "ABCD"[n % 4],
            }
            for n in numbers
        )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_what_trains_does_not_hold_the_test_items(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = medqa_folder(tmp_path, "unseen-until-trained")
    held: list[list[str]] = []

    def look() -> None:
        gc.collect()
        held.append([o.question for o in gc.get_objects() if type(o) is Example])

    stop_at(3, monkeypatch, look)
    run(make(task={"name": "medqa", "source": str(folder)}))
    (questions,) = held
    assert sum("Item 5:" in question for question in questions)
    assert not [question for question in questions if "unseen-until-trained" in question]


def test_a_trial_reads_no_test_file(make: Make, tmp_path: Path) -> None:
    folder = medqa_folder(tmp_path, "")
    (folder / "test.jsonl").write_text("not to be read")
    found = run(make(task={"name": "medqa", "source": str(folder), "split": "validation"}))
    assert found.data is not None
    assert list(found.data.files) == ["train.jsonl"]
    assert (found.data.test_n, found.data.test_known_n) == (6, 6)


def test_data_that_changed_while_training_is_not_scored(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = medqa_folder(tmp_path, "")
    train = data / "train.jsonl"
    before = train.read_text()
    stop_at(6, monkeypatch, lambda: train.write_text(before.replace("Item", "Thing")) and None)
    folder = make(task={"name": "medqa", "source": str(data)}, train={"checkpoint_steps": 2})
    assert execute.main(folder) == EXIT_USAGE
    assert "has changed while the run trained" in lines(folder, "events")[-1]["message"]
    monkeypatch.undo()
    train.write_text(before)
    assert run(folder).data is not None


@pytest.mark.parametrize("what", ["data", "model"])
def test_a_checkpoint_of_other_inputs_is_not_gone_on_from(
    what: str, make: Make, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = medqa_folder(tmp_path, "")
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    folder = make(
        task={"name": "medqa", "source": str(data)}, train={"checkpoint_steps": 2}, model={"name": str(base)}
    )
    stop_at(3, monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert execute.main(folder) == EXIT_INTERRUPTED
    monkeypatch.undo()
    changed = {"data": data / "dev.jsonl", "model": base / "generation_config.json"}[what]
    before = changed.read_bytes() if changed.exists() else None
    if what == "data":
        shutil.copy(data / "test.jsonl", changed)
    else:
        changed.write_text('{"temperature": 0.5}')
    assert execute.main(folder) == EXIT_USAGE
    refused = lines(folder, "events")[-1]
    assert f"{what} has changed since: {changed.name} is " in refused["message"]
    assert "--no-resume" in refused["remedy"]
    changed.unlink() if before is None else changed.write_bytes(before)
    assert run(folder).resumed == 1


# ---- going on after a kill

KILLED: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"settings": {"r": 4, "dropout": 0.1}}),
    "full": ("full", {}),
    "prefix": ("prefix", {}),
    "prefix-projection": ("prefix", {"settings": {"num_virtual_tokens": 4, "projection": True}}),
    "early": ("lora", {"train": {"early_stopping_patience": 3, "evaluation_steps": 2}}),
    "packed": ("lora", {"settings": {"r": 4, "dropout": 0.1}, "train": {"packing": "on"}}),
}
"""Checkpoints at 2, 4, 6, 8; an epoch is 5 steps, so that 4 is inside one; killed after step 7 of 9."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> dict[str, Path]:
    """Runs killed after seven steps, all by one program to import the libraries once."""
    root = tmp_path_factory.mktemp("killed")
    folders = {}
    for name, (strategy, more) in KILLED.items():
        train = {"max_steps": 9, "checkpoint_steps": 2, **more.get("train", {})}
        folders[name] = make_run(root, tiny_model_dir, strategy, **{**more, "train": train})
    program("kill", "7", *map(str, folders.values()))
    return folders


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    name: str, killed: dict[str, Path], tmp_path: Path
) -> None:
    folder = killed[name]
    assert not (folder / "record.json").exists()
    assert losses(folder)[6:]
    checkpoint = folder / "checkpoints" / "checkpoint-6"
    assert (checkpoint / "complete").exists()

    whole = tmp_path / "whole"
    whole.mkdir()
    shutil.copy(folder / "spec.json", whole)
    # A later one that was cut off: its folder is there, and its last file is not.
    half = Path(shutil.copytree(checkpoint, folder / "checkpoints" / "checkpoint-8"))
    (half / "complete").unlink()
    (half / "optimizer.pt").write_bytes(b"half")
    resumed, uninterrupted = run(folder), run(whole)

    assert resumed.resumed == 1
    assert uninterrupted.resumed == 0
    assert_same(folder, whole, resumed, uninterrupted)
    assert not (folder / "checkpoints").exists()


def test_a_run_without_a_whole_checkpoint_starts_anew(make: Make) -> None:
    folder, whole = make(), make()
    half = folder / "checkpoints" / "checkpoint-4"
    half.mkdir(parents=True)
    (half / "trained.safetensors").write_bytes(b"half")
    (folder / "steps.jsonl").write_text('{"step": 1, "loss": 99.0}\n{"step": 2, "lo')
    assert run(folder).resumed == 0
    run(whole)
    assert losses(folder) == losses(whole)


# ---- several processes, and DeepSpeed


def program(*words: str, launcher: tuple[str, ...] = ()) -> None:
    done = subprocess.run(
        [sys.executable, *launcher, __file__, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> dict[str, Path]:
    """The runs that those of several processes must repeat."""
    root = tmp_path_factory.mktemp("one")
    folders = {name: make_run(root, tiny_model_dir, name) for name in ("full", "lora")}
    for folder in folders.values():
        run(folder)
    return folders


def assert_repeats(folder: Path, expected: Path) -> None:
    found, wanted = record(folder), record(expected)
    assert found.status == "ok"
    assert losses(folder) == pytest.approx(losses(expected), abs=1e-3)
    assert found.scores["nll"].value == pytest.approx(wanted.scores["nll"].value, abs=1e-3)
    for key in ("trainable_parameters", "total_parameters", "train_tokens", "train_flops", "train_steps"):
        assert getattr(found.cost, key) == getattr(wanted.cost, key), key
    theirs = weights(expected)
    for name, weight in weights(folder).items():
        torch.testing.assert_close(weight, theirs[name], atol=2e-3, rtol=1e-2)


ZERO3 = {"name": "deepspeed", "zero_stage": 3}
PACKED = {"packing": "on"}  # what it trains is what padded rows do
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("lora", {}),
    "plain-packed": ("lora", {"train": PACKED}),
    "zero3": ("full", {"engine": ZERO3}),
    "zero3-lora": ("lora", {"engine": ZERO3}),
    "zero3-packed": ("full", {"engine": ZERO3, "train": PACKED}),
}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("two")
    usable = {
        name: own
        for name, own in ENGINES.items()
        if "engine" not in own[1] or importlib.util.find_spec("deepspeed")
    }
    folders = {
        name: make_run(root, tiny_model_dir, strategy, **more) for name, (strategy, more) in usable.items()
    }
    program("pairs", *map(str, folders.values()))
    return folders


@pytest.mark.parametrize("name", ENGINES)
def test_two_processes_repeat_one(
    name: str, one_process: dict[str, Path], two_processes: dict[str, Path]
) -> None:
    if name not in two_processes:
        pytest.skip("deepspeed is not installed")
    assert_repeats(two_processes[name], one_process[ENGINES[name][0]])
    environment = record(two_processes[name]).environment
    assert environment is not None
    assert environment.processes == 2


def test_torchrun_starts_a_run(one_process: dict[str, Path], tmp_path: Path, tiny_model_dir: Path) -> None:
    pytest.importorskip("deepspeed")
    folder = make_run(tmp_path, tiny_model_dir, "full", engine={"name": "deepspeed", "zero_stage": 2})
    options = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    program("run", str(folder), launcher=options)
    assert_repeats(folder, one_process["full"])


STOPPED_PAIRS: dict[str, tuple[str, dict[str, Any], str]] = {
    "plain, in a step": ("lora", {"settings": {"r": 4, "dropout": 0.2}}, "5"),
    "plain, after the last": ("lora", {"settings": {"r": 4, "dropout": 0.2}}, "save"),
    "zero3, in a step": ("full", {"engine": ZERO3}, "5"),
    "zero3, after the last": ("full", {"engine": ZERO3}, "save"),
}


@pytest.fixture(scope="module")
def stopped_pairs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path
) -> dict[str, tuple[Path, Path]]:
    """Runs of two processes: stopped and gone on with, and not stopped."""
    root = tmp_path_factory.mktemp("stopped-pairs")
    folders, wholes, words = {}, {}, []
    for name, (strategy, more, where) in STOPPED_PAIRS.items():
        if "engine" in more and not importlib.util.find_spec("deepspeed"):
            continue
        settings = {**more, "train": {"checkpoint_steps": 2, "schedule": "constant"}}
        if strategy not in wholes:
            wholes[strategy] = make_run(root, tiny_model_dir, strategy, **settings)
        stopped = make_run(root, tiny_model_dir, strategy, **settings)
        folders[name] = (stopped, wholes[strategy])
        words += [where, str(stopped)]
    program("stopped-pairs", *words)
    program("pairs", *map(str, [*wholes.values(), *(stopped for stopped, _ in folders.values())]))
    return folders


@pytest.mark.parametrize("name", STOPPED_PAIRS)
def test_two_processes_go_on_to_the_bit(name: str, stopped_pairs: dict[str, tuple[Path, Path]]) -> None:
    if name not in stopped_pairs:
        pytest.skip("deepspeed is not installed")
    stopped, whole = stopped_pairs[name]
    assert record(stopped).resumed == 1
    assert_same(stopped, whole, record(stopped), record(whole))


@pytest.mark.parametrize("processes", [1, 2])
def test_full_needs_no_compiler(
    processes: int, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed would compile an operation for collectives on a CPU in the first step."""
    pytest.importorskip("deepspeed")
    folder = make("full", engine={"name": "deepspeed"}, train={"max_steps": 1})
    for name in ("no_programs", "no_extensions"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "no_programs"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "no_extensions"))
    monkeypatch.delenv("CXX", raising=False)
    program("run" if processes == 1 else "pairs", str(folder))
    assert record(folder).status == "ok"
    assert list((tmp_path / "no_extensions").iterdir()) == []


def test_a_run_that_fell_back_to_the_plain_engine_says_so_in_its_record(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.runtime.run.is_installed", lambda module: module != "deepspeed")
    folder = make("full", train={"max_steps": 1})
    run(folder)
    (told,) = (notice for notice in record(folder).notices if "plain engine" in notice)
    assert "deepspeed, its default, is not installed" in told
    assert told in [event["text"] for event in lines(folder, "events") if event["event"] == "notice"]


# ---- this file as a program


def _fork(work: Callable[[], int]) -> int:
    child = os.fork()
    if child == 0:
        os._exit(work())
    return child


def _killed(step: int, folder: str) -> int:
    stop_at(step, pytest.MonkeyPatch(), lambda: os.kill(os.getpid(), signal.SIGKILL))
    execute.main(Path(folder))
    return 1  # it should be dead by now


def _stopped(rank: int, port: int, folder: str, where: str) -> int:
    patch = pytest.MonkeyPatch()
    if where == "save":  # the first process only comes there
        patch.setattr(Run, "_save", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    else:
        stop_at(int(where), patch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    return _ranked(rank, port, folder)


def _ranked(rank: int, port: int, folder: str) -> int:
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    return execute.main(Path(folder))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _main(words: list[str]) -> int:
    torch.set_num_threads(1)
    if words[0] == "run":
        return execute.main(Path(words[1]))
    assert threading.active_count() == 1  # a fork takes only this thread along
    ended = []
    if words[0] == "kill":
        for folder in words[2:]:
            child = _fork(functools.partial(_killed, int(words[1]), folder))
            ended.append(os.waitpid(child, 0)[1] != signal.SIGKILL)
        return int(any(ended))
    if words[0] == "stopped-pairs":
        for where, folder in zip(words[1::2], words[2::2], strict=True):
            port = _free_port()
            children = [_fork(functools.partial(_stopped, rank, port, folder, where)) for rank in range(2)]
            ended.append(os.waitpid(children[0], 0)[1] != signal.SIGKILL)
            os.waitpid(children[1], 0)
        return int(any(ended))
    for folder in words[1:]:
        port = _free_port()
        children = [_fork(functools.partial(_ranked, rank, port, folder)) for rank in range(2)]
        ended += [os.waitpid(child, 0)[1] != 0 for child in children]
    return int(any(ended))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
