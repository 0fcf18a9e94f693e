"""What a report says: rows, averages, verdicts, costs, audit, failures, and the same figures in all formats."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made import CPU, OUT_OF_MEMORY, outcomes, spec_of, write_run, write_study

from harness.commands.report import render
from harness.errors import UsageError
from harness.evidence.outcomes import groups, load_outcomes
from harness.plan.trials import Trial, Tuning, store_tuning
from harness.record import Inputs, RunRecord
from harness.report.blocks import figure
from harness.report.build import build_report
from harness.report.chart_data import extras_of
from harness.report.model import Cell, Report, Table
from harness.report.options import Options
from harness.report.parts import parts
from harness.stats.accuracy import accuracy
from harness.stats.averages import average
from harness.stats.classification import macro_f1
from harness.stats.paired import compare
from harness.stats.verdict import verdicts
from harness.store.runs import Store

FORMATS = ("text", "markdown", "html", "csv", "latex", "json")


def built(root: Path, **options: object) -> Report:
    asked = {key: options.pop(key) for key in ("tasks", "models") if key in options}
    given = Options(command=lambda records: records[0].run_id, confidences=True, **options)
    return build_report(Store(root), given, **asked)


def cell_of(table: Table, label: str, title: str = "MedQA") -> Cell:
    index = [column.title for column in table.columns].index(title)
    cell = next(row for row in table.rows if row.label == label).cells[index]
    assert cell is not None
    return cell


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    write_study(root)
    return root


@pytest.fixture(scope="module")
def report(study: Path) -> Report:
    return built(study)


def test_strategies_stand_down_and_tasks_across(report: Report):
    (table,) = report.tables
    assert [column.title for column in table.columns] == ["MedQA", "PubMedQA"]
    assert [row.label for row in table.rows] == ["zero-shot", "few-shot", "full", "lora", "qlora", "ia3"]
    assert table.reference == "full"
    assert (report.runs, report.failed) == (29, 3)


def test_accuracy_and_verdicts_are_those_of_the_statistics(report: Report):
    (table,) = report.tables
    own = {name: np.stack([outcomes(name, "medqa", s, 400) for s in range(3)]) for name in ("full", "lora")}
    expected = accuracy(own["lora"])
    cell = cell_of(table, "lora")
    assert (cell.accuracy.value, cell.accuracy.low, cell.accuracy.high) == (
        expected.value,
        *expected.interval,
    )
    assert cell.by_seed == tuple(own["lora"].mean(axis=1))
    assert cell.seed_sd == pytest.approx(own["lora"].mean(axis=1).std(ddof=1))
    result = compare(own["lora"], own["full"])
    assert cell.verdict is not None
    assert (cell.verdict.difference, cell.verdict.interval, cell.verdict.p) == (
        result.difference, result.interval, result.p,
    )  # fmt: skip
    assert cell.verdict.comparisons == table.comparisons == 13  # nine cells, four averages
    assert cell.verdict.p_adjusted >= cell.verdict.p
    assert cell_of(table, "full").no_verdict == "reference"


def test_verdicts_are_one_family_over_the_table(report: Report):
    (table,) = report.tables
    cells = [cell for row in table.rows for cell in row.cells if cell and cell.verdict]
    reference = {t: np.stack([outcomes("full", t, s, 400) for s in range(3)]) for t in ("medqa", "pubmedqa")}
    results, names = [], []
    for index in range(2):
        task = table.columns[index].task
        for cell in table.cells(index):
            if cell.verdict:
                rows = np.stack([outcomes(cell.strategy, task, s, 400) for s in cell.seeds])
                results.append(compare(rows, reference[task], fixed_a=cell.strategy == "zero-shot"))
                names.append(cell.strategy)
    # The averages are compared too, of the rows that are complete, and are in the family.
    pairs = [
        [r for r, own in zip(results, names, strict=True) if own == name] for name in dict.fromkeys(names)
    ]
    means = [average(own) for own in pairs if len(own) == 2]
    own = [v for row in table.rows for v in row.verdicts if v]
    assert sorted(v.p_adjusted for v in verdicts([*results, *means])) == pytest.approx(
        sorted(v.p_adjusted for v in [*(cell.verdict for cell in cells if cell.verdict), *own])
    )
    assert len(table.family) == table.comparisons == 13
    assert "lora on MedQA against full" in table.family
    assert "lora, average of all tasks, against full" in table.family
    assert any("lora on MedQA against full" in note for note in table.notes)


def test_an_averages_difference_is_paired(report: Report):
    """Its interval is that of the two tasks' paired ones, not of two accuracies held apart."""
    (table,) = report.tables
    (own,) = next(row.verdicts for row in table.rows if row.label == "lora")
    parts = [cell_of(table, "lora", title).verdict for title in ("MedQA", "PubMedQA")]
    assert own is not None
    halves = []
    for part in parts:
        assert part is not None
        halves.append((part.interval[1] - part.interval[0]) / 2)
    assert own.difference == pytest.approx(sum(part.difference for part in parts if part) / 2)
    half = (own.interval[1] - own.interval[0]) / 2
    # Independent tasks: a little less than the root of the sum of squares, for it has more degrees of freedom.
    assert 0.7 * np.hypot(*halves) / 2 < half < 1.001 * np.hypot(*halves) / 2
    text = render(report, "text", Store(Path()))
    assert "Averages: verdicts against full" in text


