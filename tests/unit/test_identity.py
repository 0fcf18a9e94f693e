"""A setting that a strategy gains, with a default, renames no run; one that is given another value does."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field

from harness.ask.identity import strategy_spec
from harness.contracts import Strategy
from harness.errors import StoreError
from harness.registry import load_registry
from harness.spec import RunSpec, StrategySpec, TaskSpec
from harness.store.runs import Store, differences


class Before(Strategy):
    name = "grows"
    summary = "gains a setting"
    source = "none"
    default_learning_rate: ClassVar[float | None] = 1e-3

    rank: int = Field(8, description="first")

    def adapt(self, model):  # type: ignore[no-untyped-def]
        return model


class After(Before):
    scale: float = Field(2.0, description="gained")


def described(strategy: Strategy) -> RunSpec:
    return RunSpec(strategy=strategy_spec(strategy, "float32"), task=TaskSpec(name="medqa"))


def test_a_setting_gained_renames_no_run() -> None:
    assert described(After()).run_id == described(Before()).run_id
    assert described(After(rank=4)).run_id == described(Before(rank=4)).run_id


def test_a_setting_given_another_value_is_another_run() -> None:
    ids = {described(s).run_id for s in (After(), After(scale=1.0), After(rank=4), After(rank=4, scale=1.0))}
    assert len(ids) == 4


def test_all_settings_are_in_the_spec() -> None:
    spec = described(After(rank=4))
    assert spec.strategy.settings == {"rank": 4, "scale": 2.0}
    assert spec.strategy.at_default == ("scale",)


def test_the_run_of_before_is_the_run_of_after(tmp_path: Path) -> None:
    store, before, after = Store(tmp_path), described(Before()), described(After())
    store.prepare(before)
    assert differences(before, after) == {}
    store.prepare(after)  # no other settings
    other = described(After(scale=1.0))
    assert set(differences(before, other)) == {"strategy.settings.scale"}


def test_a_default_that_changed_is_another_run_and_is_refused(tmp_path: Path) -> None:
    """Under one name, as the hash no longer tells the old default from the new one."""

    class Changed(Before):
        rank: int = Field(16, description="first")

    store = Store(tmp_path)
    store.prepare(described(Before()))
    with pytest.raises(StoreError, match=r"strategy\.settings\.rank: stored 8, asked for 16"):
        store.prepare(described(Changed()))


def test_what_must_be_given_always_counts() -> None:
    class Needs(Before):
        kind: str = Field(description="must be given")

    one, other = (strategy_spec(Needs(kind=kind), "float32") for kind in ("a", "b"))
    assert one.at_default == ("rank",)
    specs = [RunSpec(strategy=s, task=TaskSpec(name="medqa")) for s in (one, other)]
    assert specs[0].run_id != specs[1].run_id


@pytest.mark.parametrize("name", sorted(load_registry().strategies))
def test_every_strategy_has_its_defaults_told_from_what_is_asked(name: str) -> None:
    settings = {"peft": {"config": {"peft_type": "VERA"}}}.get(name, {})
    strategy = load_registry().strategy(name)(**settings)
    for dtype in ("bfloat16", "float32"):
        found = strategy_spec(strategy, dtype)  # type: ignore[arg-type]
        assert set(found.at_default or ()) == found.settings.keys() - settings.keys()


def test_an_older_spec_counts_every_setting() -> None:
    old = RunSpec(strategy=StrategySpec(name="grows", settings={"rank": 8}), task=TaskSpec(name="medqa"))
    assert old.run_id != described(Before()).run_id
    assert differences(old, described(Before())) == {}
