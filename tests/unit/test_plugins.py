"""Plugins that misbehave: one line that names the file and the line, exit code 2, and nothing else happens."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from stored import write_run
from stubs import PLUGIN, ROOT

from harness.cli import main
from harness.errors import UsageError
from harness.registry import load_registry
from harness.spec import PluginSpec, RunSpec

STUB = PLUGIN.read_text()
HEAD = "from harness.contracts import Strategy, Task\nfrom typing import ClassVar\n"


def strategy(*lines: str, name: str = "mine", base: str = "Strategy") -> str:
    own = [f"name = {name!r}", "summary = 's'", "source = 'x'", "default_learning_rate: ClassVar = 1e-3"]
    body = "\n    ".join([*own, "def adapt(self, model):\n        return model", *lines])
    return f"{HEAD}\nclass Mine({base}):\n    {body}\n"


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Runs `run` with a plugin of this text; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(text: str | bytes, *words: str):
        path = tmp_path / "plugin.py"
        if path.is_fifo() or path.is_symlink():
            pass
        else:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        options = [
            "--plugin",
            str(path),
            "--data",
            "sample",
            "--dry-run",
            "--results",
            str(tmp_path / "runs"),
        ]
        code = main(["run", *options, *(words or ("--strategy", "mine", "--task", "medqa"))])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\nsys.exit(0)", "plugin.py:2: ends the program (SystemExit: 0)"),
        ("raise KeyboardInterrupt", "plugin.py:1: KeyboardInterrupt"),
        ("class E(BaseException): ...\nraise E('x')", "plugin.py:2: medtune_plugin_"),
        ("\nraise ValueError('mine')", "plugin.py:2: ValueError: mine"),
        ("class E(Exception):\n    def __str__(self): return 1/0\nraise E()", "plugin.py:3: "),
        ("def (", "plugin.py:1: SyntaxError"),
        (b"x = 1\0", "null bytes"),
        (b"\xff\xfe x", "SyntaxError"),
        ("(" * 5000, "plugin.py"),
        ("import os\nos.chdir('/')", "goes to another folder (os.chdir)"),
        ("import no_such_module_for_medtune", "plugin.py:1: ModuleNotFoundError"),
        ("def f(): f()\nf()", "RecursionError"),
        ("from harness.errors import UsageError\nraise UsageError('no')", "plugin.py: no"),
        (
            "from harness.errors import HarnessError\nclass E(HarnessError):\n    exit_code = 'x'\n"
            "    def __init__(self): pass\nraise E()",
            "plugin.py:5: ",
        ),
        ("x = 1", "defines no strategy, task, probe or engine"),
        ("", "defines no strategy, task, probe or engine"),
    ],
)
def test_a_plugin_that_cannot_be_imported(run, text, said):
    here = os.getcwd()
    code, out, err = run(text)
    assert (code, out) == (2, "")
    assert said in err
    assert f"plugin {Path(here) / 'plugin.py'}" in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2
    assert os.getcwd() == here


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("default_learning_rate: ClassVar = float('nan')", "Mine.default_learning_rate is nan"),
        ("default_learning_rate: ClassVar = '1e-3'", "Mine.default_learning_rate is '1e-3'"),
        ("default_learning_rate: ClassVar = True", "Mine.default_learning_rate is True"),
        ("default_learning_rate: ClassVar = 10 ** 400", "Mine.default_learning_rate is 1000"),
        ("default_engine: ClassVar = 'jax'", "strategy 'mine': unknown engine 'jax'"),
        ("default_engine: ClassVar = 3", "Mine.default_engine is 3: expected the name of an engine"),
        ("default_shots: ClassVar = -1", "Mine.default_shots is -1"),
        ("packages: ClassVar = 'numpy'", "Mine.packages is 'numpy': expected a tuple"),
        ("trains: ClassVar = 1", "Mine.trains is 1: expected True or False"),
        ("summary = None", "Mine.summary is None"),
        ("source = ''", "Mine.source is ''"),
        ("name = 3", "Mine.name is 3"),
        ("name = 'a b'", "Mine.name is 'a b'"),
        ("name = 'a\\x1b[31m'", "Mine.name is 'a\\x1b[31m'"),
        ("name = 'lora'", "the strategy name 'lora' is taken by strategies.lora (built in)"),
        ("def learning_rate_default(self): return float('nan')", "learning_rate_default() is nan"),
        ("def learning_rate_default(self): return 'x'", "learning_rate_default() is 'x'"),
        ("def learning_rate_default(self): raise RuntimeError('r')", "RuntimeError: r"),
        ("def learning_rate_default(self): raise SystemExit(0)", "ends the program"),
        ("r: float = float('nan')", "has a setting that no record can hold"),
        ("r: object = object()", "PydanticSerializationError"),
    ],
)
def test_a_class_that_is_not_what_it_must_be(run, line, said):
    code, out, err = run(strategy(line))
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_a_rate_that_the_model_scales_out_of_bounds(run):
    code, _, err = run(strategy("default_learning_rate: ClassVar = 9.0"))
    assert code == 2
    assert "'mine' comes to a learning rate of 45 for smollm2-135m" in err


def test_what_is_missing_is_named(run):
    code, _, err = run(f"{HEAD}class Mine(Strategy):\n    name = 'mine'\n    def adapt(self, m): return m\n")
    assert code == 2
    assert "Mine has no summary" in err
    assert "Mine has no source" in err
    code, _, err = run(f"{HEAD}class Mine(Strategy):\n    name = 'mine'\n    summary = source = 's'\n")
    assert code == 2
    assert "Mine lacks adapt()" in err
    code, _, err = run(f"{HEAD}class T(Task):\n    name = 't'\n")
    assert code == 2
    assert "T lacks choices, load, prompt()" in err


def test_two_classes_of_one_name(run):
    code, _, err = run(strategy() + strategy().replace("class Mine", "class Other").removeprefix(HEAD))
    assert code == 2
    assert "Mine and Other have one name, 'mine'" in err


@pytest.mark.parametrize(
    "body", ["raise RuntimeError('r')", "raise SystemExit(0)", "return 1 / 0", "raise KeyboardInterrupt"]
)
def test_a_validator_that_raises(run, body):
    check = f"r: int = 1\n    @field_validator('r')\n    @classmethod\n    def c(cls, v):\n        {body}"
    words = ("--strategy", "mine", "--task", "medqa", "--set", "strategy.r=2")
    code, out, err = run("from pydantic import field_validator\n" + strategy(check), *words)
    assert (code, out) == (2, "")
    assert "plugin.py:16: " in err
    assert "Traceback" not in err


def test_a_task_whose_data_cannot_be_loaded(tmp_path, capsys):
    path = tmp_path / "plugin.py"
    path.write_text(STUB.replace("files = {}\n", "raise SystemExit(0)\n", 1))
    words = ["--strategy", "stub-tune", "--task", "stub-task", "--data", "sample"]
    code = main(["run", "--plugin", str(path), *words, "--results", str(tmp_path / "runs")])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert "ends the program" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "loop", "large", "missing", "nul"])
def test_a_plugin_that_is_no_file(tmp_path, capsys, kind):
    path = tmp_path / "plugin.py"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2**40)
    elif kind == "nul":
        path = tmp_path / "a\0b.py"
    assert main(["run", "--plugin", str(path), "--strategy", "mine", "--task", "medqa"]) == 2
    assert capsys.readouterr().err.startswith("error: word 3" if kind == "nul" else "error: plugin ")


def test_what_a_plugin_prints_is_not_in_the_output(run):
    code, out, err = run("print('hello')\n" + strategy(), "--strategy", "mine", "--task", "medqa", "--json")
    assert code == 0
    assert json.loads(out)[0]["spec"]["strategy"]["name"] == "mine"
    assert "hello" in err


def test_a_plugin_without_fault_is_loaded_once_and_can_be_inspected(tmp_path):
    import inspect

    path = tmp_path / "good.py"
    path.write_text(strategy("r: int = 4"))
    cls = load_registry([path]).strategy("mine")
    assert load_registry([path]).strategy("mine") is cls
    assert "class Mine" in inspect.getsource(cls)
    assert not (tmp_path / "__pycache__").exists()


# --- code that only the run names ------------------------------------------------------------------


@pytest.fixture
def trapped(tmp_path):
    """A results folder whose one run names a plugin that leaves a mark when it is imported."""
    mark = tmp_path / "mark"
    plugin = tmp_path / "evil.py"
    plugin.write_text(f"open({str(mark)!r}, 'w').close()\n" + strategy(name="evil"))
    root = tmp_path / "runs"
    run_id = write_run(root, "evil", [1, 0, 1], plugins=(PluginSpec(path=str(plugin), sha256="0" * 64),))
    write_run(root, "lora", [1, 1, 1])
    return root, run_id, plugin, mark


@pytest.mark.parametrize(
    "words",
    [
        ["show", "RUN"],
        ["show", "RUN", "--json"],
        ["list", "runs"],
        ["list"],
        ["report"],
        ["report", "--format", "html"],
        ["compare", "evil", "lora"],
        ["check", "--baseline", "lora", "--candidate", "evil"],
    ],
)
def test_looking_at_a_run_does_not_run_its_plugin(trapped, words, capsys):
    root, run_id, plugin, mark = trapped
    words = [run_id if word == "RUN" else word for word in words]
    assert main([*words, "--results", str(root)]) in (0, 1, 2, 4)
    assert not mark.exists()
    if words == ["show", run_id]:
        assert f"--plugin {plugin}" in capsys.readouterr().out


def test_a_plugin_that_the_command_names_is_loaded(trapped, capsys):
    root, run_id, plugin, mark = trapped
    assert main(["show", run_id, "--plugin", str(plugin), "--results", str(root)]) == 0
    assert mark.exists()


def test_a_plugin_of_another_hash_is_refused_before_it_runs(trapped):
    _, _, plugin, mark = trapped
    with pytest.raises(UsageError, match="changed since this run was described"):
        load_registry([PluginSpec(path=str(plugin), sha256="0" * 64)])
    assert not mark.exists()


# --- installed plugins -------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package `medtune_extra` with these entry points and this code."""

    def install(points: dict[str, str], code: str) -> None:
        site = tmp_path / "site"
        (site / "medtune_extra").mkdir(parents=True, exist_ok=True)
        (site / "medtune_extra" / "__init__.py").write_text("")
        (site / "medtune_extra" / "methods.py").write_text(code)
        info = site / "medtune_extra-1.2.3.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: medtune-extra\nVersion: 1.2.3\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[medtune.plugins]", *lines, ""]))
        monkeypatch.syspath_prepend(str(site))

    yield install
    for name in [name for name in sys.modules if name.partition(".")[0] == "medtune_extra"]:
        del sys.modules[name]