def test_macro_f1_has_a_paired_difference(study: Path, report: Report):
    """Against the bootstrap over items of both strategies together, for zero-shot with its one run."""
    (table,) = report.tables
    found = cell_of(table, "zero-shot").macro_f1_difference
    assert found is not None
    predictions = {}
    for name, seeds in (("zero-shot", (0,)), ("full", (0, 1, 2))):
        folders = [Store(study).folder(spec_of(name, seed=s).run_id) for s in seeds]
        tables = [pq.read_table(folder / "predictions.parquet") for folder in folders]
        predictions[name] = [(np.array(t["gold"]), np.array(t["predicted"])) for t in tables]

    def score(name: str, items: object) -> float:
        return float(np.mean([macro_f1(g[items], p[items], 4) for g, p in predictions[name]]))

    expected = score("zero-shot", slice(None)) - score("full", slice(None))
    assert found.value == pytest.approx(expected, abs=1e-6)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 400, 400) for _ in range(1000)]
    spread = np.std([score("zero-shot", items) - score("full", items) for items in drawn])
    assert found.low is not None
    assert found.high is not None
    # The runs of full are a sample too: no narrower than over items alone, and not by much wider.
    assert 0.9 * 1.96 * spread < (found.high - found.low) / 2 < 1.6 * 1.96 * spread


def test_every_pair_where_asked_for(study: Path):
    (table,) = built(study, all_pairs=True).tables
    # Six rows on MedQA, five on PubMedQA: 15 and 10 pairs, and four averages.
    assert table.comparisons == 15 + 10 + 4
    pairs = {frozenset((p.one, p.other)) for p in table.pairs if p.title == "PubMedQA"}
    labels = ("few-shot", "lora", "qlora", "zero-shot")  # full is the reference, ia3 failed
    assert pairs == {frozenset(pair) for pair in combinations(labels, 2)}
    report = built(study, all_pairs=True)
    for name in FORMATS:
        assert "qlora" in render(report, name, Store(study))
    assert "All other pairs" in render(report, "latex", Store(study))
    rows = list(csv.DictReader(io.StringIO(render(report, "csv", Store(study)))))
    assert sum(row["kind"] == "pair" for row in rows) == 10 + 6


@pytest.fixture
def one_seed(tmp_path: Path) -> Path:
    """One run of each: full is far better, lora about the same."""
    for strategy in ("zero-shot", "full", "lora"):
        write_run(tmp_path, spec_of(strategy), n=400)
    return tmp_path


