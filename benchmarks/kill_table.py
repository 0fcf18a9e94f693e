"""Runs stopped in every phase, by every signal, at both ends: does the same command then end to the bit as if
they had not been? Prints a table of phases by signals; ends with 1 where a cell is wrong.

    python benchmarks/kill_table.py                          all cells (about 4 s each)
    python benchmarks/kill_table.py --phases save --signals SIGKILL --targets child --schedules constant

A cell is three processes: the command `run --warm` (the launcher), its run, and the command again. All are
forked from this one, which has imported the libraries; the run is stopped by itself at the place that the
cell names, so that nothing depends on time.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pyarrow.parquet as pq
import torch

import harness.launch.grid as grid
from harness import cli
from harness.io import tie
from harness.launch.warm import WarmRun
from harness.runtime import execute
from harness.runtime import run as run_module
from harness.runtime.device import WARM
from harness.runtime.training import callbacks, checkpoints
from harness.store import leftovers

STEPS = 7
STOPPED = "stopped"
SIGNALS = ("SIGTERM", "SIGINT", "SIGKILL")
TARGETS = ("launcher", "child")
SCHEDULES = ("constant", "cosine")
WAIT_SECONDS = 60.0
TOO_LATE_SECONDS = 2.0
"""What is waited for a signal in phases where a run no longer listens to any but SIGKILL."""
OPTIONS = (
    f"train.max_steps={STEPS}", "train.checkpoint_steps=2", "train.batch_size=4", "train.limit=18",
    "train.max_length=300", "train.learning_rate=3e-3", "strategy.r=4", "strategy.dropout=0.2",
    "model.dtype=float32",
)  # fmt: skip
Stop = Callable[[], None]


# ---- where a run stops: what is wrapped, and in which of its calls


def _before(owner: Any, name: str, stop: Stop, when: Callable[..., bool] = lambda *_: True) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when(*args):
            stop()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _after(owner: Any, name: str, stop: Stop, when: Callable[..., bool] = lambda *_: True) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if when(*args):
            stop()
        return result

    setattr(owner, name, wrapped)


def _at_step(step: int) -> Callable[..., bool]:
    return lambda callback, arguments, state, *_: state.global_step == step


def _of_step(step: int) -> Callable[..., bool]:
    return lambda checkpoint, *_: checkpoint.name == f"checkpoint-{step}"


PHASES: dict[str, Callable[[Stop], None]] = {
    "start": lambda stop: _before(execute, "run_device", stop),
    "load": lambda stop: _before(run_module, "locate", stop),
    "adapt": lambda stop: _before(run_module, "set_seed", stop),
    "first step": lambda stop: _after(callbacks.RunCallback, "on_step_end", stop, _at_step(1)),
    "between": lambda stop: _after(callbacks.RunCallback, "on_step_end", stop, _at_step(3)),
    "checkpoint half written": lambda stop: _before(checkpoints, "complete", stop, _of_step(4)),
    "checkpoint written": lambda stop: _after(checkpoints, "complete", stop, _of_step(4)),
    "old one half deleted": lambda stop: _before(leftovers.shutil, "rmtree", stop, _of_step(2)),
    "last step": lambda stop: _after(callbacks.RunCallback, "on_step_end", stop, _at_step(STEPS)),
    "last checkpoint": lambda stop: _after(checkpoints, "complete", stop, _of_step(STEPS)),
    "save": lambda stop: _before(run_module.Run, "_save", stop),
    "saved": lambda stop: _after(run_module.Run, "_save", stop),
    "evaluate": lambda stop: _before(run_module, "predict", stop),
    "before the record": lambda stop: _before(execute, "_write", stop),
    "after the record": lambda stop: _before(execute, "tidy", stop),
}  # fmt: skip
RECORDING = ("before the record", "after the record")


class Cell(tuple[str, str, str, str]):
    """Phase, signal, target, schedule."""

    def install(self, note: Path) -> None:
        """In a run's process, before it begins. `note` is made when it stops."""
        phase, number, target, _ = self
        launcher = os.getppid()
        seconds = TOO_LATE_SECONDS if phase in RECORDING else WAIT_SECONDS

        def stop() -> None:
            note.touch()
            os.kill(launcher if target == "launcher" else os.getpid(), signal.Signals[number])
            time.sleep(seconds)  # ended by the signal, or by the launcher's

        PHASES[phase](stop)


class Forked:
    """Stands in for harness.launch.warm.WarmProcess: the launcher forks its run itself."""

    cell: Cell | None = None

    def __init__(self, environment: Any) -> None: ...

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None: ...

    def start(self, folder: Path, log: Path, lock: int) -> WarmRun:
        pipe, launcher = tie.launcher_pipe(), os.getpid()
        child = os.fork()
        if child == 0:
            _be_run(folder, log, tie.Tie(pipe, launcher), self.cell)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(child, child)
        return _Run(child)  # type: ignore[return-value]


class _Run:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(0.02)
        return code


def _be_run(folder: Path, log: Path, tied: tie.Tie, cell: Cell | None) -> NoReturn:
    os.setpgid(0, 0)
    tie.let_go()
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ[WARM] = "1"
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tied.watch()
    if cell is not None:
        cell.install(folder.parents[1] / STOPPED)
    try:
        code = execute.main(folder)
    except KeyboardInterrupt:
        code = 130
    os._exit(code)


