"""A study file into the same specs as a command line, with every problem at once and where it is."""

from __future__ import annotations

from itertools import chain

import pytest
from stubs import PLUGIN, ROOT

from harness.ask.study import parse_grid
from harness.cli import make_parser
from harness.errors import UsageError


@pytest.fixture
def study(tmp_path, stub_registry):
    """Specs of a study file's text; more words are options of the command."""

    def read(text, *words, notify=None):
        path = tmp_path / "study.yaml"
        path.write_text(text)
        args = make_parser().parse_args(["run", "--study", str(path), *words])
        return parse_grid(args, stub_registry, notify)

    return read


@pytest.fixture
def problems(study, tmp_path):
    def call(text, *words):
        with pytest.raises(UsageError) as caught:
            study(text, *words)
        assert caught.value.exit_code == 2
        return str(caught.value).replace(f"{tmp_path}/", "")

    return call


BASE = "grid: {strategy: stub-tune, task: stub-task}\ndata: sample\n"


# --- the same as a command line -----------------------------------------------------------------


def test_the_same_specs_as_the_command(study, grid):
    text = """
name: all of it
grid:
  strategy: [stub-tune, stub-zero]
  task: [stub-task, stub-other]
  model: [smollm2-135m, smollm2-360m]
  seed: [0, 2]
set:
  train.learning_rate: 1e-4
  strategy.config: {a: no}
  model.dtype: float32
  train: {max_steps: 5}
scoring: letter
limit: 7
data: sample
"""
    assert study(text) == grid(
        "--strategy", "stub-tune,stub-zero", "--task", "stub-task,stub-other", "--seed", "0,2",
        "--model", "smollm2-135m,smollm2-360m", "--scoring", "letter", "--limit", "7",
        "--set", "train.learning_rate=1e-4", "--set", "strategy.config={a: no}", "--set", "model.dtype=float32",
        "--set", "train.max_steps=5",
    )  # fmt: skip


def test_defaults_are_the_commands(study, grid):
    assert study(BASE) == grid()


def test_plugins_of_the_file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(f"{BASE}plugins: {PLUGIN}\n")
    (spec,) = parse_grid(make_parser().parse_args(["run", "--study", str(path)]))
    assert spec.strategy.name == "stub-tune"


# --- per strategy and pairs ---------------------------------------------------------------------


def test_per_strategy_goes_over_set(study):
    tune, rule = study("""
grid: {strategy: [stub-tune, stub-rule], task: stub-task}
set: {strategy.r: 2, train.learning_rate: 1e-3}
per_strategy:
  stub-rule: {strategy.r: 4, train.learning_rate: 1e-4}
data: sample
""")
    assert (tune.strategy.settings["r"], tune.train.learning_rate) == (2, 1e-3)
    assert (rule.strategy.settings["r"], rule.train.learning_rate) == (4, 1e-4)


def test_pairs_go_together_and_with_the_grid(study):
    specs = study("""
grid: {strategy: [stub-zero, stub-tune], task: stub-task, seed: [0, 1]}
pairs:
  - {strategy: stub-tune, strategy.r: 8, train.learning_rate: 1e-4}
  - {strategy: stub-tune, strategy.r: 64, train.learning_rate: 5e-5, seed: 7}
  - {strategy: stub-rule, task: stub-other}
data: sample
""")
    found = [
        (s.task.name, s.strategy.name, s.strategy.settings.get("r"), s.train.learning_rate, s.seed)
        for s in specs
    ]
    assert found == [
        ("stub-task", "stub-zero", None, None, 0), ("stub-task", "stub-tune", 8, 1e-4, 0),
        ("stub-task", "stub-tune", 8, 1e-4, 1),
        ("stub-task", "stub-tune", 64, 5e-5, 7),
        ("stub-other", "stub-rule", 8, 0.04, 0), ("stub-other", "stub-rule", 8, 0.04, 1),
    ]  # fmt: skip


def test_a_pair_without_a_strategy_is_for_all(study):
    specs = study("""
grid: {strategy: [stub-tune, stub-rule], task: stub-task}
pairs: [{train.max_steps: 5, train.batch_size: 8}, {train: {max_steps: 10, batch_size: 4}}]
data: sample
""")
    assert [(s.strategy.name, s.train.max_steps, s.train.batch_size) for s in specs] == [
        ("stub-tune", 5, 8), ("stub-tune", 10, 4), ("stub-rule", 5, 8), ("stub-rule", 10, 4),
    ]  # fmt: skip


def test_pairs_may_name_all_strategies_and_tasks(study):
    (spec,) = study("pairs: [{strategy: stub-tune, task: stub-other}]\ndata: sample\n")
    assert (spec.task.name, spec.strategy.name) == ("stub-other", "stub-tune")