def test_one_seed_is_about_these_runs_in_every_format(one_seed: Path):
    report = built(one_seed)
    (table,) = report.tables
    kinds = {cell.label: cell.verdict.kind for cell in table.cells(0) if cell.verdict}
    assert kinds["zero-shot"] == "runs_differ"
    assert not {"better", "worse", "equivalent"} & set(kinds.values())
    caveat = "about these runs, not about the methods"
    shown = {name: render(report, name, Store(one_seed)) for name in FORMATS}
    for name in FORMATS:
        assert caveat in _unescaped(name, shown[name]), name
    for name in ("text", "markdown", "html", "latex"):
        plain = _unescaped(name, shown[name])
        assert "(+) (-) (=) (?): one run, not the method" in plain, name
        assert "(-)" in plain.replace("(+) (-) (=)", ""), name
        assert "these two runs differ (-)" in plain, name
    # Within the table in LaTeX, so that it is copied with it.
    block = shown["latex"].partition("Accuracy, ")[2].partition("\\end{tabular}".replace("\\\\", "\\"))[0]
    assert "one run, not the method" in block
    measured = [
        row for row in csv.DictReader(io.StringIO(shown["csv"])) if row["verdict"].startswith("runs_")
    ]
    assert {row["scope"] for row in measured} == {"runs"}
    assert "better, - worse" not in shown["text"]
    # The charts say it too.
    assert "lora (1 run)" in shown["html"]
    assert "zero-shot (1 run)" not in shown["html"]
    assert "interval is over items only and not about the method: full, lora." in shown["html"]
    # No class of a method's better or worse colours it.
    assert 'class="right better"' not in shown["html"]
    assert 'class="right worse"' not in shown["html"]
    assert 'class="right runs_differ"' in shown["html"]


def test_neither_side_was_tuned_is_in_the_audit(one_seed: Path):
    report = built(one_seed)
    for name in ("text", "markdown", "html", "latex"):
        text = _unescaped(name, render(report, name, Store(one_seed)))
        assert "neither side was tuned" in text, name
        assert "lora against full" in text.partition("neither side was tuned")[2], name
        assert "zero-shot against full" not in text.partition("neither side was tuned")[2][:200], name


def test_an_assumed_seed_deviation_is_in_every_format(one_seed: Path):
    report = built(one_seed, assumed_seed_sd=0.015)
    cell = cell_of(report.tables[0], "zero-shot")
    assert cell.verdict is not None
    assert (cell.verdict.kind, cell.verdict.scope) == ("worse", "methods_assumed_sd")
    for name in FORMATS:
        text = _unescaped(name, render(report, name, Store(one_seed)))
        # On a terminal the cell is broken over lines; the note below says it in one.
        told = "varies by 1.5 points (sd) over seeds" if name == "text" else "assumes a seed sd of 1.5 points"
        assert told in text, name
        assert name in ("csv", "json") or "*: with an assumed seed sd" in text, name


def test_one_run_beside_three_seeds_is_about_runs_and_zero_shot_is_not(tmp_path: Path):
    for seed in (0, 1, 2):
        write_run(tmp_path, spec_of("full", seed=seed))
    for strategy in ("zero-shot", "few-shot", "lora"):
        write_run(tmp_path, spec_of(strategy))
    (table,) = built(tmp_path).tables
    scopes = {cell.label: cell.verdict.scope for cell in table.cells(0) if cell.verdict}
    assert scopes == {"zero-shot": "methods", "few-shot": "runs", "lora": "runs"}


def test_items_that_belong_together_count_as_clusters(tmp_path: Path):
    """200 facts asked twice: read from the predictions, in the report and in the accuracy's interval."""
    facts = [f"fact-{i // 2}" for i in range(400)]
    rng = np.random.default_rng(0)
    rows = {}
    for strategy in ("full", "lora"):
        for seed in (0, 1):
            rows[strategy, seed] = np.repeat(rng.random(200) < 0.6, 2)
            write_run(tmp_path, spec_of(strategy, seed=seed), correct=rows[strategy, seed], clusters=facts)
    (table,) = built(tmp_path).tables
    cell = cell_of(table, "lora")
    own = {name: np.stack([rows[name, s] for s in (0, 1)]) for name in ("full", "lora")}
    expected = compare(own["lora"], own["full"], clusters=facts)
    assert cell.verdict is not None
    assert cell.verdict.interval == pytest.approx(expected.interval)
    without = compare(own["lora"], own["full"])
    widths = [ends[1] - ends[0] for ends in (expected.items_interval, without.items_interval)]
    assert widths[0] > 1.3 * widths[1]
    assert (cell.accuracy.low, cell.accuracy.high) == pytest.approx(accuracy(own["lora"], facts).interval)