def test_an_installed_class_or_module_is_found(package):
    package({"mine": "medtune_extra.methods:Mine"}, strategy())
    registry = load_registry()
    assert registry.strategy("mine").__name__ == "Mine"
    assert registry.skipped == []
    plugin = registry.origins["strategy", "mine"]
    assert (plugin.path, plugin.package) == ("medtune_extra.methods:Mine", "medtune-extra")


def test_a_broken_installed_plugin_is_named_and_the_others_go_on(package, capsys, tmp_path):
    points = {
        "a-exits": "medtune_extra.exits",
        "b-absent": "medtune_extra.nothing:X",
        "c-odd": "medtune_extra.methods:HEAD",
        "d-no-class": "medtune_extra.methods:Plain",
        "e-bad-value": "not a value!!",
        "f-twin": "medtune_extra.twin:Twin",
        "g-good": "medtune_extra.methods",
    }
    package(points, f"HEAD = 3\n{strategy()}\nclass Plain: ...\n")
    twin = strategy(name="lora").replace("class Mine", "class Twin")
    (tmp_path / "site" / "medtune_extra" / "twin.py").write_text(twin)
    (tmp_path / "site" / "medtune_extra" / "exits.py").write_text("raise SystemExit(0)\n")
    code = main(["list", "strategies", "--json"])
    out, err = capsys.readouterr()
    assert code == 0
    assert "mine" in {entry["name"] for entry in json.loads(out)["strategies"]}
    for name in list(points)[:6]:
        assert sum(f"'{name}'" in line or points[name] in line for line in err.splitlines()) == 1, name
    assert "Traceback" not in err


