"""One list of what is measured: everything that shows a cost shows what the list says, and nothing else."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from made import spec_of, write_run

from harness.cli import main
from harness.evidence.compare import compare_pairs
from harness.evidence.costs import costs_of
from harness.evidence.outcomes import groups
from harness.measures import MEASURES, measure
from harness.record import Cost, RunRecord
from harness.store.runs import Store

VALUE = 0.4375
"""In shown units, of every measure; bytes and counts are whole numbers of it."""


def whole(name: str) -> bool:
    return "int" in str(Cost.model_fields[name].annotation)


def full_cost(times: float) -> Cost:
    """Every measure, measured."""
    values = {own.field: VALUE * own.scale * times for own in MEASURES}
    return Cost(**{name: round(value * 64) if whole(name) else value for name, value in values.items()})


def stored(root: Path, strategy: str, seed: int, times: float) -> RunRecord:
    record = write_run(root, spec_of(strategy, seed=seed))
    record = record.model_copy(update={"cost": full_cost(times)})
    (Store(root).folder(record.run_id) / "record.json").write_text(record.as_json(), encoding="utf-8")
    return record


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        stored(tmp_path, "full", seed, 1.0)
        stored(tmp_path, "lora", seed, 0.5 + 0.25 * seed)
    return tmp_path


def test_each_cost_of_a_record_has_its_entry() -> None:
    assert [own.field for own in MEASURES] == list(dict.fromkeys(own.field for own in MEASURES))
    assert {own.field for own in MEASURES} == set(Cost.model_fields)


def test_what_must_fit_takes_the_most_and_what_is_spent_the_mean() -> None:
    for own in MEASURES:
        size = own.field.endswith(("_bytes", "_parameters", "_fraction"))
        assert own.over_runs == ("max" if size else "mean"), own.field
        assert own.combined([1.0, 3.0]) == (3.0 if size else 2.0)
        assert own.combined([1.0, None]) is None
        assert own.combined([]) is None


@pytest.mark.parametrize("name", ["text", "markdown", "latex", "html"])
def test_each_column_of_costs_is_in_the_report(
    name: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--results", str(runs), "--format", name]) == 0
    shown = capsys.readouterr().out.replace("\\%", "%").replace("\n", " ")
    for own in MEASURES:
        if own.header:
            assert own.header in shown
        if own.chart and name == "html":
            assert own.chart[1] in shown


def test_data_formats_have_every_measure(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {own.label: costs_of(own.records) for own in groups(Store(runs).records()[0])}
    main(["report", "--results", str(runs), "--format", "csv"])
    rows = {
        row["label"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out)) if row["accuracy"]
    }
    main(["report", "--results", str(runs), "--format", "json"])
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    cells = {row["label"]: row["cells"][0]["costs"] for row in table["rows"]}
    for label in ("full", "lora"):
        for own in MEASURES:
            expected = found[label].get(own.field)
            assert expected is not None, own.field
            assert float(rows[label][own.field]) == expected
            assert cells[label][own.field] == expected


def test_show_and_compare_have_what_the_list_says(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, lora = groups(Store(runs).records()[0])
    main(["show", full.first.run_id, "--results", str(runs)])
    shown = capsys.readouterr().out
    assert [own.named for own in MEASURES if own.named not in shown] == []
    (comparison,) = compare_pairs(Store(runs), [(lora, full)], 0.02, pytest.fail)
    names = [(row.name, row.unit) for row in comparison.costs]
    assert names == [(own.label, own.unit) for own in MEASURES if own.compared]
    ratios = {row.name: row.ratio for row in comparison.costs if row.unit not in ("examples/s",)}
    assert ratios["adapter"] == pytest.approx(0.75, abs=0.01)  # the largest of the seeds'
    assert ratios["training time"] == pytest.approx(0.625)  # their mean


def test_an_unknown_measure_is_no_silent_none() -> None:
    with pytest.raises(KeyError):
        measure("train_secs")