def test_a_subgroup_of_one_cluster_has_no_interval(tmp_path: Path):
    """One patient asked often says nothing of how patients vary."""
    names = ["one patient" if i % 3 == 0 else f"patient {i // 6}" for i in range(90)]  # 0: step1
    write_run(tmp_path, spec_of("lora"), n=90, clusters=names)
    store = Store(tmp_path)
    (group,) = groups(store.records()[0])
    found = extras_of(store, group, load_outcomes(store, group), 100, print).subgroups
    assert {name: n for name, (_, n) in found.items()} == {"step1": 30, "step2&3": 30, "ethics <b>": 30}
    assert (found["step1"][0].low, found["step1"][0].high) == (None, None)
    for name in ("step2&3", "ethics <b>"):
        figure = found[name][0]
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < figure.value < figure.high


def test_averages_only_over_complete_rows(report: Report):
    (table,) = report.tables
    (mean,) = table.averages
    assert mean.title == "all tasks"
    by_label = {row.label: row.averages[0] for row in table.rows}
    assert by_label["ia3"] is None
    values = [cell_of(table, "lora", title).accuracy.value for title in ("MedQA", "PubMedQA")]
    assert by_label["lora"] is not None
    assert by_label["lora"].value == pytest.approx(sum(values) / 2)
    assert any("without one: ia3" in note for note in table.notes)


def test_usmle_sets_and_mmlu_have_averages_of_their_own(tmp_path: Path):
    tasks = ("medqa", "usmle_sample_exam", "mmlu_anatomy", "mmlu_college_biology", "pubmedqa")
    for task in tasks:
        write_run(tmp_path, spec_of("lora", task), n=60)
    (table,) = built(tmp_path).tables
    assert [column.task for column in table.columns] == [
        "medqa", "usmle_sample_exam", "pubmedqa", "mmlu_college_biology", "mmlu_anatomy",
    ]  # fmt: skip
    assert {mean.title: mean.columns for mean in table.averages} == {
        "USMLE sets": (0, 1), "MMLU subjects": (3, 4), "all tasks": (0, 1, 2, 3, 4),
    }  # fmt: skip


def test_failed_runs_are_rows_and_are_listed(report: Report):
    (table,) = report.tables
    row = next(row for row in table.rows if row.label == "ia3")
    assert row.failures == ("", "out_of_memory")
    assert len(table.failures) == 3
    for chosen in ("text", "markdown", "latex", "html"):
        text = render(report, chosen, Store(Path(report.results)))
        assert "out of memory" in text
        assert "12 GiB" in text


def test_a_strategy_that_only_failed_is_a_row(tmp_path: Path):
    write_run(tmp_path, spec_of("lora"))
    write_run(tmp_path, spec_of("full"), failure=OUT_OF_MEMORY)
    (table,) = built(tmp_path).tables
    assert {row.label for row in table.rows} == {"lora", "full"}
    assert table.reference == "lora"
    assert [column.title for column in table.columns] == ["MedQA"]


def test_sample_and_real_data_never_share_a_table(tmp_path: Path):
    for source in ("hub", "sample"):
        for strategy in ("full", "lora"):
            write_run(tmp_path, spec_of(strategy, source=source), n=100)
    report = built(tmp_path)
    assert [(t.world, [c.title for c in t.columns]) for t in report.tables] == [
        ("real", ["MedQA"]), ("sample", ["MedQA (built-in sample)"]),
    ]  # fmt: skip
    assert any("sample" in note for note in report.tables[1].notes)


def test_other_items_are_another_column_and_end_the_averages(tmp_path: Path):
    write_run(tmp_path, spec_of("full"), items="1" * 64)
    write_run(tmp_path, spec_of("lora"), items="2" * 64)
    (table,) = built(tmp_path).tables
    assert [column.title for column in table.columns] == ["MedQA (items 11111111)", "MedQA (items 22222222)"]
    assert table.averages == ()
    assert table.comparisons == 0
    assert any("No averages" in note for note in table.notes)


