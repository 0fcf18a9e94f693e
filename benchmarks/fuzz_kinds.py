"""The kinds of input of benchmarks/fuzz.py: how each is made from a valid one, and what is done with it."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_inputs import (
    TEXTS,
    changed,
    changed_bytes,
    changed_json,
    changed_text,
    changed_words,
    dumped,
    odd_value,
)
from pydantic import Field
from report_scale import write_runs

from harness.ask.study import parse_grid
from harness.cli import main
from harness.contracts import DataSource, Strategy
from harness.escape import github_line, github_message, github_property, markdown, plain, xml
from harness.evidence.outcomes import groups
from harness.evidence.rows import row_of
from harness.evidence.saved import _digest as digest_of
from harness.evidence.saved import save
from harness.evidence.sides import from_store
from harness.io.hashes import _recall as recall
from harness.io.lock import locked
from harness.io.terminal import OBEYED, harmless
from harness.launch.process import Follower
from harness.launch.progress import PlainDisplay
from harness.plan.trials import read_tuning
from harness.registry import load_registry
from harness.render.clean import csv_cell, latex
from harness.store.runs import Store

Random = random.Random
COMMANDS = (
    "run --strategy lora --task medqa --seed 0,1 --set train.max_steps=5 --set strategy.r=8 --data sample --dry-run",
    "run --strategy zero-shot,few-shot --task medqa,pubmedqa --scoring letter --shots 2 --limit 5 --data sample --dry-run",
    "run --strategy qlora --set strategy.r=4 --task medqa --data sample --tune 3 --json --dry-run",
    "run --strategy full --task pubmedqa --processes 2 --parallel 2 --engine plain --timeout 9 --data sample --dry-run --quiet",
    "list", "list runs", "list strategies -v", "list tasks --json", "show medqa-lora", "show medqa --json",
    "report", "report --format csv --task medqa", "report --reference lora --margin 1 --no-verdicts",
    "compare lora full --task medqa", "compare lora full --seed 0 --margin 3 --format json",
    "check --baseline lora --candidate full --task medqa", "check --baseline lora --candidate full --gates quality --format junit",
)  # fmt: skip
STUDY = """name: lora against full
grid: {strategy: [full, lora], task: [medqa, pubmedqa], model: smollm2-135m, seed: [0, 1, 2]}
set: {train.max_steps: 200, train: {epochs: 1.5}}
per_strategy:
  lora: {strategy.r: 8, train.learning_rate: 1e-4}
pairs:
  - {strategy: lora, strategy.r: 8, train.learning_rate: 1e-4}
  - {strategy: lora, strategy.r: &r 64, strategy.alpha: *r}
scoring: cloze
shots: 0
limit: 5
data: sample
"""
PLUGIN = """from typing import ClassVar
from pydantic import Field, field_validator
from harness.contracts import Metric, Strategy, Task
class Mine(Strategy):
    name = "mine"
    summary = "for a test"
    source = "none"
    default_learning_rate: ClassVar[float | None] = 1e-3
    default_engine: ClassVar = "plain"
    default_shots: ClassVar = 0
    packages: ClassVar = ()
    r: int = Field(4, ge=1, description="rank")
    @field_validator("r")
    @classmethod
    def check(cls, value):
        return value
    def learning_rate_default(self):
        return 1e-3
    def adapt(self, model):
        return model
"""
CODE = (
    *TEXTS, "raise SystemExit(0)", "raise KeyboardInterrupt", "1/0", "float('nan')", "10**400", "object()", "None", "'x'",
    "import os; os.chdir('/')", "raise UserWarning('w')", "import no_such_module", "(", "return", "lambda: 0", "print('\x1b[2J')",
    "class Mine: ...", "'lora'", "True", "()", "[]", "Strategy", "Task", "raise MemoryError", "raise RecursionError", "\0",
)  # fmt: skip
SETTINGS = (
    "train.learning_rate=1e-4", "train.max_steps=5", "strategy.r=8", "strategy.target_modules=[q_proj, v_proj]",
    "model.dtype=float32", "engine.zero_stage=3", "train.packing=on", "model.max_length=512", "strategy.config={a: 1, b: [x]}", "strategy.layers=[1, 2]",
    "strategy.share=0.1", "strategy.config.a.b=x",
)  # fmt: skip
EVENTS = (
    {"event": "phase", "name": "train"}, {"event": "notice", "text": "a note"},
    {"event": "step", "step": 1, "of": 2, "loss": 1.5, "tokens_per_second": 10.0, "memory_bytes": 2**30, "memory_kind": "host",
     "seconds_left": 1},
    {"event": "progress", "phase": "evaluate", "done": 3, "of": 9, "seconds_left": 2.5},
)  # fmt: skip
ROW = {
    "question": "Which vitamin?", "answer": "C", "options": {"A": "A", "B": "B", "C": "C", "D": "D"}, "answer_idx": "C",
    "meta_info": "step1",
}  # fmt: skip


class Anything(Strategy):
    """Settings of all types. PEFT's own, which has such, imports torch to look at them."""

    name: ClassVar[str] = "anything"
    summary: ClassVar[str] = "for the fuzzer"
    source: ClassVar[str] = "none"
    default_learning_rate: ClassVar[float | None] = 1e-3

    config: dict[str, Any] = Field(default_factory=dict)
    layers: list[int] | None = None
    share: float = 0.5

    def adapt(self, model: Any) -> Any:
        return model


