"""Tuning: which rates are tried, how one is chosen, and that the test split stays out of it."""

from __future__ import annotations

import json

import pytest
from test_grid import STUB, cli, grid_child, seen  # noqa: F401 - fixtures

from harness.cli import main
from harness.errors import StoreError, UsageError
from harness.evidence.tuned import tuning_of
from harness.plan.trials import TUNING_SEED, fold_means, judge, rates, read_tuning, trials_of, with_rate
from harness.record import Cost, Failure, RunRecord, Score
from harness.spec import RunSpec
from harness.store.runs import Store

CENTRE = 5e-3  # the stub's 1e-3 times the model card's 5


@pytest.fixture
def runs(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture
def trials(tmp_path):
    return Store(tmp_path / "runs" / ".tune")


# --- rates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [1e-4]), (2, [3.16e-5, 3.16e-4]), (3, [2.15e-5, 1e-4, 4.64e-4]),
        (4, [1.78e-5, 5.62e-5, 1.78e-4, 5.62e-4]), (5, [1.58e-5, 3.98e-5, 1e-4, 2.51e-4, 6.31e-4]),
    ],
)  # fmt: skip
def test_rates_are_even_in_the_logarithm_around_the_centre(n, expected):
    assert rates(1e-4, n) == expected


def test_rates_stay_in_bounds_and_are_each_once():
    assert rates(10.0, 3) == [2.15, 10.0]
    assert all(0 < rate <= 10 for rate in rates(5.0, 9))
    for n in range(1, 12):
        assert all(0.1 <= rate / 1e-3 <= 10 for rate in rates(1e-3, n))


def test_trials_score_validation_and_differ_in_nothing_else(one):
    spec = one("--seed", "3", "--set", "strategy.r=4", "--limit", "900")
    found = trials_of(spec, 3, 1000)
    assert [t.train.learning_rate for t in found] == rates(CENTRE, 3)
    for trial in found:
        RunSpec.model_validate(trial.model_dump())
        assert (trial.task.split, trial.seed, trial.task.limit) == ("validation", TUNING_SEED, 900)
        back = trial.model_copy(update={"task": spec.task, "seed": 3, "train": spec.train})
        assert back == spec
    assert len({t.run_id for t in found} | {spec.run_id, with_rate(spec, 1e-4).run_id}) == 5
    assert trials_of(one("--seed", "5", "--set", "strategy.r=4", "--limit", "900"), 3, 1000) == found, (
        "shared by seeds"
    )
    assert trials_of(spec, 1, 1000) == []
    assert trials_of(one("--strategy", "stub-zero"), 3, 1000) == []


def test_the_tuning_seed_is_no_evaluation_seed(one, cli):  # noqa: F811
    """Seed 0 was both: the run at seed 0 was then the very one its rate was chosen by."""
    assert TUNING_SEED not in range(1000)
    assert all(trial.seed == TUNING_SEED for trial in trials_of(one(), 3, 1000))
    with pytest.raises(UsageError, match="is the one that learning rates are tuned with"):
        trials_of(one("--seed", str(TUNING_SEED)), 3, 1000)
    assert cli("--tune", "3", "--seed", str(TUNING_SEED))[0] == 2
    assert cli("--seed", str(TUNING_SEED))[0] == 0  # without tuning it is a seed like any other


@pytest.mark.parametrize(("validation_n", "limit", "folds"), [(200, None, 0), (199, None, 5), (1000, 150, 5)])
def test_few_validation_items_are_replaced_by_folds_of_train(one, validation_n, limit, folds):
    spec = one(*(["--limit", str(limit)] if limit else []))
    found = trials_of(spec, 3, validation_n)
    assert len(found) == 3 * max(folds, 1)
    assert {(t.task.split, t.task.fold) for t in found} == (
        {("train", k) for k in range(5)} if folds else {("validation", None)}
    )
    assert len({t.run_id for t in found}) == len(found)
    for trial in found:
        assert RunSpec.model_validate(trial.model_dump()) == trial


