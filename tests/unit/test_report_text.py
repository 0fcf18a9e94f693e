"""Tables for a terminal: what they show, at which width, and what they never do."""

from __future__ import annotations

import io
import re

import pytest

from harness.evidence.rows import grouped, row_of, title_of
from harness.record import Cost, DataInfo, Environment, Failure, ModelInfo, RunRecord, Score
from harness.render.numbers import interval, number, small_percent
from harness.report.run_table import COLUMNS, print_runs

WIDTHS = (80, 100, 160)
GPU = 12 * 2**30
HOST = 3 * 2**30


def record_of(spec, *, title="MedQA (built-in sample)", gpu=GPU, failure=None):
    if failure:
        return RunRecord(run_id=spec.run_id, status="failed", spec=spec, created="now", failure=failure)
    return RunRecord(
        run_id=spec.run_id, status="ok", spec=spec, created="now",
        scores={
            "accuracy": Score(value=0.4325, ci_low=0.3651, ci_high=0.5014, n=200),
            "macro_f1": Score(value=0.401, n=200),
            "chance_accuracy": Score(value=0.25, n=200),
            "majority_accuracy": Score(value=0.31, n=200),
        },
        cost=Cost(
            trainable_fraction=0.0034, host_memory_peak_bytes=HOST, gpu_memory_reserved_peak_bytes=gpu,
            train_seconds=123.45, train_tokens_per_second=23456.7, adapter_bytes=5 * 2**20,
        ),
        data=DataInfo(
            task=spec.task.name, title=title, source="sample", revision=None, fingerprint="f", test_fingerprint="t", train_n=600,
            validation_n=100, test_n=200, test_known_n=200, comparable=False,
        ),
        environment=Environment(
            git=None, packages={}, python="3", device_name="d", device_count=1, driver=None, fingerprint="e"
        ),
        model=ModelInfo(source="hub", revision=None, fingerprint=None, dtype="bfloat16"),
    )  # fmt: skip


FAILED = Failure(phase="train", kind="out_of_memory", message="the system killed it [bold]here[/bold]")


@pytest.fixture
def records(grid):
    one, two, three = grid("--strategy", "stub-tune", "--seed", "0,1,2")
    return [record_of(one), record_of(two), record_of(three, failure=FAILED)]


def table(records, width):
    stream = io.StringIO()
    print_runs(records, stream, width)
    return stream.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_fits_and_cuts_nothing(records, width):
    text = table(records, width)
    assert "…" not in text
    for line in text.splitlines():
        assert len(line) <= width or "out_of_memory: " in line
    for row in [line for line in text.splitlines() if "43.2" in line]:
        shown = row.split()
        assert "123.5" in shown or "123.4" in shown
        assert "12.00" in shown
    assert text.count("43.2 [36.5, 50.1]") == 2
    assert "stub-tune" in text
    assert "out_of_memory" in text
    assert "the system killed it [bold]here[/bold]" in " ".join(text.split())
    assert "chance 25.0%, commonest answer 31.0%" in " ".join(text.split())
    assert re.search(r"accuracy % \[95%\]", text)


def test_narrow_tables_say_what_is_missing_and_wide_ones_miss_nothing(records):
    narrow = table(records, 80)
    assert "Not shown at this width:" in narrow
    wide = table(records, 220)
    assert "Not shown" not in wide
    for expected in ("12.00", "3.00", "0.34", "123.5", "23,457", "5.0", records[0].run_id, "GPU peak GiB"):
        assert expected in wide


def test_every_width_shows_how_to_find_the_run(records):
    for width in WIDTHS:
        assert records[0].run_id.rpartition("-")[2] in table(records, width)


def test_host_memory_is_never_a_gpus(grid):
    (spec,) = grid()
    row = row_of(record_of(spec, gpu=None))
    gpu, host = (
        next(column for column in COLUMNS if column.header == header)
        for header in ("GPU peak GiB", "host peak GiB")
    )
    assert (gpu.cell(row), host.cell(row)) == ("-", "3.00")


def test_sample_and_real_data_never_share_a_table(grid):
    one, two, three = grid("--seed", "0,1,2")
    records = [record_of(one), record_of(two, title="MedQA"), record_of(three, failure=FAILED)]
    groups = grouped(records)
    assert {title: len(rows) for title, rows in groups.items()} in (
        {"MedQA (built-in sample)": 1, "MedQA": 2},
        {"MedQA (built-in sample)": 2, "MedQA": 1},
    )
    text = table(records, 100)
    assert text.count("accuracy %") == 2


def test_a_failed_run_alone_is_titled_by_its_source(grid):
    (spec,) = grid()
    record = record_of(spec, failure=FAILED)
    assert title_of(record) == "stub-task (built-in sample)"
    assert "out_of_memory" in table([record], 80)


def test_what_differs_between_rows_is_a_column(grid):
    records = [record_of(spec) for spec in grid("--model", "smollm2-135m,smollm2-360m")]
    header = next(line for line in table(records, 100).splitlines() if "strategy" in line)
    assert "model" in header
    assert "seed" not in header


def test_too_narrow_is_wide_rather_than_cut(records):
    text = table(records, 30)
    assert "43.2 [36.5, 50.1]" in text
    assert "…" not in text


def test_numbers():
    assert interval(None) == "-"
    assert interval(Score(value=0.5, n=3)) == "50.0"
    assert interval(Score(value=1.0, ci_low=0.9, ci_high=1.0, n=3)) == "100.0 [90.0, 100.0]"
    assert [small_percent(v) for v in (None, 0.0, 0.00012, 0.0034, 0.25, 1.0)] == [
        "-", "0.0", "0.012", "0.34", "25.0", "100.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0, "0.00"),
        (0.004, "0.004"),
        (-0.0042, "-0.004"),
        (0.005, "0.01"),
        (12345.678, "12,345.68"),
    ],
)
def test_what_was_measured_is_never_shown_as_nothing(value, shown):
    assert number(value, digits=2) == shown


def test_nothing_to_show():
    assert table([], 80) == ""
