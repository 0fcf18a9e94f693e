"""What every engine must hold, built-in or plugged in."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.contracts import Engine
from harness.plugins.contract import ENGINE_SETTINGS, contract_problems
from harness.registry import load_registry
from harness.spec import EngineSpec, RunSpec, StrategySpec, TaskSpec

ENGINES = sorted(load_registry().engines.items())


@pytest.fixture(params=[cls for _, cls in ENGINES], ids=[name for name, _ in ENGINES])
def engine(request: pytest.FixtureRequest) -> type[Engine]:
    return request.param  # type: ignore[no-any-return]


def test_says_what_it_is(engine: type[Engine]) -> None:
    assert contract_problems(engine) == []
    assert engine.settings <= ENGINE_SETTINGS


def test_takes_a_run_of_defaults(engine: type[Engine]) -> None:
    spec = RunSpec(
        strategy=StrategySpec(name="lora"), task=TaskSpec(name="medqa"), engine=EngineSpec(name=engine.name)
    )
    engine().check(spec)
    assert isinstance(engine().trainer_arguments(spec), dict)


PLUGIN = """
from harness.contracts import Engine
from harness.engines.plain import Plain


class Counted(Plain):
    name = "counted"
    summary = "plain, and says so"
    source = "none"
    {line}

    def prepare(self, spec):
        super().prepare(spec)
        print("counted engine prepared")
"""


def test_one_file_brings_an_engine(tmp_path: Path) -> None:
    file = tmp_path / "counted.py"
    file.write_text(PLUGIN.format(line=""))
    registry = load_registry([file])
    assert registry.engine("counted").name == "counted"
    assert registry.origins["engine", "counted"].path == str(file)


@pytest.mark.parametrize(
    "line", ["settings = {'zero_stage'}", "settings = frozenset({'stage'})", "packages = 'x'"]
)
def test_an_engine_that_says_odd_things_of_itself_is_refused(line: str, tmp_path: Path) -> None:
    file = tmp_path / "counted.py"
    file.write_text(PLUGIN.format(line=line))
    with pytest.raises(Exception, match=r"Counted\.(settings|packages) is"):
        load_registry([file])