def test_models_scorings_and_limits_have_tables_of_their_own(tmp_path: Path):
    write_run(tmp_path, spec_of("lora"))
    write_run(tmp_path, spec_of("lora", model="org/other"))
    write_run(tmp_path, spec_of("lora", scoring="letter"))
    write_run(tmp_path, spec_of("lora", limit=50), n=50)
    assert len(built(tmp_path).tables) == 4
    assert len(built(tmp_path, models=["org/other"]).tables) == 1


def test_costs_are_compared_on_one_kind_of_device_only(tmp_path: Path):
    write_run(tmp_path, spec_of("full"))
    write_run(tmp_path, spec_of("lora"))
    write_run(tmp_path, spec_of("ia3"), device=CPU)
    (table,) = built(tmp_path).tables
    lora, ia3 = cell_of(table, "lora"), cell_of(table, "ia3")
    assert lora.ratios["gpu_memory_reserved_peak_bytes"] == pytest.approx(4.24 / 24, abs=1e-6)
    assert ia3.ratios == {}
    assert ia3.verdict is not None  # scores may be compared, and the audit says on what
    assert any(line.what == "device" and "ia3" in line.where for line in table.audit)
    assert any("Several kinds of device" in note for note in table.notes)


def test_seeds_on_several_devices_have_no_memory_and_time(tmp_path: Path):
    write_run(tmp_path, spec_of("lora", seed=0))
    write_run(tmp_path, spec_of("lora", seed=1), device=CPU)
    (table,) = built(tmp_path).tables
    costs = cell_of(table, "lora").costs
    assert (costs.device, costs.get("train_seconds"), costs.get("host_memory_peak_bytes")) == (
        None,
        None,
        None,
    )
    assert costs.get("adapter_bytes") is not None
    assert any(line.between == "seeds" and line.what == "device" for line in table.audit)


def test_cost_of_a_point_is_over_the_untrained_model(tmp_path: Path):
    n = 200
    right = np.arange(n)
    write_run(tmp_path, spec_of("zero-shot"), correct=right < 80)
    write_run(tmp_path, spec_of("lora"), correct=right < 100)
    write_run(tmp_path, spec_of("ia3"), correct=right < 70)
    (table,) = built(tmp_path).tables
    lora = cell_of(table, "lora").costs
    seconds = lora.get("train_seconds")
    assert seconds is not None
    assert lora.minutes_per_point == pytest.approx(seconds / 60 / 10)
    assert cell_of(table, "ia3").costs.minutes_per_point is None


def test_audit_names_what_differs(tmp_path: Path):
    write_run(tmp_path, spec_of("full"))
    write_run(tmp_path, spec_of("lora"), packages={"torch": "2.13.0", "peft": "0.18.0"})
    (table,) = built(tmp_path).tables
    (line,) = table.audit
    assert (line.what, line.one, line.other, line.where) == ("package peft", "0.18.0", "0.21.2", ("lora",))
    assert "package peft" in render(built(tmp_path), "text", Store(tmp_path))


def test_what_a_model_was_not_shown_is_in_the_audit(tmp_path: Path):
    """Both asked for five worked examples; one side's context held fewer, and cut prompts off."""
    rates = {"full": Inputs(shots_min=5, shots_mean=5.0), "lora": Inputs(
        shots_min=1, shots_mean=3.25, truncated_items=7, truncated_item_tokens=90, truncated_rows=3
    )}  # fmt: skip
    for strategy, inputs in rates.items():
        record = write_run(tmp_path, spec_of(strategy, shots=5))
        changed = record.model_copy(update={"inputs": inputs})
        (tmp_path / record.run_id / "record.json").write_text(changed.model_dump_json())
    (table,) = built(tmp_path).tables
    assert {(line.what, line.one, line.other) for line in table.audit} == {
        ("worked examples really seen", "3.2 of 5 on average, 1 at least", "all"),
        ("test prompts cut off", "7", "0"),
        ("training prompts cut off", "3", "0"),
    }