class Wrong(Exception):  # noqa: N818 - it is no error of the program under test
    """What came out is not what may."""


@dataclass(frozen=True)
class Kind:
    """share: of all inputs. make gives an input, use hands it to the program and returns its exit code."""

    share: float
    make: Callable[[Random], Any]
    use: Callable[[Any], int]


@dataclass
class Bench:
    """The folder that the inputs are put in, with valid runs and data to start from."""

    folder: Path
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.results = self.folder / "runs"
        write_runs(self.results, 20, 8, 2)
        self.registry = load_registry()
        self.registry.strategies[Anything.name] = Anything
        self.names = sorted(path.name for path in self.results.iterdir())
        (self.folder / "medqa").mkdir()
        (self.folder / "pubmedqa").mkdir()

    def kinds(self) -> dict[str, Kind]:
        return {
            "words": Kind(0.02, self._words, self._main),
            "settings": Kind(0.15, self._setting, self._grid),
            "study": Kind(0.05, lambda rng: changed_text(rng, STUDY), self._study),
            "plugin": Kind(0.015, lambda rng: changed_text(rng, PLUGIN, CODE), self._plugin),
            "medqa": Kind(0.12, self._medqa_rows, self._medqa),
            "pubmedqa": Kind(0.12, self._pubmedqa_rows, self._pubmedqa),
            "runs": Kind(0.2, self._run_files, self._read_runs),
            "looking": Kind(0.003, self._run_files, self._look),
            "predictions": Kind(0.003, self._table, self._predictions),
            "baseline": Kind(0.01, self._baseline, self._check_baseline),
            "events": Kind(0.12, self._events, self._follow),
            "lock": Kind(0.05, lambda rng: changed_bytes(rng, b"123 456\n"), self._lock),
            "cache": Kind(0.06, lambda rng: changed_json(rng, {"sha256": "0" * 64}), self._cache),
            "escape": Kind(0.12, lambda rng: "".join(rng.choice(TEXTS) + chr(rng.randrange(0x2100)) for _ in range(4)), _escape),
        }  # fmt: skip

    # --- the command line, studies and plugins ---

    def _words(self, rng: Random) -> list[str]:
        return changed_words(rng, rng.choice(COMMANDS).split())

    def _main(self, words: list[str]) -> int:
        if words and words[0] == "run" and "--dry-run" not in words:
            words = [*words, "--dry-run"]
        for option in ("--out", "--save"):  # nothing is written outside
            words = [word for word in words if not word.startswith(option)]
        if "--results" not in words and len(words) > 1:
            words = [*words, "--results", str(self.results)]
        return main(words)

    def _setting(self, rng: Random) -> list[str]:
        key, _, value = rng.choice(SETTINGS).partition("=")
        odd = odd_value(rng)
        text = odd if isinstance(odd, str) else json.dumps(odd)
        shown = (f"{key}={text}", f"{key}={changed_text(rng, value)}", f"{changed_text(rng, key)}={value}")
        return ["--set", rng.choice(shown), *(["--set", rng.choice(SETTINGS)] if rng.random() < 0.3 else [])]

    def _grid(self, words: list[str]) -> int:
        from harness.cli import make_parser

        start = ["run", "--strategy", "lora,full,anything", "--task", "medqa", "--data", "sample"]
        return len(parse_grid(make_parser().parse_args([*start, *words]), self.registry)) and 0

    def _study(self, text: str) -> int:
        from harness.cli import make_parser

        path = self.folder / "study.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return len(parse_grid(make_parser().parse_args(["run", "--study", str(path)]), self.registry)) and 0

    def _plugin(self, text: str) -> int:
        from harness.cli import make_parser

        path = self.folder / "plugin.py"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            registry = load_registry([path])
            words = [
                "run",
                "--strategy",
                "mine",
                "--task",
                "medqa",
                "--data",
                "sample",
                "--set",
                "strategy.r=2",
            ]
            return len(parse_grid(make_parser().parse_args(words), registry)) and 0
        finally:
            for name in [name for name in sys.modules if name.startswith("medtune_plugin_")]:
                del sys.modules[name]

    # --- data ---

    def _medqa_rows(self, rng: Random) -> bytes:
        rows = [{**ROW, "question": f"{n}: {ROW['question']}"} for n in range(6)]
        at = rng.randrange(6)
        lines = [json.dumps(row).encode() for row in rows]
        lines[at] = changed_json(rng, rows[at]).replace(b"\n", b" " if rng.random() < 0.7 else b"\n")
        return b"\n".join(lines) if rng.random() < 0.9 else changed_bytes(rng, b"\n".join(lines))

    def _medqa(self, content: bytes) -> int:
        for part in ("train", "validation", "test"):
            (self.folder / "medqa" / f"{part}.jsonl").write_bytes(content)
        return self._load("medqa")

    def _pubmedqa_rows(self, rng: Random) -> tuple[bytes, bytes]:
        labels = ("yes", "no", "maybe")
        rows = {
            str(n): {
                "QUESTION": f"Is {n}?",
                "CONTEXTS": ["a", "b"],
                "LONG_ANSWER": "x",
                "final_decision": labels[n % 3],
            }
            for n in range(6)
        }
        test: Any = {str(n): labels[n % 3] for n in range(2)}
        if rng.random() < 0.7:
            return changed_json(rng, rows), json.dumps(test).encode()
        return json.dumps(rows).encode(), changed_json(rng, test)

    def _pubmedqa(self, content: tuple[bytes, bytes]) -> int:
        for name, text in zip(("ori_pqal.json", "test_ground_truth.json"), content, strict=True):
            (self.folder / "pubmedqa" / name).write_bytes(text)
        return self._load("pubmedqa")

    def _load(self, name: str) -> int:
        task = self.registry.task(name)()
        splits = task.load(DataSource("dir", self.folder))
        for example in (*splits.train, *splits.test):
            task.prompt(example, "letter").encode()
            task.choices(example, "cloze")
        return 0

    # --- results ---

    def _run_files(self, rng: Random) -> tuple[str, dict[str, bytes], list[str]]:
        """A run, its changed files, and a command that looks at them."""
        name = rng.choice(self.names)
        folder = self.results / name
        files: dict[str, bytes] = {}
        if rng.random() < 0.8:
            files["record.json"] = changed_json(rng, json.loads((folder / "record.json").read_text()))
        if rng.random() < 0.2:
            files["spec.json"] = changed_json(rng, json.loads((folder / "spec.json").read_text()))
        if rng.random() < 0.2:
            trial = {"run_id": "r", "learning_rate": 1e-3, "status": "ok", "accuracy": {"value": 0.5, "n": 8}}
            files["tuning.json"] = changed_json(rng, {"centre": 1e-3, "chosen": 1e-3, "trials": [trial]})
        if rng.random() < 0.2:
            lines = [{"step": n, "loss": 1.0, "learning_rate": 1e-3} for n in range(5)]
            files["steps.jsonl"] = b"\n".join(changed_json(rng, line) for line in lines)
        strategy = name.split("-")[1]
        commands = (
            "list runs", "report", "report --format markdown", "report --format csv", "report --format latex",
            "report --format html", "report --format json", f"show {name}", f"show {name} --json",
            f"compare {name} {self.names[0]}", f"check --baseline {name} --candidate {self.names[1]}",
            f"compare {strategy} full --task medqa",
        )  # fmt: skip
        return name, files, rng.choice(commands).split()

    @contextlib.contextmanager
    def _changed_run(self, name: str, files: dict[str, bytes]) -> Any:
        folder = self.results / name
        before = {file: (folder / file).read_bytes() for file in files if (folder / file).exists()}
        for file, content in files.items():
            (folder / file).write_bytes(content)
        try:
            yield folder
        finally:
            for file in files:
                (folder / file).unlink()
            for file, content in before.items():
                (folder / file).write_bytes(content)

    def _read_runs(self, made: tuple[str, dict[str, bytes], list[str]]) -> int:
        """What every command begins with, on the changed run: is it there, what is it, how was it tuned."""
        name, files, _ = made
        store = Store(self.results)
        with self._changed_run(name, files) as folder:
            if store.state(name) != "unfinished":
                record = store.record(name)
                row_of(record)
                groups([record])
            else:
                store.spec(name)
            read_tuning(folder)
        return 0

    def _look(self, made: tuple[str, dict[str, bytes], list[str]]) -> int:
        name, files, words = made
        with self._changed_run(name, files):
            code = main([*words, "--results", str(self.results)])
        if words[0] in ("list", "report") and code != 0:
            raise Wrong(f"{words}: one run out of {len(self.names)} ended the command with exit code {code}")
        return code

    def _table(self, rng: Random) -> Any:
        """Predictions with a column changed, or the file's bytes."""
        content = (self.results / self.names[0] / "predictions.parquet").read_bytes()
        if rng.random() < 0.4:
            return changed_bytes(rng, content)
        table = pq.read_table(pa.BufferReader(content))
        try:
            for _ in range(rng.choice((1, 2))):
                at = rng.randrange(table.num_columns)
                name = table.column_names[at]
                values = table.column(at).to_pylist()
                values = [odd_value(rng) for _ in values] if rng.random() < 0.5 else changed(rng, values)
                column = pa.array(values if rng.random() < 0.5 else [values[0]] * len(table))
                table = table.remove_column(at)
                if rng.random() < 0.9:
                    table = table.add_column(at, rng.choice((name, name, name, "correct")), column)
            out = io.BytesIO()
            pq.write_table(table.slice(0, rng.choice((0, 3, 8, 8, 8))), out)
        except (pa.ArrowException, OverflowError, LookupError, TypeError, ValueError):
            return changed_bytes(rng, content)  # no column can be made of it
        return out.getvalue()

    def _predictions(self, content: bytes) -> int:
        name, form = self.names[0], "html" if len(content) % 4 == 0 else "json"
        with self._changed_run(name, {"predictions.parquet": content}):
            return main(["report", "--format", form, "--task", "medqa", "--results", str(self.results)])

    def _baseline(self, rng: Random) -> bytes:
        if not self.record:
            store = Store(self.results)
            side = from_store(store, groups([store.record(self.names[0])])[0])
            save(self.folder / "baseline.json", side)
            self.record = json.loads((self.folder / "baseline.json").read_text())
        value = changed(rng, self.record)
        if isinstance(value, dict) and rng.random() < 0.8:  # past the check of its hash
            value.pop("sha256", None)
            value["sha256"] = digest_of(value)
        return dumped(value) if rng.random() < 0.9 else changed_bytes(rng, dumped(value))

    def _check_baseline(self, content: bytes) -> int:
        path = self.folder / "changed.json"
        path.write_bytes(content)
        words = [
            "check",
            "--baseline",
            str(path),
            "--candidate",
            self.names[0],
            "--results",
            str(self.results),
        ]
        return main(words)

    # --- what a run leaves for others ---

    def _events(self, rng: Random) -> bytes:
        return b"\n".join(changed_json(rng, rng.choice(EVENTS)) for _ in range(4)) + b"\n"

    def _follow(self, content: bytes) -> int:
        path = self.folder / "events.jsonl"
        path.unlink(missing_ok=True)
        follower = Follower(path)
        path.write_bytes(content)
        with PlainDisplay("run", sys.stderr) as display:
            for event in follower.read():
                display(event)
        return 0

    def _lock(self, content: bytes) -> int:
        path = self.folder / "lock"
        path.write_bytes(content)
        with locked(path):
            path.write_bytes(content)
            with locked(path):
                raise Wrong("locked twice")

    def _cache(self, content: bytes) -> int:
        path = self.folder / "memo.json"
        path.write_bytes(content)
        found = recall(path)
        if found is not None and (len(found) != 64 or set(found) - set("0123456789abcdef")):
            raise Wrong("the cache gave something else for a hash")
        return 0


def _escape(text: str) -> int:
    for shown in (
        plain(text),
        markdown(text),
        github_line(text),
        github_property(text),
        csv_cell(text),
        latex(text),
    ):
        if OBEYED.search(shown) or "\n" in shown:
            raise Wrong(f"{shown!r}")
    for shown in (harmless(text), xml(text), github_message(text)):
        if OBEYED.search(shown):
            raise Wrong(f"{shown!r}")
    return 0