def test_the_choice_over_folds_is_the_lowest_mean_nll(cli, runs, trials, capsys):  # noqa: F811
    words = ("--task", "stub-few-validation", "--tune", "3")
    _, centre, high = rates(CENTRE, 3)
    # The accuracies say the highest rate; the folds' noise in nll is the largest there, and its mean is 0.
    code, _, err = cli(*words, best_rate=centre, accuracy=0.5, diverge_above=high * 0.9)
    assert code == 0
    assert len(trials.run_ids()) == 15
    (run_id,) = runs.run_ids()
    tuning = read_tuning(runs.folder(run_id))
    assert (tuning.chosen, tuning.folds, tuning.split, tuning.seed) == (centre, 5, "train", TUNING_SEED)
    assert "5 folds" in tuning.rule
    assert len(tuning.rates) == 3
    assert "mean nll 1.0000 over 5 folds of train" in err
    own = tuning_of(runs, [runs.record(run_id)])
    assert (own.trials, own.failed) == (3, 1)
    assert main(["show", run_id, "--results", str(runs.root)]) == 0
    out = capsys.readouterr().out
    assert "fold nll" in out
    assert f"Seed of the trials: {TUNING_SEED}" in out


def test_a_rate_that_failed_on_a_fold_is_not_chosen(one):
    spec = one()
    found = trials_of(spec, 2, 10)
    low, high = rates(CENTRE, 2)

    def record(trial, nll, status="ok"):
        scores = {"accuracy": Score(value=0.5, n=9), "nll": Score(value=nll, n=9)} if status == "ok" else {}
        return RunRecord.model_construct(
            run_id=trial.run_id, status=status, spec=trial, scores=scores, cost=Cost(),
            failure=None if status == "ok" else Failure(phase="train", kind="non_finite_loss", message="nan"),
        )  # fmt: skip

    nll = {low: [1.0, 1.2, 0.9, 1.1, 1.0], high: [0.1, 0.1, 0.1, 0.1, 0.1]}
    records = {t.run_id: record(t, nll[t.train.learning_rate][t.task.fold]) for t in found}
    assert judge(spec, found, records).chosen == high
    assert fold_means(judge(spec, found, records).trials)[low] == pytest.approx(1.04)
    broken = next(t for t in found if t.train.learning_rate == high and t.task.fold == 3)
    records[broken.run_id] = record(broken, 0.0, "failed")
    assert judge(spec, found, records).chosen == low


def test_a_tuning_stored_before_there_were_folds_is_read(cli, runs):  # noqa: F811
    cli("--tune", "3", best_rate=CENTRE)
    (run_id,) = runs.run_ids()
    path = runs.folder(run_id) / "tuning.json"
    stored = json.loads(path.read_text())
    del stored["folds"]
    stored["seed"] = 0
    for trial in stored["trials"]:
        del trial["fold"]
    path.write_text(json.dumps(stored))
    assert (read_tuning(runs.folder(run_id)).seed, read_tuning(runs.folder(run_id)).folds) == (0, 0)


# --- the choice -------------------------------------------------------------------------------


@pytest.fixture
def judged(one, runs, tmp_path, grid_child):  # noqa: F811
    """The choice among three trials of (accuracy, nll), None for one that failed."""

    def call(*scores):
        spec = one()
        found = trials_of(spec, len(scores), 1000)
        assert main([*STUB, "--tune", str(len(scores)), "--results", str(runs.root), "--quiet"]) == 0
        records = {}
        for trial, score in zip(found, scores, strict=True):
            record = Store(runs.root / ".tune").record(trial.run_id)
            if score is not None:
                values = {
                    name: Score(value=v, n=9) for name, v in zip(("accuracy", "nll"), score, strict=True)
                }
                records[trial.run_id] = record.model_copy(update={"scores": values})
            else:
                records[trial.run_id] = record.model_copy(update={"scores": {}, "status": "failed"})
        return [t.train.learning_rate for t in found], judge(spec, found, records)

    return call


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        (((0.5, 1.0), (0.6, 9.0), (0.4, 0.1)), 1),
        (((0.5, 1.0), (0.5, 0.9), (0.5, 0.95)), 1),
        (((0.5, 1.0), (0.5, 1.0), (0.4, 1.0)), 0),
        ((None, (0.1, 3.0), None), 1),
        ((None, None, None), None),
    ],
)
def test_accuracy_then_nll_then_the_lower_rate(judged, scores, best):
    tried, tuning = judged(*scores)
    assert tuning.chosen == (None if best is None else tried[best])
    assert len(tuning.trials) == 3


