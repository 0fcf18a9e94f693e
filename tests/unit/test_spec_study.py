"""A command line into specs: defaults, grids, identity, and every problem at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stubs import PLUGIN, parse

from harness.ask.settings import format_value, parse_value
from harness.ask.sources import resolve_source
from harness.ask.study import parse_grid
from harness.errors import MissingDependencyError, UsageError
from harness.io.hub_cache import hub_cache
from harness.model_names import CARDS, resolve_model_name
from harness.plan.preflight import check_packages
from harness.registry import load_registry


def problems_of(call, *words):
    with pytest.raises(UsageError) as caught:
        call(*words)
    assert caught.value.exit_code == 2
    return str(caught.value)


# --- defaults written out ---------------------------------------------------------------------


def test_defaults_are_written_out(one):
    spec = one()
    assert spec.model.name == "smollm2-135m"
    assert (spec.task.scoring, spec.task.shots, spec.task.source) == ("cloze", 0, "sample")
    # the stub's 1e-3 times 5, the card's scale for a model as narrow as this one
    assert spec.train.learning_rate == 5e-3
    assert spec.engine.name == "plain"
    assert spec.strategy.settings == {"r": 8, "scale": 1.0, "config": {"a": 1, "b": {"c": 2}}}
    assert [Path(plugin.path).name for plugin in spec.plugins] == ["stub_plugin.py"]


def test_defaults_follow_strategy_and_model(one):
    assert one("--strategy", "stub-rule", "--set", "strategy.r=5").train.learning_rate == 0.025
    assert one("--strategy", "stub-deep").engine.name == "deepspeed"
    assert one("--strategy", "stub-deep", "--engine", "plain").engine.name == "plain"
    assert one("--strategy", "stub-few").task.shots == 3
    assert one("--model", "qwen2.5-7b").task.scoring == "letter"
    assert one("--model", "some/model").task.scoring == "letter"
    assert one("--model", "qwen2.5-7b", "--scoring", "cloze").task.scoring == "cloze"
    assert one("--shots", "2").task.shots == 2
    assert one("--limit", "7").task.limit == 7


def test_a_default_of_deepspeed_gives_way_where_it_is_not_installed(one, monkeypatch):
    """What was asked for, by its name or by a setting of ZeRO, does not: it is refused with a remedy."""
    monkeypatch.setattr("harness.ask.study.is_installed", lambda module: module != "deepspeed")
    assert one("--strategy", "stub-deep").engine.name == "plain"
    assert one("--strategy", "stub-deep", "--engine", "deepspeed").engine.name == "deepspeed"
    assert one("--strategy", "stub-deep", "--set", "engine.zero_stage=3").engine.name == "deepspeed"


def test_deepspeed_asked_for_and_not_installed_is_refused_in_a_line(one, stub_registry, monkeypatch):
    monkeypatch.setattr("harness.plan.preflight.is_installed", lambda module: module != "deepspeed")
    with pytest.raises(MissingDependencyError) as caught:
        check_packages([one("--strategy", "stub-deep", "--engine", "deepspeed")], stub_registry)
    assert "needs deepspeed, which is not installed" in caught.value.message
    assert "\n" not in caught.value.message
    assert "--engine plain" in caught.value.remedy


def test_settings_reach_their_sections(one):
    spec = one(
        "--set", "train.learning_rate=1e-4", "--set", "model.dtype=float32", "--set", "train.epochs=4",
        "--set", "strategy.config.b.c=9", "--set", "strategy.config.new=[1, 1e-3]",
    )  # fmt: skip
    assert spec.train.learning_rate == 1e-4
    assert spec.train.epochs == 4.0
    assert spec.model.dtype == "float32"
    assert spec.strategy.settings["config"] == {"a": 1, "b": {"c": 9}, "new": [1, 0.001]}
    assert one().strategy.settings["config"] == {"a": 1, "b": {"c": 2}}, "a default was changed in place"


def test_grid_order_and_no_duplicates(grid):
    specs = grid(
        "--strategy", "stub-tune,stub-zero,stub-tune", "--seed", "0,1,1", "--task", "stub-task,stub-other"
    )
    assert [(s.task.name, s.strategy.name, s.seed) for s in specs[:5]] == [
        ("stub-task", "stub-tune", 0), ("stub-task", "stub-tune", 1),
        ("stub-task", "stub-zero", 0), ("stub-other", "stub-tune", 0), ("stub-other", "stub-tune", 1),
    ]  # fmt: skip
    assert len(specs) == 6 == len({spec.run_id for spec in specs})


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (("--strategy", "stub-zero"), [0]),
        (("--strategy", "stub-few"), [1, 2]),
        (("--strategy", "stub-zero", "--model", "random:smollm2-135m"), [1, 2]),
    ],
)
def test_what_draws_nothing_is_run_once_for_all_seeds(grid, words, seeds):
    told = []
    specs = grid(*words, "--seed", "1,2", notify=told.append)
    assert [spec.seed for spec in specs] == seeds
    assert any("one run stands for seeds 1, 2" in line for line in told) == (seeds == [0])


def test_models_are_the_second_axis(grid):
    specs = grid("--model", "smollm2-135m,smollm2-360m", "--strategy", "stub-tune,stub-zero")
    assert [s.model.name for s in specs] == ["smollm2-135m"] * 2 + ["smollm2-360m"] * 2


def test_strategy_setting_goes_to_those_that_have_it(grid):
    tune, zero = grid("--strategy", "stub-tune,stub-zero", "--set", "strategy.r=4")
    assert tune.strategy.settings["r"] == 4
    assert zero.strategy.settings == {}


def test_untrained_identity_ignores_training_and_engine(grid, one):
    plain = one("--strategy", "stub-zero")
    told = []
    (other,) = grid(
        "--strategy", "stub-zero", "--set", "train.max_steps=5", "--engine", "deepspeed", notify=told.append
    )
    assert other.run_id == plain.run_id
    assert "has no effect" in told[0]
    batch = one("--strategy", "stub-zero", "--set", "engine.evaluation_batch_tokens=512")
    assert batch.engine.evaluation_batch_tokens == 512


def test_plain_identity_ignores_zero_settings(grid):
    deep, tune = grid("--strategy", "stub-deep,stub-tune", "--set", "engine.zero_stage=3")
    assert (deep.engine.zero_stage, tune.engine.zero_stage) == (3, 2)


# --- problems ---------------------------------------------------------------------------------


def test_all_problems_are_reported_at_once(grid):
    text = problems_of(
        grid, "--strategy", "stub-tun,stub-tune", "--task", "stub-tsk", "--model", "smollm-135m", "--seed", "0,x,-1",
        "--set", "train.learning_rat=1", "--set", "trian.epochs=1", "--set", "strategy.rank=1", "--set", "nonsense",
        "--set", "train.epochs=-1", "--set", "model.dtype=int3", "--set", "strategy.r=many", "--set", "batch_size=3",
        "--set", "strategy.scale.x=1", "--set", "task.name=y", "--set", "train.schedule=[1,", "--shots", "999",
    )  # fmt: skip
    for expected in (
        "unknown strategy 'stub-tun'; did you mean 'stub-tune'?",
        "unknown task 'stub-tsk'; did you mean 'stub-task'?",
        "unknown model 'smollm-135m'; did you mean 'smollm2-135m'?",
        "--seed x: expected a whole number",
        "--seed -1: expected a whole number",
        "unknown setting 'learning_rat'; did you mean 'learning_rate'?",
        "unknown section 'trian'; did you mean 'train'?",
        "--set strategy.rank=1: unknown setting 'rank'",
        "--set nonsense: expected KEY=VALUE",
        "train.epochs=-1: should be greater than 0",
        "model.dtype=int3: should be 'auto', 'bfloat16', 'float16' or 'float32'",
        "strategy.r=many: should be a valid integer",
        "did you mean train.batch_size?",
        "strategy.scale of stub-tune is one value, not a group",
        "--set task.name=y: use --task",
        "--set train.schedule=[1,: cannot read the value",
        "task.shots=999: should be less than or equal to 64",
    ):
        assert expected in text, f"missing: {expected}\n{text}"
    assert text.startswith("17 problems:")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "train.epochs=1", "--set", "train.epochs=4"], "train.epochs is given twice"),
        (["--shots", "1", "--set", "task.shots=2"], "--set task.shots=2 and --shots 1"),
        (["--set", "train.batch_size=true"], "train.batch_size=true: should be a number"),
        (["--set", "train.learning_rate=nan"], "train.learning_rate=nan: should be a finite number"),
        (["--set", "train.learning_rate=1e999"], "train.learning_rate"),
        (["--set", "train.epochs.x=1"], "train.epochs is one value, not a group"),
        (["--set", "train.=1"], "expected train.SETTING=VALUE"),
        (["--set", "task.source=x"], "use --data"),
        (["--set", "engine.zero_stage=3"], "add --engine deepspeed"),
        (["--strategy", "stub-zero", "--shots", "5"], "use --strategy few-shot or stub-few"),
        (["--strategy", "stub-few", "--shots", "0"], "'stub-few' needs worked examples"),
        (["--strategy", "stub-norate"], "'stub-norate' has no default learning rate"),
        (["--strategy", " , "], "--strategy is missing"),
        (["--seed", ""], "--seed is empty"),
        (["--model", ","], "--model is empty"),
        (["--data", "hub"], "has no dataset on the Hub"),
        (["--data", "/no/such/folder"], "there is no such folder"),
        (["--data", str(PLUGIN)], "not a folder"),
        (["--seed", str(2**32)], "expected a whole number"),
    ],
)
def test_one_problem(grid, words, expected):
    assert expected in problems_of(grid, *words)


def test_missing_strategy_and_task_show_an_example(stub_registry):
    args = parse()
    args.strategy = args.task = None
    text = problems_of(parse_grid, args, stub_registry)
    assert "--strategy is missing" in text
    assert "--task is missing" in text
    assert "python -m harness run --strategy lora --task medqa" in text


def test_missing_rate_can_be_given(one):
    assert one("--strategy", "stub-norate", "--set", "train.learning_rate=2e-3").train.learning_rate == 0.002


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), ("3", 3), ("-2.5", -2.5), ("true", True), ("no", "no"), ("null", None), ("", None),
        ("[1e-4, b]", [1e-4, "b"]), ("{a: 1}", {"a": 1}), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("08", "08"),
        ("q_proj", "q_proj"), ("'8'", "8"),
    ],
)  # fmt: skip
def test_values_are_yaml_of_today(raw, value):
    parsed = parse_value(raw)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "value", ["8", "true", "x", "", "a: b", "[", None, 1e-5, 3, True, [1, "2"], {"a": {"b": "1"}}]
)
def test_format_value_is_read_back(value):
    assert parse_value(format_value(value)) == value


# --- models -----------------------------------------------------------------------------------


def test_cards_score_small_models_by_cloze():
    for card in CARDS.values():
        assert card.default_scoring == ("letter" if card.parameters_billion >= 1.5 else "cloze")


def test_model_names(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="no weights"):
        resolve_model_name(str(folder))
    assert resolve_model_name(f"random:{folder}") == f"random:{folder}"
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(UsageError, match="safetensors only"):
        resolve_model_name(str(folder))
    (folder / "model.safetensors").touch()
    assert resolve_model_name(f"{folder}/") == str(folder)
    assert resolve_model_name("random:smollm2-135m") == "random:smollm2-135m"
    assert resolve_model_name("org/name") == "org/name"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lama2-7b", "did you mean 'llama2-7b'?"),
        ("random:lama2-7b", "did you mean 'llama2-7b'?"),
        ("./nowhere", "no such folder"),
        ("a/b/c", "no such folder"),
        ("org/name@main", "model.revision=main"),
        (str(PLUGIN), "is a file"),
        ("random:", "model '': it is empty"),
    ],
)
def test_wrong_model_names(name, expected):
    with pytest.raises(UsageError) as caught:
        resolve_model_name(name)
    assert expected in str(caught.value)


def test_adapter_folder_is_named_as_such(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(UsageError, match="holds an adapter"):
        resolve_model_name(str(tmp_path))


# --- sources ----------------------------------------------------------------------------------


@pytest.fixture
def hub_task(stub_registry, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    return type("HubTask", (stub_registry.tasks["stub-task"],), {"name": "hub-task", "hub_id": "org/data"})


def test_auto_takes_the_sample_loudly(hub_task, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    source, notice = resolve_source("auto", hub_task)
    assert source == "sample"
    assert notice is not None
    assert "NOT THE REAL Stub" in notice
    assert "org/data" in notice
    assert resolve_source("sample", hub_task) == ("sample", None)
    assert resolve_source("hub", hub_task) == ("hub", None)


def test_auto_takes_the_cache_even_offline(hub_task, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source, notice = resolve_source("auto", hub_task)
    assert (source, "HF_HUB_OFFLINE" in str(notice)) == ("sample", True)
    snapshot = hub_cache() / "datasets--org--data" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    assert resolve_source("auto", hub_task)[0] == "sample", "an empty snapshot is no data"
    (snapshot / "data.parquet").touch()
    assert resolve_source("auto", hub_task) == ("hub", None)


def test_auto_asks_the_hub(hub_task, monkeypatch):
    import http.server
    import threading

    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(200 if self.path.endswith("/org/data") else 404)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
            assert resolve_source("auto", hub_task) == ("hub", None)
            gone = type("Gone", (hub_task,), {"hub_id": "org/gone"})
            assert "404" in str(resolve_source("auto", gone)[1])
        finally:
            server.shutdown()
            thread.join()
    assert asked == ["/api/datasets/org/data", "/api/datasets/org/gone"]


def test_notice_of_the_sample_reaches_the_user(grid, tmp_path):
    told = []
    grid("--data", "auto", notify=told.append)
    assert "built-in sample" in told[0]


def test_folder_is_one_source_however_it_is_written(one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    assert one("--data", str(tmp_path)).run_id == one("--data", f"./{tmp_path.name}/").run_id


# --- identity ---------------------------------------------------------------------------------


def test_run_id_is_stable_and_safe(one):
    spec = one("--model", "Org/Some Model".replace(" ", "-"))
    assert spec.run_id == one("--model", "Org/Some-Model").run_id
    assert "/" not in spec.run_id
    assert json.loads(spec.model_dump_json())["task"]["name"] == "stub-task"


def test_every_strategy_that_needs_no_setting_resolves():
    for name in sorted(set(load_registry().strategies) - {"peft"}):
        specs = parse_grid(parse("--strategy", name), load_registry([PLUGIN]))
        assert specs[0].strategy.name == name


def test_a_strategy_that_refuses_its_settings_is_one_of_the_problems(grid):
    text = problems_of(grid, "--strategy", "stub-picky,stub-tun", "--set", "strategy.sure=false")
    assert "stub-picky: not sure" in text
    assert "unknown strategy 'stub-tun'" in text


def test_a_model_whose_size_cannot_be_known_is_said(grid, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = []
    (spec,) = grid("--model", "org/of-unknown-size", notify=said.append)
    assert spec.task.scoring == "letter"
    (line,) = [line for line in said if "of-unknown-size" in line]
    assert "scored by letter unless you give --scoring" in line