def test_published_figures_stand_apart_and_only_for_tasks_shown(tmp_path: Path):
    write_run(tmp_path, spec_of("lora"))
    report = built(tmp_path)
    assert {own.task for own in report.published} == {"medqa"}
    assert all(own.protocol and own.source for own in report.published)
    rows = {row.label for table in report.tables for row in table.rows}
    assert rows == {"lora"}
    text = render(report, "text", Store(tmp_path))
    assert text.index("Published figures") > text.index("Accuracy, %")
    assert "context, not a comparison" in text


def test_a_sample_is_not_held_against_published_figures(tmp_path: Path):
    write_run(tmp_path, spec_of("lora", source="sample"))
    assert "No run here read the real medqa" in render(built(tmp_path), "text", Store(tmp_path))


def test_published_figures_of_the_repository_are_those_of_the_package():
    root = Path(__file__).parents[3]
    packaged = (root / "harness/report/published/published.csv").read_text(encoding="utf-8")
    assert (root / "results/published/published.csv").read_text(encoding="utf-8") == packaged


def test_variants_are_told_apart_by_what_differs(tmp_path: Path):
    for settings in ({"r": 8}, {"r": 16}):
        write_run(tmp_path, spec_of("lora", settings=settings))
    write_run(tmp_path, spec_of("full"))
    (table,) = built(tmp_path).tables
    assert {row.label for row in table.rows} == {"full", "lora (r=8)", "lora (r=16)"}


def test_a_learning_rate_for_each_task_is_no_variant(tmp_path: Path):
    write_run(tmp_path, spec_of("lora", "medqa", rate=1e-4))
    write_run(tmp_path, spec_of("lora", "pubmedqa", rate=3e-4))
    (table,) = built(tmp_path).tables
    assert [row.label for row in table.rows] == ["lora"]
    write_run(tmp_path, spec_of("lora", "medqa", rate=3e-4))
    (table,) = built(tmp_path).tables
    assert {row.label for row in table.rows} == {"lora (learning_rate=0.0001)", "lora (learning_rate=0.0003)"}


def write_tuning(root: Path, run: RunRecord, rates: Sequence[float], seconds: float | None = 10.0) -> None:
    trials = tuple(
        Trial(run_id=f"trial-{run.spec.strategy.name}-{rate}", learning_rate=rate, status="ok",
              total_seconds=seconds, gpu_hours=0.5)
        for rate in rates
    )  # fmt: skip
    store_tuning(Store(root), run.run_id, Tuning(centre=rates[0], chosen=rates[0], trials=trials))


def test_tuning_is_told_as_a_cost_and_where_it_differs(tmp_path: Path):
    """Two seeds share their trials; what was tuned more is named beside the verdict; zero-shot is not."""
    for seed in (0, 1):
        write_tuning(tmp_path, write_run(tmp_path, spec_of("lora", seed=seed)), (1e-4, 3e-4, 3e-5))
        write_run(tmp_path, spec_of("full", seed=seed))
    write_run(tmp_path, spec_of("zero-shot"))
    report = built(tmp_path)
    (table,) = report.tables
    tuning = cell_of(table, "lora").tuning
    assert tuning is not None
    assert (tuning.trials, tuning.failed, tuning.total_seconds, tuning.gpu_hours) == (3, 0, 30.0, 1.5)
    assert cell_of(table, "full").tuning is None
    (line,) = table.audit
    assert (line.what, line.one, line.other) == ("learning rates tried", "3", "none (not tuned)")
    assert line.where == ("lora",)
    shown = {name: render(report, name, Store(tmp_path)) for name in FORMATS}
    for name in ("text", "markdown", "html", "latex"):
        assert "learning rates tried" in shown[name], name
        assert "3e-05, 0.0001, 0.0003" in shown[name].replace("-{}", "-"), name
    rows = {
        row["label"]: row for row in csv.DictReader(io.StringIO(shown["csv"])) if row["kind"] == "measured"
    }
    assert [rows["lora"][f"tuning_{name}"] for name in ("trials", "total_seconds")] == ["3", "30.0"]
    assert [rows[label]["tuning_trials"] for label in ("full", "zero-shot")] == ["0", ""]