# --- the command ------------------------------------------------------------------------------


def test_the_best_rate_is_run_for_every_seed(cli, tmp_path, runs, trials):  # noqa: F811
    words = ("--strategy", "stub-tune,stub-zero", "--seed", "0,1", "--tune", "3", "--parallel", "2")
    best = rates(CENTRE, 3)[2]
    code, out, err = cli(*words, best_rate=best)
    assert code == 0
    assert len(trials.run_ids()) == 3
    assert len(runs.run_ids()) == 3
    tuned = [runs.record(run_id) for run_id in runs.run_ids() if "tune" in run_id]
    assert {(r.spec.train.learning_rate, r.spec.task.split) for r in tuned} == {(best, "test")}
    for record in tuned:
        tuning = read_tuning(runs.folder(record.run_id))
        assert tuning.chosen == best
        assert tuning.total_seconds == 90
        assert [trial.learning_rate for trial in tuning.trials] == rates(CENTRE, 3)
    assert read_tuning(runs.folder(next(i for i in runs.run_ids() if "zero" in i))) is None
    for run_id in trials.run_ids():
        assert trials.record(run_id).data.test_fingerprint == "validation"
    assert f"learning rate {best:g} of" in err
    assert "stub-tune (trials)" in err
    assert "validation" not in out, "trials are no rows"
    assert len(seen(tmp_path, "*")) == 3


def test_what_is_done_is_not_run_again(cli, tmp_path, runs, trials):  # noqa: F811
    first = cli("--tune", "3")
    when = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/**/seen.json")}
    assert len(when) == 4
    code, out, _ = cli("--tune", "3", accuracy=0.1)
    assert (code, out) == (0, first[1])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/**/seen.json")} == when
    cli("--tune", "3", "--seed", "0,1")
    assert len(trials.run_ids()) == 3, "another seed needs no other trials"
    cli("--tune", "3", "--force")
    assert all(path.stat().st_mtime_ns > then for path, then in when.items())


def test_a_run_that_was_there_before_gets_its_tuning(cli, runs):  # noqa: F811
    cli(best_rate=CENTRE)
    (run_id,) = runs.run_ids()
    assert read_tuning(runs.folder(run_id)) is None
    cli("--tune", "3", best_rate=CENTRE)
    assert runs.run_ids() == [run_id]
    assert read_tuning(runs.folder(run_id)).chosen == CENTRE


def test_diverged_trials_are_passed_over_and_not_tried_again(cli, tmp_path, runs, trials):  # noqa: F811
    _, centre, high = rates(CENTRE, 3)
    code, _, err = cli("--tune", "3", best_rate=high, diverge_above=centre)
    assert code == 0
    assert "non_finite_loss" in err
    (run_id,) = runs.run_ids()
    assert runs.record(run_id).spec.train.learning_rate == centre
    assert [t.failure for t in read_tuning(runs.folder(run_id)).trials] == [None, None, "non_finite_loss"]
    (diverged,) = (i for i in trials.run_ids() if trials.record(i).status == "failed")
    when = (trials.folder(diverged) / "seen.json").stat().st_mtime_ns
    cli("--tune", "3", best_rate=high)
    assert (trials.folder(diverged) / "seen.json").stat().st_mtime_ns == when


