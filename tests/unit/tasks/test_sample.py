"""The built-in sample: sizes, balance, no test wording in train, the same rows everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from harness.contracts import DataSource, Example, Splits
from tasks import sample
from tasks.medqa import MedQA
from tasks.pubmedqa import LABELS, PubMedQA
from tasks.sample import _check

ROOT = Path(__file__).parents[3]
SAMPLE = DataSource("sample")


@pytest.fixture(scope="module")
def medqa() -> Splits:
    return MedQA().load(SAMPLE)


@pytest.fixture(scope="module")
def pubmedqa() -> Splits:
    return PubMedQA().load(SAMPLE)


def facts(examples: tuple[Example, ...], subgroup: str = "seen") -> set[str]:
    return {e.id.rpartition("-w")[0] for e in examples if e.subgroup == subgroup}


def test_the_tables_hold() -> None:
    assert _check.problems() == []


def test_the_check_sees_broken_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    def fact(name: str, answer: str, *wordings: str) -> sample.Fact:
        return sample.Fact(name, answer, wordings)

    told = fact("f1", "Gout", "Is this gout?", "What swells a toe?", "What swells a toe?")
    group = sample.Group(
        "joints", "medicine", "step3", (told, fact("f1", "gout", "x")), (fact("u", "Lupus", "y"),)
    )
    monkeypatch.setattr(sample, "read_groups", lambda: (group,))
    found = "\n".join(_check.problems())
    for problem in (
        "2 facts, expected at least 300",
        "fact id 'f1' is there 2 times",
        "wording 'what swells a toe?' is there 2 times",
        "step is 'step3'",
        "joints: answer 'gout' is there 2 times",
        "a wording contains its answer 'Gout'",
        "f1: 1 wordings, expected 3",
        "u: 'Lupus' is not an answer of a trained fact",
    ):
        assert problem in found


def test_medqa_sizes(medqa: Splits) -> None:
    assert len(medqa.train) >= 600
    assert (len(medqa.validation), len(medqa.test)) == (100, 200)
    assert Counter(example.subgroup for example in medqa.test) == {"seen": 150, "unseen": 50}
    assert {example.subgroup for example in (*medqa.train, *medqa.validation)} == {"seen"}


def test_what_is_asked_where(medqa: Splits) -> None:
    trained = facts(medqa.train)
    assert facts(medqa.test) < trained
    assert facts(medqa.validation) < trained
    assert not facts(medqa.test) & facts(medqa.validation)
    assert not facts(medqa.test, "unseen") & trained
    assert not {e.question for e in medqa.test} & {e.question for e in (*medqa.train, *medqa.validation)}


def test_test_rows_are_spread_over_the_groups(medqa: Splits) -> None:
    group_of = {f.id: g.name for g in sample.read_groups() for f in (*g.facts, *g.unseen)}
    seen = Counter(group_of[fact] for fact in facts(medqa.test))
    unseen = Counter(group_of[fact] for fact in facts(medqa.test, "unseen"))
    assert seen.keys() == unseen.keys() == set(group_of.values())
    assert max(seen.values()) - min(seen.values()) <= 1
    assert max(unseen.values()) - min(unseen.values()) <= 1


@pytest.mark.parametrize("subgroup", ["seen", "unseen"])
def test_the_wordings_of_a_fact_are_one_cluster(medqa: Splits, subgroup: str) -> None:
    every = [e for e in (*medqa.train, *medqa.validation, *medqa.test) if e.subgroup == subgroup]
    assert {e.cluster for e in every} == {e.id.rpartition("-w")[0] for e in every}


@pytest.mark.parametrize("subgroup", ["seen", "unseen"])
def test_gold_positions_are_balanced(medqa: Splits, subgroup: str) -> None:
    for split in (medqa.train, medqa.validation, medqa.test):
        counts = Counter(example.gold for example in split if example.subgroup == subgroup)
        assert not counts or max(counts.values()) - min(counts[gold] for gold in range(4)) <= 1


def test_options_are_answers_of_the_group(medqa: Splits) -> None:
    answers = {
        f.id: {fact.answer for fact in g.facts} for g in sample.read_groups() for f in (*g.facts, *g.unseen)
    }
    for example in (*medqa.train, *medqa.validation, *medqa.test):
        assert len(set(example.options)) == 4
        assert set(example.options) <= answers[example.id.rpartition("-w")[0]]


def test_pubmedqa_sizes_and_labels(pubmedqa: Splits) -> None:
    splits = {"train": pubmedqa.train, "validation": pubmedqa.validation, "test": pubmedqa.test}
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 200, "validation": 50, "test": 100}
    ids = [example.id for rows in splits.values() for example in rows]
    assert len(set(ids)) == len(ids)
    everywhere = Counter(example.gold for rows in splits.values() for example in rows)
    for rows in splits.values():
        here = Counter(example.gold for example in rows)
        for gold in range(len(LABELS)):
            assert abs(here[gold] - everywhere[gold] * len(rows) / len(ids)) < 1.5


def test_it_is_never_mistaken_for_the_real_thing(medqa: Splits, pubmedqa: Splits) -> None:
    assert (medqa.title, pubmedqa.title) == ("MedQA (built-in sample)", "PubMedQA (built-in sample)")
    for splits in (medqa, pubmedqa):
        assert (splits.source, splits.comparable, splits.revision) == ("sample", False, None)
        assert "built-in sample" in splits.note
        assert splits.files
        assert all(len(sha256) == 64 for sha256 in splits.files.values())


def test_rows_can_be_changed_without_changing_the_next_readers() -> None:
    sample.medqa_rows()["test"][0]["options"]["A"] = "CHANGED"
    sample.pubmedqa_rows()["test"][0]["context"]["contexts"].append("CHANGED")
    assert "CHANGED" not in json_of_rows()


def test_the_same_in_every_process() -> None:
    code = "import json; from tasks import sample; print(json.dumps([sample.medqa_rows(), sample.pubmedqa_rows()]))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert outputs[0] == outputs[1] == json_of_rows() + "\n"


def test_tasks_import_nothing_heavy() -> None:
    code = (
        "import sys, tasks.medqa, tasks.pubmedqa, tasks.sample\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'numpy', 'pyarrow'} & sys.modules.keys()\n"
        "raise SystemExit(', '.join(sorted(heavy)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == ""


def json_of_rows() -> str:
    return json.dumps([sample.medqa_rows(), sample.pubmedqa_rows()])
