"""`compare`: figures worked out by hand, which runs are meant, and what must not be compared."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats
from stored import PACKAGES, bits, command, write_predictions, write_run

from harness.cli import main
from harness.plan.trials import Trial, Tuning, store_tuning
from harness.store.runs import Store

# 100 items: both 50, only A 15, only B 5, neither 30.
A = bits("1*50 1*15 0*5 0*30")
B = bits("1*50 0*15 1*5 0*30")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def cli(root, capsys):
    return command("compare", root, capsys)


@pytest.fixture
def data(cli):
    def call(*words):
        code, out, err = cli(*words, "--format", "json")
        assert code == 0, err
        return json.loads(out)["comparisons"]

    return call


# --- figures ----------------------------------------------------------------------------------


def test_one_seed_is_mcnemars_score_test_and_about_these_runs(root, data):
    a, b = write_run(root, "lora", A), write_run(root, "full", B)
    (found,) = data(a, b)
    assert found["table"] == {"both": 50, "only_a": 15, "only_b": 5, "neither": 30}
    verdict = found["verdict"]
    assert verdict["p"] == pytest.approx(stats.chi2.sf((15 - 5) ** 2 / 20, 1))
    assert verdict["difference"] == pytest.approx(0.10)
    assert (verdict["kind"], verdict["scope"]) == ("runs_differ", "runs")
    assert "not about the methods" in verdict["caveat"]
    assert "These two runs differ: that of lora is right 10.00 points more often" in verdict["text"]
    assert "better" not in verdict["text"]
    low, high = verdict["interval"]
    # Tango's interval holds the difference and is near the normal one: 0.1 +- 1.96 sqrt(0.19 / 100).
    half = 1.96 * math.sqrt(0.19 / 100)
    assert low == pytest.approx(0.1 - half, abs=0.02)
    assert high == pytest.approx(0.1 + half, abs=0.02)
    (other,) = data(b, a)
    assert other["verdict"]["kind"] == "runs_differ"
    assert "that of lora is right 10.00 points more often" in other["verdict"]["text"]
    assert other["verdict"]["interval"] == pytest.approx([-high, -low])


def test_bootstrap_is_near_the_multinomial_one(root, data):
    a, b = write_run(root, "lora", A), write_run(root, "full", B)
    (found,) = data(a, b)
    draws = np.random.default_rng(1).multinomial(100, [0.15, 0.05, 0.8], 20_000)
    expected = np.quantile((draws[:, 0] - draws[:, 1]) / 100, [0.025, 0.975])
    assert found["bootstrap_interval"] == pytest.approx(list(expected), abs=0.0101)


def test_equivalence_is_two_one_sided_tests(root, data):
    same = bits("1*120 0*80")
    a, b = write_run(root, "lora", same), write_run(root, "full", same)
    (found,) = data(a, b)
    # No item differs, so Tango's statistic at a margin m is sqrt(n m / (1 - m)).
    # The exact test beside it: no loss among 200 with a loss of 2 points has a chance of 0.98^200.
    z = math.sqrt(200 * 0.02 / 0.98)
    assert found["equivalence"]["p"] == pytest.approx(max(float(stats.norm.sf(z)), 0.98**200), rel=0.25)
    assert found["equivalence"]["p_lower"] == pytest.approx(found["equivalence"]["p_upper"])
    assert found["verdict"]["kind"] == "runs_within_margin"
    assert "These two runs of lora and full are within the margin of 2 points." in found["verdict"]["text"]
    (strict,) = data(a, b, "--margin", "1")
    assert strict["equivalence"]["p"] == pytest.approx(float(stats.norm.sf(math.sqrt(200 * 0.01 / 0.99))))
    assert strict["verdict"]["kind"] == "runs_show_no_difference"
    assert "within" not in strict["verdict"]["text"]


def test_holm_over_subgroups(root, data, cli):
    # b, c: 8 and 0, 6 and 0, 2 and 3 on three parts of 20 items.
    one = bits("1*8 0*12") + bits("1*6 0*14") + bits("11000 0*15")
    other = bits("0*20") + bits("0*20") + bits("00111 0*15")
    parts = ["s1"] * 20 + ["s2"] * 20 + ["s3"] * 20
    a = write_run(root, "lora", one, subgroups=parts)
    b = write_run(root, "full", other, subgroups=parts)
    (found,) = data(a, b)
    raw = [stats.chi2.sf(8, 1), stats.chi2.sf(6, 1), stats.chi2.sf(1 / 5, 1)]
    expected = [3 * raw[0], 2 * raw[1], raw[2]]
    assert [s["p_adjusted"] for s in found["subgroups"]] == pytest.approx(expected)
    assert [s["difference"] for s in found["subgroups"]] == pytest.approx([0.4, 0.3, -0.05])
    assert all(s["interval"][0] <= s["difference"] <= s["interval"][1] for s in found["subgroups"])
    _, out, _ = cli(a, b)
    assert "Shown to differ after Holm: s1, s2." in out


def test_holm_over_tasks_compared_at_once(root, data, cli):
    for task, pattern in (("medqa", "1*8 0*12"), ("pubmedqa", "1*6 0*14")):
        for strategy, correct in (("lora", bits(pattern)), ("full", bits("0*20"))):
            write_run(root, strategy, correct, task=task, title=task)
    found = data("lora", "full")
    raw = [stats.chi2.sf(8, 1), stats.chi2.sf(6, 1)]
    assert [c["verdict"]["p"] for c in found] == pytest.approx(raw)
    assert [c["verdict"]["p_adjusted"] for c in found] == pytest.approx([2 * raw[0], raw[1]])
    out = cli("lora", "full")[1]
    assert "One family of 2 comparisons" in out
    assert "lora against full on pubmedqa" in out
    assert "adjusted for 2 comparisons (Holm): [" in out
    (alone,) = data("lora", "full", "--task", "medqa")
    assert alone["verdict"]["p_adjusted"] == alone["verdict"]["p"]


def test_seeds_are_means_a_t_test_and_their_spread(root, data, cli):
    generator = np.random.default_rng(0)
    base = generator.random(300) < 0.5
    rows = {}
    for strategy, share in (("lora", 0.1), ("full", 0.2)):
        for seed in (0, 1, 2):
            right = np.where(generator.random(300) < share, False, base)
            rows[strategy, seed] = right
            write_run(root, strategy, right.astype(int).tolist(), seed=seed)
    (found,) = data("lora", "full")
    means = [np.stack([rows[name, s] for s in (0, 1, 2)]).mean(axis=0) for name in ("lora", "full")]
    assert found["verdict"]["difference"] == pytest.approx(float((means[0] - means[1]).mean()))
    assert (found["verdict"]["scope"], found["verdict"]["caveat"]) == ("methods", "")
    assert found["table"] is None
    values, counts = zip(*found["item_mean_differences"], strict=True)
    assert sum(counts) == 300
    assert np.dot(values, counts) / 300 == pytest.approx(found["verdict"]["difference"], abs=1e-5)
    accuracies = [rows["lora", s].mean() for s in (0, 1, 2)]
    assert found["a"]["accuracies"] == pytest.approx(accuracies)
    assert found["spread"]["accuracy_sd_a"] == pytest.approx(np.std(accuracies, ddof=1))
    items = np.std(means[0] - means[1], ddof=1) / math.sqrt(300) * stats.t.ppf(0.975, 299)
    low, high = found["items_interval"]
    assert (high - low) / 2 == pytest.approx(items)
    code, out, _ = cli("lora", "full")
    assert code == 0
    for expected in (
        "Accuracy by seed",
        "Items by their mean difference",
        "Spread of the accuracy over seeds",
    ):
        assert expected in out


def test_no_difference_names_what_could_have_been_shown(root, data):
    a, b = write_run(root, "lora", bits("1*6 0*4 1*10")), write_run(root, "full", bits("0*4 1*6 1*10"))
    (found,) = data(a, b)
    verdict = found["verdict"]
    assert verdict["kind"] == "runs_show_no_difference"
    assert f"{verdict['smallest_detectable'] * 100:.2f} points" in verdict["text"]


# --- which runs -------------------------------------------------------------------------------


def test_all_seeds_of_both_are_compared_as_in_a_report(root, data, tmp_path):
    """Left out, a seed made `compare` and `report` give two answers for one pair."""
    rng = np.random.default_rng(4)
    ability = rng.uniform(0.2, 0.9, 300)
    for strategy, seeds in (("lora", (0, 1, 2)), ("full", (1, 2, 3, 4))):
        for seed in seeds:
            write_run(root, strategy, (rng.random(300) < ability).astype(int).tolist(), seed=seed)
    (found,) = data("lora", "full")
    assert [len(found[side]["runs"]) for side in "ab"] == [3, 4]
    assert [d["what"] for d in found["audit"]] == ["seeds"]
    out = tmp_path / "report.json"
    assert main(["report", "--results", str(root), "--out", str(out)]) == 0
    (table,) = json.loads(out.read_text())["tables"]
    told = [cell for row in table["rows"] for cell in row["cells"] if cell["label"] == "lora"]
    reported, compared = told[0]["verdict"], found["verdict"]
    assert {key: reported[key] for key in reported} == {key: compared[key] for key in reported}


def test_every_two_of_several(root, data, cli):
    rng = np.random.default_rng(4)
    for strategy, level in (("lora", 0.6), ("full", 0.8), ("ia3", 0.4)):
        for seed in (0, 1, 2):
            write_run(root, strategy, (rng.random(300) < level).astype(int).tolist(), seed=seed)
    found = data("lora", "full", "ia3", "--all-pairs")
    assert [(c["a"]["name"], c["b"]["name"]) for c in found] == [
        ("lora", "full"), ("lora", "ia3"), ("full", "ia3"),
    ]  # fmt: skip
    assert {c["verdict"]["comparisons"] for c in found} == {3}
    assert cli("lora", "full", "ia3")[0] == 2


def test_an_assumed_seed_deviation_is_said_everywhere(root, data, cli):
    a, b = write_run(root, "lora", A), write_run(root, "full", B)
    (found,) = data(a, b, "--assume-seed-sd", "1.5")
    (runs,) = data(a, b)
    verdict = found["verdict"]
    assert (verdict["kind"], verdict["scope"]) == ("better", "methods_assumed_sd")
    assert verdict["assumed_seed_sd"] == 0.015
    assert verdict["interval"][0] < runs["verdict"]["interval"][0]
    for form in ("text", "markdown"):
        out = cli(a, b, "--assume-seed-sd", "1.5", "--format", form)[1].replace("\\", "")
        assert "lora is better than full" in out
        assert "Assumes a seed sd of 1.5 points." in out
    assert data(a, b, "--assume-seed-sd", "20")[0]["verdict"]["kind"] == "no_difference_shown"
    assert cli(a, b, "--assume-seed-sd", "0")[0] == 2


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_one_seed_says_in_every_format_that_it_is_about_runs(root, cli, form):
    a, b = write_run(root, "lora", A), write_run(root, "full", B)
    out = cli(a, b, "--format", form)[1].replace("\\", "")
    assert "One run of a side: about these runs, not about the methods." in out
    assert "run three seeds" in out
    assert "better" not in out


def test_a_strategy_without_training_keeps_its_own_seed(root, data):
    for seed in (1, 2):
        write_run(root, "lora", A, seed=seed)
    write_run(root, "zero-shot", B, trains=False)
    (found,) = data("--strategy", "lora,zero-shot")
    assert found["a"]["runs"] != found["b"]["runs"]
    assert len(found["a"]["runs"]) == 2
    assert found["audit"] == []


def test_one_run_beside_several_seeds_speaks_of_methods_only_where_nothing_is_drawn(root, data):
    """Zero-shot has no seed to vary; another seed of few-shot would draw other worked examples."""
    rng = np.random.default_rng(0)
    for seed in (1, 2, 3):
        write_run(root, "lora", (rng.random(200) < 0.6).astype(int), seed=seed)
    one = (rng.random(200) < 0.5).astype(int)
    write_run(root, "zero-shot", one, trains=False)
    write_run(root, "few-shot", one, trains=False, shots=5)
    zero, few = (data("lora", name)[0] for name in ("zero-shot", "few-shot"))
    for found in (zero, few):
        assert [len(found[side]["runs"]) for side in "ab"] == [3, 1]
    assert [found["verdict"]["scope"] for found in (zero, few)] == ["methods", "runs"]
    assert zero["items_interval"] == few["items_interval"] == few["verdict"]["interval"]
    assert [d["what"] for d in zero["audit"]] == []
    assert "seeds" in [d["what"] for d in few["audit"]]


def test_names_prefixes_lists_and_variants(root, data, cli):
    a = write_run(root, "lora", A, settings={"r": 8})
    write_run(root, "lora", B, settings={"r": 16})
    b = write_run(root, "full", B)
    b1 = write_run(root, "full", B, seed=1)
    for words in ((a, b), (a[:30], b.rpartition("-")[2]), ("lora (r=8)", b)):
        (found,) = data(*words)
        assert found["a"]["runs"] == [a]
        assert found["b"]["runs"] == [b]
    a1 = write_run(root, "lora", A, settings={"r": 8}, seed=1)
    (found,) = data(f"{a},{a1}", f"{b1},{b}")
    assert (found["a"]["runs"], found["b"]["runs"]) == ([a, a1], [b, b1])
    (found,) = data(a, f"{b1},{b}")
    assert found["b"]["runs"] == [b, b1]
    (found,) = data("lora (r=8)", "lora (r=16)")
    assert [found[side]["name"] for side in "ab"] == ["lora (r=8)", "lora (r=16)"]
    code, _, err = cli("lora", "full")
    assert code == 2
    assert "'lora' has 2 groups of runs here" in err
    assert "lora (r=8): MedQA (built-in sample)" in err
    code, _, err = cli(f"{a},{b}", b)
    assert code == 2
    assert "differ in more than the seed" in err


def test_a_run_against_itself_and_against_another_seed(root, data):
    a, other = write_run(root, "lora", A), write_run(root, "lora", B, seed=1)
    (found,) = data(a, a)
    assert found["verdict"]["difference"] == 0
    assert "both sides are the same runs" in found["notes"]
    (found,) = data(a, other)
    assert [found[side]["name"] for side in "ab"] == ["lora (seed 0)", "lora (seed 1)"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lorra", "full"], "no run and no strategy 'lorra'"),
        (["lorra", "full"], "did you mean 'lora'?"),
        (["lora"], "compare takes two runs or two strategies, not 1"),
        (["lora", "full", "lora"], "not 3"),
        (["lora", "full", "--task", "pubmedqa"], "no run of 'lora' has --task pubmedqa"),
        (["lora", "bad"], "no run of 'bad' ended well"),
        (["medqa-", "full"], "is the start of 3 runs"),
        (["lora", "full", "--margin", "0"], "'0' is not a number of points"),
        (["lora", "full", "--assume-seed-sd", "x"], "not a number of points"),
        (["lora", "full", "--margin", "nan"], "not a number of points"),
        (["lora", "full", "--seed", "x"], "not a list of seeds"),
        (["lora", "full", "--format", "html"], "invalid choice"),
    ],
)
def test_asked_wrongly(root, cli, words, expected):
    write_run(root, "lora", A)
    write_run(root, "full", B)
    write_run(root, "bad", B, failed=True)
    code, out, err = cli(*words)
    assert code == 2
    assert out == ""
    assert expected in err
    assert "Traceback" not in err


def test_runs_without_scores(root, cli):
    a, bad = write_run(root, "lora", A), write_run(root, "bad", B, failed=True)
    code, _, err = cli(a, bad)
    assert code == 2
    assert f"run {bad} failed (out_of_memory)" in err
    (root / a / "record.json").unlink()
    write_run(root, "full", B)
    code, _, err = cli(a, "full")
    assert code == 2
    assert "unfinished" in err


def test_broken_predictions(root, cli):
    a, b = write_run(root, "lora", A), write_run(root, "full", B)
    (root / a / "predictions.parquet").write_bytes(b"PAR1 not really")
    code, _, err = cli(a, b)
    assert code == 2
    assert "predictions.parquet cannot be read" in err


# --- audit ------------------------------------------------------------------------------------


def test_neither_side_was_tuned_is_in_the_audit(root, data, cli):
    a, b = write_run(root, "lora", A), write_run(root, "full", B)
    (found,) = data(a, b)
    assert any(note.startswith("neither side was tuned") for note in found["notes"])
    out = cli(a, b)[1]
    assert "neither side was tuned" in out[out.index("Audit:") :]


def test_nothing_else_differs(root, cli):
    write_run(root, "lora", A)
    write_run(root, "full", B, train={"learning_rate": 1e-4})
    assert "Audit: nothing differs besides the strategy and its learning rate." in cli("lora", "full")[1]


def test_the_audit_names_exactly_what_differs(root, data):
    a = write_run(root, "lora", A)
    b = write_run(root, "full", B, packages={**PACKAGES, "torch": "2.9.0"}, steps=20, train={"batch_size": 8})
    (found,) = data(a, b)
    assert {d["what"]: (d["one"], d["other"]) for d in found["audit"]} == {
        "package torch": ("2.8.0", "2.9.0"),
        "training steps": ("10", "20"),
        "training tokens": ("1000", "2000"),
        "train.batch_size": ("16", "8"),
    }


@pytest.mark.parametrize(
    ("other", "names"),
    [
        ({"scoring": "letter", "items": "u" * 64}, ["scoring: cloze against letter"]),
        ({"items": "u" * 64}, ["test items: 100 (tttttttttttt) against 100 (uuuuuuuuuuuu)"]),
        ({"title": "MedQA"}, ["data set: MedQA (built-in sample) against MedQA"]),
    ],
)
def test_scores_that_must_not_be_compared(root, cli, other, names):
    a, b = write_run(root, "lora", A), write_run(root, "full", B, **other)
    code, out, err = cli(a, b)
    assert code == 2
    assert out == ""
    assert "must not be compared" in err
    assert [line.removeprefix("  - ") for line in err.splitlines() if line.startswith("  - ")] == names


def test_other_ids_are_other_items(root, cli):
    a = write_run(root, "lora", A)
    b = write_run(root, "full", B, ids=[f"x{i}" for i in range(100)])
    code, _, err = cli(a, b)
    assert code == 2
    assert "different items (100 and 100, 0 in common)" in err


def test_items_in_another_order_are_the_same(root, data):
    a = write_run(root, "lora", A)
    b = write_run(root, "full", B)
    (before,) = data(a, b)
    write_predictions(root / b, B[::-1], [f"item-{i}" for i in reversed(range(100))])
    (after,) = data(a, b)
    assert after["table"] == before["table"]


def test_costs_only_on_one_kind_of_device(root, data):
    a, b = write_run(root, "lora", A), write_run(root, "full", B, memory=20 * 2**30)
    (found,) = data(a, b)
    memory = next(row for row in found["costs"] if row["name"].startswith("GPU memory"))
    assert (memory["a"], memory["b"], memory["ratio"]) == (10, 20, 0.5)
    c = write_run(root, "ia3", B, device="Other GPU")
    (found,) = data(a, c)
    assert {row["name"] for row in found["costs"]} == {"trained share", "adapter"}
    assert found["cost_note"].endswith("1 x Test GPU against 1 x Other GPU")


# --- shown ------------------------------------------------------------------------------------


def test_names_do_no_harm(root, cli):
    evil = "\x1b[31mx\n::error::y|<script>alert(1)</script>‮"
    a, b = write_run(root, evil, A), write_run(root, "full", B, packages={"torch": "\x1b]0;t\x07"})
    code, text, _ = cli(a, b)
    assert code == 0
    assert "\x1b" not in text
    assert "‮" not in text
    assert not [line for line in text.splitlines() if line.startswith("::")]
    _, markdown, _ = cli(a, b, "--format", "markdown")
    assert "<script>" not in markdown
    assert "\x1b" not in markdown
    for line in markdown.splitlines():
        if line.startswith("| "):
            assert len(line.replace("\\|", "").strip("|").split("|")) in (2, 3, 5)


def test_all_formats_say_the_same(root, cli, data):
    a, b = write_run(root, "lora", A), write_run(root, "full", B)
    (found,) = data(a, b)
    for form in ("text", "markdown"):
        _, out, _ = cli(a, b, "--format", form)
        out = out.replace("\\", "")
        assert found["verdict"]["text"] in out
        low, high = (f"{end * 100:+.2f}" for end in found["verdict"]["interval"])
        assert f"[{low}, {high}]" in out
        assert "p = 0.0253" in out


def test_tuning_is_a_cost_and_in_the_audit_where_it_differs(root, data, cli):
    """One side chose of three rates, the other had its default; zero-shot has none to choose."""
    lora = write_run(root, "lora", A)
    write_run(root, "full", B)
    write_run(root, "zero-shot", B, trains=False)
    trials = tuple(
        Trial(run_id=f"t{rate}", learning_rate=rate, status="ok", total_seconds=20.0) for rate in (1e-4, 1e-3)
    )
    store_tuning(Store(root), lora, Tuning(centre=1e-3, chosen=1e-3, trials=trials))
    (found,) = data("lora", "full")
    assert ("learning rates tried", "2", "none (not tuned)") in [
        (d["what"], d["one"], d["other"]) for d in found["audit"]
    ]
    assert found["tuning"]["a"]["total_seconds"] == 40.0
    assert found["tuning"]["b"] is None
    costs = {row["name"]: (row["a"], row["b"], row["ratio"]) for row in found["costs"]}
    assert costs["learning rates tried"] == (2, 0, None)
    assert costs["time of these trials"] == (40.0, 0.0, None)
    _, out, _ = cli("lora", "full")
    assert "learning rates tried: 2 against none (not tuned)" in out
    assert not [note for note in found["notes"] if "tuned" in note]
    (found,) = data("lora", "zero-shot")
    assert not [note for note in found["notes"] if "tuned" in note]
    assert "learning rates tried" not in [d["what"] for d in found["audit"]]
