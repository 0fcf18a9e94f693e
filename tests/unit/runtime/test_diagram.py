"""The reliability diagram shows what the calibration error is computed of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixed_lm import Fixed
from stored import write_run

from harness.contracts import Example
from harness.evidence.outcomes import Reader, groups, load_outcomes
from harness.report.chart_data import extras_of
from harness.runtime.evaluators.choice import predict, write_predictions
from harness.runtime.scoring.scores import all_scores
from harness.store.runs import Store

TEXTS = (
    ("Liver", "Heart", "Spleen", "Liver"),  # two letters of one text, neither the likeliest, together are
    ("Heart", "Liver ", " Liver", "Spleen"),
    ("Liver", "Heart", "Spleen", "Kidney"),
    ("Heart", "Spleen", "Kidney", "Liver"),
)
ITEMS = [Example(f"i{n}", f"Which {n}?", texts, n % 3) for n, texts in enumerate(TEXTS * 3)]


def stored(root: Path, toy: Any, scoring: Any) -> tuple[Store, float]:
    """A run of ITEMS, and its calibration error."""
    draw = np.random.default_rng(3)
    values = {(e.question, c): float(draw.normal(-2, 0.8)) for e in ITEMS for c in toy.choices(e, scoring)}

    def answer(context: str, choice: str) -> float:
        question = next(e.question for e in ITEMS if e.question in context)
        return next(v for (q, c), v in values.items() if q == question and c.strip() == choice.strip())

    predictions, _ = predict(Fixed(answer), toy, ITEMS, [], scoring)
    run_id = write_run(root, "lora", [int(p.correct) for p in predictions], scoring=scoring)
    write_predictions(predictions, Store(root).folder(run_id), None)
    return Store(root), all_scores(toy, predictions, [])["ece"].value


def drawn(store: Store, warnings: list[str]) -> float | None:
    """The calibration error of the diagram's bins."""
    (group,) = groups(store.records()[0])
    outcomes = load_outcomes(store, group, Reader(confidences=True))
    bins = extras_of(store, group, outcomes, 100, warnings.append).bins
    n = sum(b.n for b in bins)
    return sum(b.n / n * abs(b.confidence - b.accuracy) for b in bins) if bins else None


@pytest.mark.parametrize("scoring", ["letter", "cloze"])
def test_the_diagrams_calibration_error_is_the_stored_one(tmp_path: Path, toy: Any, scoring: str) -> None:
    """With options of one text, which count once: in the diagram too."""
    store, ece = stored(tmp_path, toy, scoring)
    assert drawn(store, []) == pytest.approx(ece, abs=1e-12)
    assert ece > 0.01


@pytest.mark.parametrize(
    "merged", [[math.nan] * 4, [-math.inf] * 4, [-1.0], [math.inf, -1.0, -1.0, -1.0]], ids=str
)
def test_damaged_merged_likelihoods_are_said(tmp_path: Path, toy: Any, merged: list[float]) -> None:
    store, _ = stored(tmp_path, toy, "letter")
    (run_id,) = store.run_ids()
    path = store.folder(run_id) / "predictions.parquet"
    table = pq.read_table(path)
    column = pa.array([merged, *table["merged"].to_pylist()[1:]], pa.list_(pa.float64()))
    place = table.column_names.index("merged")
    pq.write_table(table.set_column(place, "merged", column), path)
    warnings: list[str] = []
    assert drawn(store, warnings) is None
    assert "no reliability diagram" in warnings[0]