# ---- the command, and what it leaves


def command(model: str, results: Path, schedule: str, cell: Cell | None, log: Path) -> int:
    """`run` in a fork; its exit code, once no process of it is left."""
    words = ["run", "--warm", "--strategy", "lora", "--task", "medqa", "--data", "sample", "--limit", "8",
             "--model", model, "--results", str(results), f"--set=train.schedule={schedule}",
             *(f"--set={option}" for option in OPTIONS)]  # fmt: skip
    alive, held = os.pipe()  # at its end when the launcher and its run are both gone
    launcher = os.fork()
    if launcher == 0:
        os.close(alive)
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        Forked.cell = cell
        grid.WarmProcess = Forked  # type: ignore[assignment,misc]
        code = 1
        try:
            code = cli.main(words)
        finally:
            os._exit(code)
    os.close(held)
    os.read(alive, 1)
    os.close(alive)
    return os.waitstatus_to_exitcode(os.waitpid(launcher, 0)[1])


def left(results: Path) -> dict[str, Any]:
    """All of a run that must be the same however often it was stopped."""
    (folder,) = (path for path in results.iterdir() if not path.name.startswith("."))
    record = json.loads((folder / "record.json").read_text())
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    cost = record["cost"]
    return {
        "status": record["status"],
        "scores": record["scores"],
        "predictions": pq.read_table(folder / "predictions.parquet").to_pylist(),
        "steps": [{key: value for key, value in step.items() if key != "seconds"} for step in steps],
        "weights": {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()},
        "cost": [cost[key] for key in ("train_steps", "train_tokens", "train_flops", "adapter_bytes")],
        "files": sorted(path.name for path in folder.iterdir()),
    }


def wrong(cell: Cell, model: str, expected: dict[str, Any], root: Path) -> list[str]:
    """What differs, once the same command was given again; empty where all is as it should be."""
    root.mkdir()
    results, log = root / "runs", root / "log.txt"
    command(model, results, cell[3], cell, log)
    if not (root / STOPPED).exists():
        return ["it was not stopped"]
    code = command(model, results, cell[3], None, log)
    if code != 0:
        return [f"exit code {code}: {log.read_text()[-2000:]}"]
    found = left(results)
    return [name for name, value in expected.items() if found[name] != value]


# ---- the table


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, values in (
        ("phases", list(PHASES)),
        ("signals", SIGNALS),
        ("targets", TARGETS),
        ("schedules", SCHEDULES),
    ):
        parser.add_argument(f"--{name}", default=",".join(values), help="comma list; default: all")
    parser.add_argument("--model", help="a folder with a tiny model; default: one is made")
    parser.add_argument("--json", action="store_true", help="a line a cell")
    args = parser.parse_args()
    chosen = [getattr(args, name).split(",") for name in ("phases", "signals", "targets", "schedules")]
    # Started in the background of a shell, or by nohup, where these are ignored, and so in every child.
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
    torch.set_num_threads(1)
    importlib.import_module(run_module.TRAINING)  # once, for all forks
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["MEDTUNE_CACHE"] = str(root / "cache")
        model = args.model or str(tiny_model(root / "tiny"))
        outcomes = dict(table(chosen, model, root, as_json=args.json))
    if not args.json:
        show(outcomes, chosen)
    return int(any(outcomes.values()))


def table(
    chosen: list[list[str]], model: str, root: Path, *, as_json: bool
) -> Iterator[tuple[Cell, list[str]]]:
    expected = {}
    for schedule in chosen[3]:
        results = root / schedule
        if command(model, results, schedule, None, root / "log.txt") != 0:
            raise SystemExit((root / "log.txt").read_text()[-3000:])
        expected[schedule] = left(results)
    for i, words in enumerate(itertools.product(*chosen)):
        cell = Cell(words)
        faults = wrong(cell, model, expected[cell[3]], root / f"cell{i}")
        if as_json:
            print(json.dumps({"cell": cell, "wrong": faults}), flush=True)
        elif faults:
            print(", ".join(cell), "->", ", ".join(faults), file=sys.stderr, flush=True)
        yield cell, faults


def show(outcomes: dict[Cell, list[str]], chosen: list[list[str]]) -> None:
    phases, signals, targets, schedules = chosen
    columns = list(itertools.product(targets, signals))
    print(f"{'':24}" + "".join(f"{f'{target} {number}':>18}" for target, number in columns))
    for phase in phases:
        cells = [
            [Cell((phase, number, target, schedule)) for schedule in schedules] for target, number in columns
        ]
        words = ["/".join("WRONG" if outcomes[cell] else "same" for cell in group) for group in cells]
        print(f"{phase:24}" + "".join(f"{word:>18}" for word in words))
    bad = sum(map(bool, outcomes.values()))
    print(f"{len(outcomes)} cells ({'/'.join(schedules)}), {bad} wrong")


def tiny_model(folder: Path) -> Path:
    """A random Llama of 2 layers and a byte-level tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        ["Question: Which organ? Answer: A"],
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=1024
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        vocab_size=len(tokenizer), max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