def test_all_trials_diverged_is_a_row_that_says_so(cli, runs):  # noqa: F811
    words = ("--tune", "2", "--strategy", "stub-tune,stub-zero")
    code, out, _ = cli(*words, diverge_above=1e-9)
    assert code == 1
    assert "none of 2 trials ended well" in out
    (failed,) = (r for r in runs.records()[0] if r.status == "failed")
    assert (failed.failure.kind, failed.failure.phase) == ("non_finite_loss", "tune")
    assert "--set train.learning_rate" in failed.failure.remedy
    assert cli(*words, diverge_above=1e-9)[0] == 1
    code, out, _ = cli("--set", "train.learning_rate=1e-10", *words, diverge_above=1e-9)
    assert code == 0


def test_show_tells_what_tuning_cost(cli, runs, capsys):  # noqa: F811
    cli("--tune", "3", best_rate=CENTRE)
    (run_id,) = runs.run_ids()
    assert main(["show", run_id, "--results", str(runs.root)]) == 0
    out = capsys.readouterr().out
    assert "Tuning: 3 trials, 1:30 min" in out
    assert "0.005 (chosen)" in out
    (runs.folder(run_id) / "tuning.json").write_text("{")
    assert main(["show", run_id, "--results", str(runs.root)]) == 2
    with pytest.raises(StoreError):
        read_tuning(runs.folder(run_id))


def test_a_tuning_of_wrong_values_is_refused_in_one_line(tmp_path):
    (tmp_path / "tuning.json").write_text('{"centre": "x", "chosen": "y", "trials": 7}')
    with pytest.raises(StoreError) as caught:
        read_tuning(tmp_path)
    assert "\n" not in caught.value.message
    assert "tuning.json cannot be read: centre: " in caught.value.message


def test_the_store_of_runs_does_not_see_trials(cli, runs):  # noqa: F811
    cli("--tune", "2")
    records, problems = runs.records()
    assert (len(records), problems) == (1, [])


def test_the_plan_says_what_is_open(cli):  # noqa: F811
    _, out, _ = cli("--tune", "3", "--seed", "0,1", "--dry-run")
    assert out.count("would be run as a trial") == 3
    assert out.count("would be run at the learning rate its trials choose") == 2
    assert "5 runs: 0 done, 5 to do" in out
    _, out, _ = cli("--tune", "3", "--seed", "0,1", "--dry-run", "--json")
    assert [item["trial"] for item in json.loads(out)] == [True] * 3 + [False] * 2
    cli("--tune", "3", "--seed", "0,1")
    _, out, _ = cli("--tune", "3", "--seed", "0,1", "--dry-run")
    assert out.count("already done") == 5


def test_a_study_may_ask_for_tuning(cli, tmp_path, trials):  # noqa: F811
    (tmp_path / "study.yaml").write_text("tune: 2\nset: {train.max_steps: 3}\n")
    assert cli("--study", str(tmp_path / "study.yaml"))[0] == 0
    assert len(trials.run_ids()) == 2
    assert cli("--study", str(tmp_path / "study.yaml"), "--tune", "4")[0] == 0
    assert len(trials.run_ids()) == 6


def test_trials_on_data_that_has_changed_are_refused(cli, tmp_path, trials):  # noqa: F811
    data = tmp_path / "data"
    data.mkdir()
    (data / "test.jsonl").write_text("one")
    words = ("--data", str(data), "--tune", "2")
    assert cli(*words, files={"test.jsonl": "0" * 64})[0] == 0
    code, _, err = cli(*words)
    assert code == 2
    assert "its data has changed since" in err
    assert "--force" in err


def test_weights_of_trials_are_not_kept(cli, runs, trials):  # noqa: F811
    cli("--tune", "2")
    assert not list(trials.root.glob("*/adapter"))
    assert len(list(runs.root.glob("*/adapter"))) == 1
