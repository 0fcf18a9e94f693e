"""What every probe must hold, built-in or plugged in; and what the built-in ones say of made-up models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.contracts import DataSource, Example, Finished, Prediction, Probe
from harness.registry import load_registry
from harness.runtime.probing import probed

PROBES = sorted(load_registry().probes.items())
MEDQA = load_registry().task("medqa")()
ITEMS = MEDQA.load(DataSource("sample")).test[:40]
Choose = Callable[[Example], int]


@pytest.fixture(params=[cls for _, cls in PROBES], ids=[name for name, _ in PROBES])
def probe(request: pytest.FixtureRequest) -> type[Probe]:
    return request.param  # type: ignore[no-any-return]


def finished(choose: Choose, items: Sequence[Example] = ITEMS, scoring: str = "letter") -> Finished:
    def answers(asked: Sequence[Example]) -> list[Prediction]:
        return [Prediction(e.id, e.gold, choose(e), choose(e), (-1.0,) * len(e.options)) for e in asked]

    return Finished(MEDQA, scoring, 0, items, answers(items), answers, None, None)  # type: ignore[arg-type]


def test_says_what_it_is(probe: type[Probe]) -> None:
    assert probe.summary.strip()
    assert probe.source.strip()
    names = [metric.name for metric in probe.metrics]
    assert len(names) == len(set(names)) > 0
    assert all(metric.definition.strip() for metric in probe.metrics)


def test_gives_what_it_declares_and_the_same_again(probe: type[Probe]) -> None:
    results = [probed(probe, finished(lambda e: hash(e.options[0]) % 4)) for _ in range(2)]
    assert results[0].failure is None
    assert set(results[0].scores) == set(results[0].metrics) == {metric.name for metric in probe.metrics}
    assert results[0] == results[1]


def test_an_answer_chosen_for_what_it_says_stays() -> None:
    by_content = probed(
        load_registry().probe("option-order"), finished(lambda e: e.options.index(min(e.options)))
    )
    assert by_content.scores["answers_changed"].value == 0
    right = sum(e.options.index(min(e.options)) == e.gold for e in ITEMS) / len(ITEMS)
    assert by_content.scores["accuracy_reordered"].value == pytest.approx(right)


def test_an_answer_chosen_for_where_it_stands_changes() -> None:
    by_place = probed(load_registry().probe("option-order"), finished(lambda e: 0))
    # Of the 23 orders other than the one given, 5 leave the first option in its place.
    assert by_place.scores["answers_changed"].value == pytest.approx(18 / 23, abs=0.1)
    assert by_place.scores["answers_changed"].ci_low is not None


@pytest.mark.parametrize("scoring", ["cloze"])
def test_prompts_without_an_order_are_refused(scoring: str) -> None:
    result = probed(load_registry().probe("option-order"), finished(lambda e: 0, scoring=scoring))
    assert result.failure is not None
    assert "do not show options in an order" in result.failure.message
    assert result.scores == {}


PLUGIN = """
from harness.contracts import Measured, Metric, Probe


class {name}(Probe):
    name = "{name}"
    summary = "a probe"
    source = "none"
    metrics = (Metric("longest", unit="letters", definition="the longest prompt"),)

    def measure(self, finished):
        {body}
"""


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise RuntimeError('broke')", "broke"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("return {}", "does not give what it declares: longest"),
        (
            "return {'longest': Measured(1.0, 1), 'other': Measured(1.0, 1)}",
            "does not give what it declares: other",
        ),
        ("return {'longest': Measured(float('nan'), 1)}", "finite"),
        ("return 3", "keys"),
    ],
)
def test_a_probe_that_misbehaves_is_recorded_and_fails_no_run(body: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(PLUGIN.format(name="odd", body=body))
    result = probed(load_registry([file]).probe("odd"), finished(lambda e: 0))
    assert result.failure is not None
    assert told in result.failure.message
    assert result.failure.phase == "probe:odd"


def test_a_plugged_in_probe_measures(tmp_path: Path) -> None:
    file = tmp_path / "longest.py"
    body = "return {'longest': Measured(max(len(finished.task.prompt(e, finished.scoring)) for e in finished.items), len(finished.items))}"
    file.write_text(PLUGIN.format(name="longest", body=body))
    result = probed(load_registry([file]).probe("longest"), finished(lambda e: 0))
    assert result.failure is None
    assert result.scores["longest"].value == max(len(MEDQA.prompt(e, "letter")) for e in ITEMS)
    assert result.metrics["longest"].unit == "letters"