def test_a_setting_no_run_of_its_own_has_is_a_problem(problems, study):
    text = "grid: {strategy: [stub-tune, stub-zero], task: stub-task}\ndata: sample\n"
    assert len(study(text + "set: {strategy.r: 3}\n")) == 2
    assert "study.yaml:4: strategy.r: unknown setting 'r' (stub-zero has: no settings)" in problems(
        text + "per_strategy:\n  stub-zero: {strategy.r: 3}\n"
    )


def test_zero_settings_are_for_those_on_deepspeed(problems, study):
    text = "grid: {strategy: [stub-deep, stub-tune], task: stub-task}\ndata: sample\n"
    deep, tune = study(text + "set: {engine.zero_stage: 3}\n")
    assert (deep.engine.zero_stage, tune.engine.zero_stage) == (3, 2)
    text = problems(BASE + "set: {engine.zero_stage: 3}\n")
    assert "study.yaml:3: engine.zero_stage has no effect on the plain engine" in text


# --- options over the file ----------------------------------------------------------------------

FULL = """
grid: {strategy: [stub-tune, stub-rule], task: stub-task, seed: [0, 1]}
set: {train.learning_rate: 1e-4, strategy.config.b.c: 5}
per_strategy: {stub-tune: {train.learning_rate: 1e-5}}
pairs: [{strategy: stub-rule, strategy.r: 4, seed: 9}, {strategy: stub-zero}]
limit: 5
data: sample
"""


def test_options_replace_what_the_file_says(study):
    specs = study(FULL, "--set", "train.learning_rate=2e-3", "--limit", "3", "--seed", "4")
    assert {s.train.learning_rate for s in specs if s.strategy.name != "stub-zero"} == {2e-3}
    assert {s.task.limit for s in specs} == {3}
    assert {s.seed for s in specs if s.strategy.name != "stub-zero"} == {4}


def test_a_strategy_option_takes_only_those(study):
    specs = study(FULL, "--strategy", "stub-rule,stub-picky")
    assert [(s.strategy.name, s.strategy.settings["r"], s.seed) for s in specs] == [
        ("stub-rule", 4, 9), ("stub-picky", 8, 0), ("stub-picky", 8, 1),
    ]  # fmt: skip


def test_a_group_given_as_an_option_replaces_what_lies_below_it(study):
    specs = study(FULL, "--strategy", "stub-tune", "--set", "strategy.config={x: 1}", "--seed", "0")
    assert specs[0].strategy.settings["config"] == {"x": 1}
    (below,) = study(FULL, "--strategy", "stub-tune", "--set", "strategy.config.a=2", "--seed", "0")
    assert below.strategy.settings["config"] == {"a": 2, "b": {"c": 5}}


def test_data_and_tune(study, tmp_path, problems):
    data = tmp_path / "data"
    data.mkdir()
    assert study(FULL, "--data", str(data))[0].task.source == str(data)
    assert "tune: expected a whole number from 1 to 100, got 0" in problems(BASE + "tune: 0\n")


# --- problems -----------------------------------------------------------------------------------