def test_a_tuning_that_cannot_be_read_or_was_not_timed_is_not_made_up(tmp_path: Path):
    write_tuning(tmp_path, write_run(tmp_path, spec_of("full")), (1e-4, 3e-4), seconds=None)
    broken = write_run(tmp_path, spec_of("lora"))
    (tmp_path / broken.run_id / "tuning.json").write_text("{", encoding="utf-8")
    report = built(tmp_path)
    (table,) = report.tables
    full, lora = cell_of(table, "full").tuning, cell_of(table, "lora").tuning
    assert full is not None
    assert (full.trials, full.total_seconds) == (2, None)
    assert lora is not None
    assert lora.trials is None
    assert [(line.what, line.one, line.other) for line in table.audit] == [
        ("learning rates tried", "unknown", "2")
    ]
    assert any("the tuning of lora on MedQA is not known" in warning for warning in report.warnings)


def test_reference_can_be_chosen_and_must_be_there(study: Path):
    assert built(study, reference="qlora").tables[0].reference == "qlora"
    with pytest.raises(UsageError, match="unknown reference 'lra'; did you mean 'lora'"):
        built(study, reference="lra")


def test_no_trained_strategy_still_reports(tmp_path: Path):
    write_run(tmp_path, spec_of("zero-shot"))
    (table,) = built(tmp_path).tables
    assert (table.reference, table.comparisons) == ("zero-shot", 0)
    assert "zero-shot" in render(built(tmp_path), "html", Store(tmp_path))


def test_without_verdicts_nothing_per_item_is_read(study: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a predictions file was read")

    full = built(study)
    monkeypatch.setattr("harness.evidence.outcomes._columns", refuse)
    quick = built(study, verdicts=False)
    for one, other in zip(full.tables[0].cells(0), quick.tables[0].cells(0), strict=True):
        assert one.accuracy.value == pytest.approx(other.accuracy.value)
        assert other.accuracy.low is not None
        assert other.accuracy.low <= one.accuracy.low + 1e-9  # type: ignore[operator]
    assert any("No verdicts were asked for" in note for note in quick.tables[0].notes)


def test_figures_are_equal_in_all_formats(report: Report, study: Path):
    shown = {name: render(report, name, Store(study)) for name in FORMATS}
    stored = json.loads(shown["json"])
    rows = [row for row in csv.DictReader(io.StringIO(shown["csv"])) if row["kind"] == "measured"]
    cells = [
        (row, column, cell)
        for row in report.tables[0].rows
        for column, cell in zip(report.tables[0].columns, row.cells, strict=True)
        if cell
    ]
    assert len(rows) == len(cells)
    from_json = [cell for row in stored["tables"][0]["rows"] for cell in row["cells"] if cell]
    for (row, column, cell), line, again in zip(cells, rows, from_json, strict=True):
        assert (line["label"], line["data_set"]) == (row.label, column.title)
        assert float(line["accuracy"]) == again["accuracy"]["value"] == cell.accuracy.value
        assert float(line["accuracy_low"]) == again["accuracy"]["low"] == cell.accuracy.low
        assert (line["verdict"] or None) == (cell.verdict.kind if cell.verdict else cell.no_verdict or None)
        if cell.verdict:
            assert float(line["p_holm"]) == again["verdict"]["p_adjusted"] == cell.verdict.p_adjusted
        for name in ("text", "markdown", "html", "latex"):
            assert figure(cell.accuracy) in _unescaped(name, shown[name]), (name, row.label)
    figures = [
        own.text for part in parts(report) for block in part.blocks if block.kind in ("verdicts", "cost")
        for row in block.rows for own in row if not own.data
    ]  # fmt: skip
    for name in ("text", "markdown", "html", "latex"):
        plain = _unescaped(name, shown[name])
        assert [text for text in figures if text not in plain] == [], name


def _unescaped(name: str, text: str) -> str:
    if name == "latex":
        for escaped, plain in (
            (r"{[}", "["),
            (r"{]}", "]"),
            ("-{}", "-"),
            (r"\textless{}", "<"),
            (r"\%", "%"),
        ):
            text = text.replace(escaped, plain)
    return re.sub(r"\s+", " ", text.replace("&lt;", "<").replace("&#43;", "+"))