def test_an_installed_plugin_is_in_the_spec_and_its_version_in_the_environment(package, capsys, tmp_path):
    package({"mine": "medtune_extra.methods:Mine"}, strategy())
    words = ["run", "--strategy", "mine", "--task", "medqa", "--data", "sample", "--dry-run", "--json"]
    assert main([*words, "--results", str(tmp_path / "runs")]) == 0
    spec = RunSpec.model_validate(json.loads(capsys.readouterr().out)[0]["spec"])
    (plugin,) = spec.plugins
    assert plugin.package == "medtune-extra"
    # What a run's process does: the installed plugin that the spec names, and no file.
    registry = load_registry(spec.plugins, with_installed=False)
    assert registry.origins["strategy", "mine"] == plugin
    from harness.provenance import package_versions

    assert package_versions([plugin.package])["medtune-extra"] == "1.2.3"
    from harness.ask.repeat import repeat_command

    assert "--plugin" not in repeat_command(spec)


def test_the_code_of_an_installed_plugin_is_part_of_a_run_s_identity(package):
    package({"mine": "medtune_extra.methods:Mine"}, strategy())
    before = load_registry().origins["strategy", "mine"].sha256
    package({"mine": "medtune_extra.methods:Mine"}, strategy("r: int = 4"))
    assert load_registry().origins["strategy", "mine"].sha256 != before


def test_the_root_is_the_folder_of_the_packages():
    assert (ROOT / "strategies" / "lora.py").is_file()