def test_all_problems_at_once_with_their_lines(problems):
    text = problems("""nam: x
grid:
  strategy: [stub-tun, stub-tune]
  task: stub-tsk
  model: [smollm-135m, 7]
  seed: [0, x, 1.5, yes, -1]
  epochs: 3
set:
  train.learning_rat: 1
  trian.epochs: 1
  strategy.rank: 1
  train.epochs: -1
  model.dtype: int3
  batch_size: 3
  task.name: y
  train.schedule: steep
per_strategy:
  lora8: {strategy.r: 8}
  stub-tune: {strategy.r: many}
pairs: {strategy: lora}
scoring: leter
shots: two
limit: 1e3
engine: [plain]
data: sample
data: hub
""")
    for expected in (
        "study.yaml:1: unknown key 'nam'; did you mean 'name'?",
        "study.yaml:3: unknown strategy 'stub-tun'; did you mean 'stub-tune'?",
        "study.yaml:4: unknown task 'stub-tsk'; did you mean 'stub-task'?",
        "study.yaml:5: unknown model 'smollm-135m'; did you mean 'smollm2-135m'?",
        "study.yaml:5: model: expected a name (in quotes if it is a number), got 7",
        "study.yaml:6: seed: expected a whole number, got x",
        "study.yaml:6: seed: expected a whole number, got 1.5",
        "study.yaml:6: seed: expected a whole number, got yes",
        "study.yaml:6: seed -1: expected a whole number from 0",
        "study.yaml:7: unknown key 'epochs'",
        "study.yaml:9: train.learning_rat: unknown setting 'learning_rat'; did you mean 'learning_rate'?",
        "study.yaml:10: trian.epochs: unknown section 'trian'; did you mean 'train'?",
        "study.yaml:11: strategy.rank: unknown setting 'rank'",
        "study.yaml:12: train.epochs=-1: should be greater than 0",
        "study.yaml:13: model.dtype=int3: should be",
        "study.yaml:14: batch_size: settings have a section; did you mean train.batch_size?",
        "study.yaml:15: task.name: give it under grid: task",
        "study.yaml:16: train.schedule=steep: should be",
        "study.yaml:18: per_strategy: unknown strategy 'lora8'",
        "study.yaml:19: strategy.r=many: should be a valid integer",
        "study.yaml:20: pairs: expected a list of mappings",
        "study.yaml:21: task.scoring=leter: should be 'letter' or 'cloze'",
        "study.yaml:22: shots: expected a whole number, got two",
        "study.yaml:23: limit: expected a whole number, got 1000.0",
        "study.yaml:24: engine: expected the name of an engine",
        "study.yaml:26: 'data' is given twice",
    ):
        assert expected in text, text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "study.yaml: empty"),
        ("# nothing\n", "study.yaml: empty"),
        ("- a\n", "study.yaml:1: a study is a mapping"),
        ("grid: {strategy: [a\n", "not YAML"),
        ("a: 1\n\tb: 2\n", "study.yaml:2: not YAML"),
        ("a: 1\n---\nb: 2\n", "study.yaml:2: not YAML: but found another document"),
        (BASE + "set: {train.batch_size: true}\n", "study.yaml:3: train.batch_size=true: should be a number"),
        (BASE + "name: !!python/object/apply:os.getpid []\n", "study.yaml:3: not YAML"),
        (BASE + "set: [1]\n", "study.yaml:3: expected a mapping such as"),
        (BASE + "grid: []\n", "'grid' is given twice"),
        ("grid: []\n", "grid: expected a mapping with the keys"),
        ("grid: {strategy: [], task: stub-task}\n", "strategy: an empty list"),
        ("grid: {strategy: 'stub-tune,stub-rule', task: stub-task}\n", "write a list: [stub-tune, stub-rule]"),
        (BASE + "set: {3: 1}\n", "expected a name as the key"),
        (BASE + "set: {train.epochs: 1, train.epochs: 2}\n", "'train.epochs' is given twice"),
        (BASE + "set: {train.epochs: 1, train: {epochs: 2}}\n", "train.epochs is given twice"),
        (BASE + "set: {task.shots: 1}\nshots: 2\n", "task.shots is given twice: "),
        (BASE + "shots: 5\nset: {strategy.scale.x: 1}\n", "strategy.scale of stub-tune is one value, not a group"),
        (BASE + "pairs: [3]\n", "pairs: expected a mapping of values that go together"),
        ("data: nowhere\ngrid: {strategy: stub-tune, task: stub-task}\n", "study.yaml:1: "),
        ("data: sample\n", "--strategy is missing"),
    ],
)  # fmt: skip
def test_one_problem(problems, text, expected):
    assert expected in problems(text)


def test_files_that_cannot_be_read(tmp_path, stub_registry):
    (tmp_path / "latin").write_bytes(b"name: \xe9\n")
    for name, expected in (
        ("none", "No such file"),
        (".", "is a folder, expected a file"),
        ("latin", "not UTF-8"),
    ):
        args = make_parser().parse_args(["run", "--study", str(tmp_path / name)])
        with pytest.raises(UsageError, match=expected):
            parse_grid(args, stub_registry)


# --- YAML's traps -------------------------------------------------------------------------------


def test_scalars_are_those_of_yaml_1_2(study):
    (spec,) = study(
        BASE + "set: {train.learning_rate: 1e-4, strategy.config: {a: no, b: 1:30, c: on, d: 0o7}}\n"
    )
    assert spec.train.learning_rate == 1e-4
    assert spec.strategy.settings["config"] == {"a": "no", "b": "1:30", "c": "on", "d": "0o7"}


def test_null_is_not_given(study, grid):
    assert study(BASE + "scoring:\nlimit: null\nset:\npairs: ~\n") == grid()


def test_a_byte_order_mark_and_anchors(study):
    text = "\ufeff" + BASE + "set: &all {train.max_steps: 4}\nper_strategy: {stub-tune: *all}\n"
    assert study(text)[0].train.max_steps == 4


def test_what_has_no_effect_is_told_with_its_line(study, tmp_path):
    told = []
    study(
        "grid: {strategy: stub-zero, task: stub-task}\ndata: sample\nset: {train.max_steps: 4, model.dtype: float32}\n",
        notify=told.append,
    )
    assert told == [f"{tmp_path}/study.yaml:3: train.max_steps has no effect: stub-zero does not train"]


def test_every_run_once(study):
    specs = study(BASE + "pairs: [{strategy.r: 8}, {train.max_steps: null}, {strategy.r: 9}]\n")
    assert [s.strategy.settings["r"] for s in specs] == [8, 9]
    assert len(set(chain(s.run_id for s in specs))) == 2


def test_the_example_of_the_documentation(tmp_path):
    text = (ROOT / "docs" / "grids.md").read_text(encoding="utf-8")
    path = tmp_path / "study.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    specs = parse_grid(make_parser().parse_args(["run", "--study", str(path)]))
    assert len(specs) == 18
    assert [s.strategy.settings["r"] for s in specs if s.strategy.name == "lora"][:4] == [8, 8, 8, 64]
