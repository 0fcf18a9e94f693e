"""`check`: its gates, its exit codes, its saved files and its formats."""

from __future__ import annotations

import gzip
import json
import random
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored import GIB, PACKAGES, bits, command, write_run

import harness.evidence.anchor as anchor_module
from harness.errors import EXIT_UNDECIDED, UsageError
from harness.evidence.anchor import difference_of_changes
from harness.evidence.gates import Limits, items_needed
from harness.stats import exact
from harness.stats.mcnemar import Table
from harness.store.runs import Store

N = 1273  # MedQA's test items
GENERATOR = random.Random(5)
BASE = [int(GENERATOR.random() < 0.5) for _ in range(N)]
NEW = {"torch": "2.9.0", "peft": "0.18.0"}


def worsened(correct, points, churn=0.0, seed=0):
    """`correct` with so many points fewer right, and `churn` of the items flipped both ways besides."""
    generator = random.Random(seed)
    right = [i for i, c in enumerate(correct) if c]
    wrong = [i for i, c in enumerate(correct) if not c]
    both = round(len(correct) * churn / 2)
    found = list(correct)
    for i in generator.sample(right, round(len(correct) * points / 100) + both):
        found[i] = 0
    for i in generator.sample(wrong, both):
        found[i] = 1
    return found


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def cli(root, capsys):
    return command("check", root, capsys)


@pytest.fixture
def check(cli):
    """The exit code and each gate's outcome of a check of `candidate` against `baseline`."""

    def call(baseline, candidate, *words):
        code, out, err = cli(
            "--baseline", str(baseline), "--candidate", candidate, "--format", "json", *words
        )
        assert out, err
        result = json.loads(out)
        assert result["exit_code"] == code
        return code, {gate["name"]: gate for gate in result["gates"]}, result

    return call


def outcomes(gates):
    return {name: gate["outcome"] for name, gate in gates.items()}


ALL_PASS = dict.fromkeys(("quality", "environment", "memory", "throughput", "trainable"), "pass")

# --- quality ----------------------------------------------------------------------------------


def test_a_run_against_itself_passes(root, check):
    run = write_run(root, "lora", BASE)
    code, gates, _ = check(run, run)
    assert (code, outcomes(gates)) == (0, ALL_PASS)
    # The exact bound where no item differs: the loss m with (1 - m)^n = 0.05.
    assert gates["quality"]["numbers"]["lower"] == pytest.approx(0.05 ** (1 / N) - 1, abs=2e-5)


@pytest.mark.parametrize("churn", [0.0, 0.1, 0.2])
def test_five_points_worse_fails(root, check, churn):
    base = write_run(root, "lora", BASE)
    bad = write_run(root, "new", worsened(BASE, 5, churn))
    code, gates, _ = check(base, bad)
    assert (code, gates["quality"]["outcome"]) == (1, "fail")
    assert gates["quality"]["numbers"]["difference"] == pytest.approx(-64 / N)
    assert gates["quality"]["numbers"]["upper"] < -0.02
    code, gates, _ = check(bad, base)
    assert (code, gates["quality"]["outcome"]) == (0, "pass")


def test_a_few_items_cannot_tell(root, check):
    base = write_run(root, "lora", BASE[:30])
    for bad in (BASE[:30], worsened(BASE[:30], 4), worsened(BASE[:30], 4, 0.2)):
        candidate = write_run(root, "new", bad)
        code, gates, _ = check(base, candidate)
        assert (code, gates["quality"]["outcome"]) == (4, "cannot_tell")
        assert "30 items do not decide it" in gates["quality"]["message"]


def test_worse_but_perhaps_within_the_margin_cannot_tell_and_says_so(root, check):
    base, bad = write_run(root, "lora", BASE), write_run(root, "new", worsened(BASE, 2.5, 0.1))
    code, gates, _ = check(base, bad)
    assert (code, gates["quality"]["outcome"]) == (4, "cannot_tell")
    assert "it is worse (p = 0.0" in gates["quality"]["message"]
    assert check(base, bad, "--margin", "6")[0] == 0
    assert check(base, bad, "--margin", "0.5", "--confidence", "0.9")[0] == 1


def test_items_needed_is_what_it_takes():
    """With 80% power: (1.6449 + 0.8416)^2 = 6.1826 times the discordant share over the squared margin."""
    assert items_needed(0.0, Limits()) == 149
    assert items_needed(0.1, Limits()) == 1546
    assert items_needed(0.2, Limits()) == 3092
    assert items_needed(0.1, Limits(), power=0.5) == 677


def test_with_the_items_needed_four_of_five_checks_pass():
    """Equal runs that disagree on a tenth of the items: how often is a loss of 2 points excluded?"""
    n = items_needed(0.1, Limits())
    rng = np.random.default_rng(0)
    passed = 0
    for b, c, rest in rng.multinomial(n, (0.05, 0.05, 0.9), 250).tolist():
        passed += exact.p_at_most(Table(0, b, c, rest), -0.02) < 0.05
    assert passed / 250 == pytest.approx(0.8, abs=0.075)


def test_the_items_needed_pass(root, check):
    for n, expected in ((148, 4), (149, 0)):
        run = write_run(root, "lora", BASE[:n])
        assert check(run, run)[0] == expected


def test_groups_over_seeds(root, check):
    for seed in (0, 1, 2):
        write_run(root, "lora", worsened(BASE, 0, 0.05, seed), seed=seed)
        write_run(root, "good", worsened(BASE, 0, 0.05, seed + 10), seed=seed)
        write_run(root, "bad", worsened(BASE, 6, 0.05, seed + 20), seed=seed)
    code, gates, result = check("lora", "good")
    assert code == 0
    assert result["candidate"]["seeds"] == [0, 1, 2]
    assert gates["quality"]["numbers"]["scope"] == "methods"
    assert result["caveat"] == ""
    assert check("lora", "bad")[0] == 1


# --- cost gates -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "gate", "outcome", "ratio"),
    [
        ({"memory": 12 * GIB}, "memory", "fail", 1.2),
        ({"memory": 11 * GIB}, "memory", "pass", 1.1),
        ({"speed": 850.0}, "throughput", "fail", 0.85),
        ({"speed": 900.0}, "throughput", "pass", 0.9),
        ({"fraction": 0.011}, "trainable", "fail", 1.1),
        ({"fraction": 0.0}, "trainable", "pass", 0.0),
    ],
)
def test_ratios(root, check, other, gate, outcome, ratio):
    base, new = write_run(root, "lora", BASE), write_run(root, "new", BASE, **other)
    code, gates, _ = check(base, new)
    assert outcomes(gates) == {**ALL_PASS, gate: outcome}
    assert gates[gate]["numbers"]["ratio"] == pytest.approx(ratio)
    assert code == (1 if outcome == "fail" else 0)
    assert check(base, new, "--gates", "quality")[0] == 0
    loose = ("--max-memory-ratio", "2", "--min-throughput-ratio", "0.5", "--max-trainable-ratio", "2")
    assert check(base, new, *loose)[0] == 0


def test_other_devices_cannot_be_told(root, check):
    base, new = write_run(root, "lora", BASE), write_run(root, "lora2", BASE, device="Other", memory=99 * GIB)
    code, gates, _ = check(base, new)
    expected = {**ALL_PASS, **dict.fromkeys(("environment", "memory", "throughput"), "cannot_tell")}
    assert (code, outcomes(gates)) == (4, expected)
    assert "1 x Test GPU and 1 x Other" in gates["memory"]["message"]
    assert check(base, new, "--gates", "quality,trainable")[0] == 0


def test_a_fail_goes_before_what_cannot_be_told(root, check):
    base, new = write_run(root, "lora", BASE), write_run(root, "new", worsened(BASE, 5), device="Other")
    assert check(base, new)[0] == 1


def test_what_was_not_measured(root, check):
    base, new = write_run(root, "lora", BASE), write_run(root, "new", BASE, speed=None)
    code, gates, _ = check(base, new)
    assert (code, gates["throughput"]["outcome"]) == (4, "cannot_tell")
    assert "not measured in the candidate" in gates["throughput"]["message"]
    code, gates, _ = check(new, new)
    assert (code, gates["throughput"]["outcome"], gates["throughput"]["required"]) == (
        0,
        "cannot_tell",
        False,
    )


def test_without_a_gpu_it_is_the_hosts_memory_and_without_training_evaluation_speed(root, check):
    run = write_run(root, "zero-shot", BASE, trains=False, memory=None)
    code, gates, _ = check(run, run)
    assert code == 0
    assert gates["memory"]["message"].startswith("host memory")
    assert gates["throughput"]["message"].startswith("evaluation speed")


# --- audit and environment --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"scoring": "letter", "items": "u" * 64}, "scoring: cloze against letter"),
        ({"title": "MedQA"}, "data set: MedQA (built-in sample) against MedQA"),
        ({"items": "u" * 64}, "test items: 1273 (tttttttttttt) against 1273 (uuuuuuuuuuuu)"),
    ],
)
def test_what_must_not_be_compared(root, check, other, named):
    base, new = write_run(root, "lora", BASE), write_run(root, "new", BASE, **other)
    code, gates, _ = check(base, new)
    assert (code, outcomes(gates)) == (4, {"quality": "cannot_tell"})
    assert gates["quality"]["message"].endswith(named)


def test_a_new_method_in_a_new_environment_needs_an_anchor(root, check):
    base, new = write_run(root, "lora", BASE), write_run(root, "new", BASE, packages=NEW)
    code, gates, result = check(base, new)
    assert (code, outcomes(gates)) == (4, {**ALL_PASS, "environment": "cannot_tell"})
    assert "package torch: 2.8.0 against 2.9.0" in gates["environment"]["message"]
    assert "an anchor run is needed" in gates["environment"]["message"]
    assert [d["what"] for d in result["audit"]] == ["package torch"]


def test_one_method_in_a_new_environment_is_what_is_checked(root, cli, check, tmp_path):
    saved = tmp_path / "base.json.gz"
    write_run(root, "lora", BASE)
    assert cli("--save", str(saved), "--candidate", "lora")[0] == 0
    write_run(root, "lora", BASE, packages=NEW)
    code, gates, _ = check(saved, "lora")
    assert (code, outcomes(gates)) == (0, ALL_PASS)
    assert "an anchor run is needed" in gates["environment"]["message"]
    write_run(root, "lora", worsened(BASE, 5), packages=NEW)
    assert check(saved, "lora")[0] == 1


# --- anchor -----------------------------------------------------------------------------------


@pytest.fixture
def rerun(monkeypatch):
    """Makes the anchor's run give these outcomes, in this environment."""
    made = []

    def use(correct, packages=NEW, **others):
        def run_local(spec, store, options, on_event):
            made.append(spec.run_id)
            write_run(store.root, spec.strategy.name, correct, seed=spec.seed, packages=packages, **others)
            return store.record(spec.run_id)

        monkeypatch.setattr(anchor_module, "run_local", run_local)
        return made

    return use


def test_the_environment_changed(root, check, rerun):
    base, new = write_run(root, "lora", BASE), write_run(root, "new", worsened(BASE, 5, 0.02), packages=NEW)
    made = rerun(worsened(BASE, 5, 0.02))
    code, gates, _ = check(base, new, "--anchor", "lora")
    assert made == [base]
    assert code == 0
    assert (gates["quality"]["outcome"], gates["quality"]["required"]) == ("fail", False)
    assert (gates["environment"]["outcome"], gates["environment"]["required"]) == ("fail", False)
    assert gates["environment"]["numbers"]["difference"] == pytest.approx(-64 / N)
    assert (gates["method"]["outcome"], gates["method"]["required"]) == ("pass", True)
    assert gates["method"]["numbers"]["difference"] == pytest.approx(0)
    assert check(base, new, "--anchor", "lora")[0] == 0
    assert made == [base]  # taken from where it was run before


def test_the_method_changed(root, check, rerun):
    base, new = write_run(root, "lora", BASE), write_run(root, "new", worsened(BASE, 5, 0.02), packages=NEW)
    rerun(BASE)
    code, gates, _ = check(base, new, "--anchor", "lora")
    assert code == 1
    assert gates["environment"]["outcome"] == "pass"
    assert (gates["method"]["outcome"], gates["method"]["required"]) == ("fail", True)


def test_a_hidden_loss_is_found(root, check, rerun):
    base, new = (
        write_run(root, "lora", worsened(BASE, 6)),
        write_run(root, "new", worsened(BASE, 6), packages=NEW),
    )
    rerun(BASE)  # the environment alone gives six points
    code, gates, _ = check(base, new, "--anchor", "lora")
    assert (code, gates["quality"]["outcome"], gates["method"]["outcome"]) == (1, "pass", "fail")


def test_an_anchor_that_is_another_method_than_the_baseline(root, check, rerun):
    base = write_run(root, "lora", BASE)
    write_run(root, "zero-shot", worsened(BASE, 20), trains=False)
    new = write_run(root, "new", worsened(BASE, 5), packages=NEW)
    rerun(worsened(BASE, 25), trains=False)
    code, gates, _ = check(base, new, "--anchor", "zero-shot")
    change = -(318 - 255) / N  # 25 and 20 points of 1,273 items
    assert gates["environment"]["numbers"]["difference"] == pytest.approx(change)
    assert gates["method"]["numbers"]["difference"] == pytest.approx(-64 / N - change)
    assert gates["method"]["numbers"]["method"] == "t-test of the difference of changes over items"
    assert code in (0, 4)


def test_an_anchor_from_the_baselines_file(root, cli, check, rerun, tmp_path):
    saved = tmp_path / "base.json.gz"
    write_run(root, "lora", BASE)
    write_run(root, "zero-shot", BASE, trains=False)
    assert cli("--save", str(saved), "--candidate", "lora", "--anchor", "zero-shot")[0] == 0
    for run_id in Store(root).run_ids():
        (root / run_id / "record.json").unlink()
        (root / run_id / "spec.json").unlink()
    write_run(root, "new", BASE, packages=NEW)
    rerun(BASE, trains=False)
    code, gates, _ = check(saved, "new", "--anchor", "zero-shot")
    assert (code, gates["environment"]["outcome"], gates["method"]["outcome"]) == (0, "pass", "pass")
    code, _, err = cli("--baseline", str(saved), "--candidate", "new", "--anchor", "ia3")
    assert code == 2
    assert "no anchor 'ia3' in the baseline's file (it has: zero-shot, lora)" in err


def test_anchors_that_tell_nothing(root, cli, rerun):
    base, new = write_run(root, "lora", BASE), write_run(root, "new", BASE, packages=NEW)
    words = ("--baseline", base, "--candidate", new, "--anchor")
    rerun(BASE, packages={"torch": "2.10.0", "peft": "0.18.0"})
    code, _, err = cli(*words, "lora")
    assert code == 2
    assert (
        "the anchor ran in another environment than the candidate: package torch: 2.10.0 against 2.9.0" in err
    )
    write_run(root, "ia3", BASE, packages={"torch": "1.0"})
    code, _, err = cli(*words, "ia3")
    assert code == 2
    assert "in another environment than the baseline" in err
    rerun(BASE, failed=True)
    code, _, err = cli(*words, "lora")
    assert code == 2
    assert "the anchor run" in err
    assert "out_of_memory" in err


def test_no_anchor_run_where_the_environment_is_the_same(root, check, rerun):
    base, new = write_run(root, "lora", BASE), write_run(root, "new", BASE)
    made = rerun(BASE)
    code, _, result = check(base, new, "--anchor", "lora")
    assert (code, made) == (0, [])
    assert "no anchor run is needed" in result["notes"][0]


# --- saved files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base.json", "deep/base.json.gz"])
def test_a_saved_file_is_the_run(root, cli, check, tmp_path, name):
    saved = tmp_path / name
    ids = [f"patient {i}" for i in range(N)]
    run = write_run(root, "lora", BASE, ids=ids)
    code, out, _ = cli("--save", str(saved), "--candidate", run)
    assert code == 0
    assert f"saved lora (1 runs, {N} items) to {saved}" in out
    data = saved.read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    assert "patient" not in text
    assert check(saved, run)[0] == 0
    assert check(saved, str(saved))[0] == 0
    bad = write_run(root, "new", worsened(BASE, 5), ids=ids)
    code, gates, _ = check(saved, bad)
    assert code == 1
    assert gates["quality"]["numbers"] == check(run, bad)[1]["quality"]["numbers"]
    other = write_run(root, "other", BASE)
    code, _, err = cli("--baseline", str(saved), "--candidate", other)
    assert code == 2
    assert "0 in common" in err


def tampered(change):
    def apply(data):
        value = json.loads(data)
        change(value)
        return json.dumps(value).encode()

    return apply


BROKEN = {
    "cut off": (lambda data: data[: len(data) // 2], "broken or cut off"),
    "empty": (lambda data: b"", "broken or cut off"),
    "no text": (lambda data: b"\xff\xfe\x00", "broken or cut off"),
    "cut off gzip": (lambda data: gzip.compress(data)[:-20], "broken or cut off"),
    "broken gzip": (lambda data: b"\x1f\x8b" + data, "broken or cut off"),
    "other JSON": (lambda data: b'{"a": 1}', "is no baseline of medtune"),
    "a list": (lambda data: b"[1]", "is no baseline of medtune"),
    "too deep": (lambda data: b"[" * 200_000, "broken or cut off"),
    "a newer one": (tampered(lambda v: v.update(version=3)), "has version 3, this medtune reads 1 and 2"),
    "changed": (tampered(lambda v: v.update(created="later")), "was changed after it was saved"),
    "no digest": (tampered(lambda v: v.pop("sha256")), "was changed after it was saved"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files(root, cli, tmp_path, kind):
    saved = tmp_path / "base.json"
    run = write_run(root, "lora", BASE)
    cli("--save", str(saved), "--candidate", run)
    breaks, expected = BROKEN[kind]
    saved.write_bytes(breaks(saved.read_bytes()))
    code, out, err = cli("--baseline", str(saved), "--candidate", run)
    assert (code, out) == (2, "")
    assert expected in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda g: g.update(correct=["AAAA"]), "expected 1273"),
        (lambda g: g.update(correct=["!"]), "no base64"),
        (lambda g: g["correct"].append(g["correct"][0]), "1 records and 2 rows"),
        (lambda g: g["items"].__setitem__(0, g["items"][1]), "there twice"),
        (lambda g: g["items"].__setitem__(0, "What is 2 + 2?"), "not 16 hex digits"),
        (lambda g: g.update(clusters=["0" * 16]), "1273 items and 1 clusters"),
        (lambda g: g.update(clusters=["patient 1"] * N), "not 16 hex digits"),
        (lambda g: g["records"][0].update(status="failed"), "does not fit"),
        (lambda g: g.update(extra=1), "Extra inputs"),
    ],
)
def test_files_whose_content_does_not_fit(root, cli, tmp_path, change, expected):
    from harness.evidence.saved import _digest

    saved = tmp_path / "base.json"
    run = write_run(root, "lora", BASE)
    cli("--save", str(saved), "--candidate", run)
    value = json.loads(saved.read_text())
    value.pop("sha256")
    change(value["baseline"])
    saved.write_text(json.dumps({**value, "sha256": _digest(value)}))
    code, _, err = cli("--baseline", str(saved), "--candidate", run)
    assert code == 2
    assert expected in err


def test_the_folder_of_a_run_elsewhere(root, check, tmp_path):
    write_run(root, "lora", BASE)
    elsewhere = tmp_path / "old"
    run = write_run(elsewhere, "lora", BASE)
    code, _, result = check(elsewhere / run, "lora")
    assert code == 0
    assert result["baseline"]["runs"] == [run]


# --- asked wrongly ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--candidate", "lora"], "either --baseline B"),
        (["--candidate", "lora", "--baseline", "lora", "--save", "x.json"], "either --baseline B"),
        (["--baseline", "lora"], "--candidate"),
        (["--baseline", "lorra", "--candidate", "lora"], "did you mean 'lora'?"),
        (["--baseline", "no.json", "--candidate", "lora"], "there is no file no.json"),
        (["--baseline", "lora", "--candidate", "lora"], "check takes one baseline at a time, these are 2"),
        (["--save", "x.json", "--candidate", "lora"], "'lora' has 2 groups of runs"),
        (["--baseline", "lora", "--candidate", "lora", "--margin", "100"], "not a number of points"),
        (
            ["--baseline", "lora", "--candidate", "lora", "--confidence", "95"],
            "not a share between 0.5 and 1",
        ),
        (["--baseline", "lora", "--candidate", "lora", "--max-memory-ratio", "0"], "not a ratio above 0"),
        (["--baseline", "lora", "--candidate", "lora", "--gates", "qality"], "did you mean 'quality'?"),
    ],
)
def test_asked_wrongly(root, cli, words, expected):
    for task in ("medqa", "pubmedqa"):
        write_run(root, "lora", BASE, task=task, title=task)
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert expected in err


def test_filters_choose(root, check):
    for task in ("medqa", "pubmedqa"):
        write_run(root, "lora", BASE, task=task, title=task)
    assert check("lora", "lora", "--task", "medqa")[0] == 0


# --- formats ----------------------------------------------------------------------------------

EVIL = "x\n::error::owned<script>%|\x1b[31m##[error]"


@pytest.fixture
def evil(root):
    base = write_run(root, EVIL, BASE)
    new = write_run(root, "new", worsened(BASE, 5), packages={**PACKAGES, "torch": EVIL}, memory=99 * GIB)
    return "--baseline", base, "--candidate", new


def test_github(cli, evil, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    code, out, _ = cli(*evil, "--format", "github")
    assert code == 1
    commands = [line for line in out.splitlines() if line.lstrip().startswith("::")]
    assert len(commands) == 5
    assert [line.split(" ")[0] for line in commands].count("::error") == 2
    assert commands[0].startswith(
        "::error title=medtune check%2C quality%3A FAIL (these runs)::accuracy changed by -5.03 points"
    )
    assert "about these runs, not about the methods" in commands[0]
    assert "got worse. [one run of a side: about these runs, not about the methods]" in out
    assert "##[" not in out
    assert "\x1b" not in out
    text = summary.read_text()
    assert "| quality | FAIL (these runs) |" in text.replace("\\", "")
    assert "<script>" not in text
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    _, out, _ = cli(*evil, "--format", "github")
    assert text.strip() in out
    assert len([line for line in out.splitlines() if line.lstrip().startswith("::")]) == 5
    assert "##[" not in out


def test_junit(cli, evil):
    code, out, _ = cli(*evil, "--format", "junit")
    assert code == 1
    suites = ET.fromstring(out)
    assert suites.attrib == {"tests": "5", "failures": "2", "errors": "1", "skipped": "0"}
    cases = {case.get("name"): case for case in suites.iter("testcase")}
    assert cases["quality"].find("failure") is not None
    assert cases["environment"].find("error") is not None
    assert cases["trainable"].find("failure") is None
    assert "\x1b" not in out


def test_text(cli, evil):
    code, out, _ = cli(*evil)
    assert code == 1
    assert "Check: Fail: the candidate got worse." in out
    assert "\x1b" not in out
    assert "99 GiB, ratio 9.900, allowed at most 1.1" in " ".join(out.split())


def test_all_formats_give_the_same_numbers(root, cli):
    base, new = write_run(root, "lora", BASE), write_run(root, "new", worsened(BASE, 5))
    for form in ("text", "github", "junit", "json"):
        code, out, _ = cli("--baseline", base, "--candidate", new, "--format", form)
        assert code == 1
        assert "-5.03" in out


@pytest.mark.parametrize("form", ["text", "github", "junit", "json"])
def test_one_seed_is_said_and_an_assumption_too(root, cli, form):
    base, new = write_run(root, "lora", BASE), write_run(root, "new", BASE)
    words = ("--baseline", base, "--candidate", new, "--format", form)
    code, out, _ = cli(*words)
    assert code == 0
    assert "one run of a side: about these runs, not about the methods" in " ".join(out.split())
    code, out, _ = cli(*words, "--assume-seed-sd", "0.5")
    assert code == 0
    assert "assumes a seed sd of 0.5 points" in " ".join(out.split())
    code, out, _ = cli(*words, "--assume-seed-sd", "3")
    assert code == 4


FACTS = [f"patient {i // 10}" for i in range(1200)]
WORSE = [1] * 1160 + [0] * 40
"""120 facts asked ten times each are no 1,200 items: the loss of one fact in thirty is not shown."""


def in_clusters(root, *runs):
    """The runs, with items that belong together."""
    for run in runs:
        path = root / run / "predictions.parquet"
        table = pq.read_table(path)
        pq.write_table(table.append_column("cluster", pa.array(FACTS)), path)
    return runs


def test_items_that_belong_together_count_as_one(root, check):
    base, new = write_run(root, "lora", [1] * 1200), write_run(root, "new", WORSE)
    assert check(base, new)[0] == 1
    in_clusters(root, base, new)
    code, gates, _ = check(base, new)
    assert (code, gates["quality"]["outcome"]) == (4, "cannot_tell")
    assert gates["quality"]["numbers"]["method"] == "t-test over clusters"


def test_items_that_belong_together_do_so_in_saved_files(root, cli, check, tmp_path):
    stored = in_clusters(root, write_run(root, "lora", [1] * 1200), write_run(root, "new", WORSE))
    saved = [tmp_path / name for name in ("base.json", "new.json")]
    for path, run in zip(saved, stored, strict=True):
        assert cli("--save", str(path), "--candidate", run)[0] == 0
        assert "patient" not in path.read_text()
    expected = check(*stored)
    assert expected[0] == 4
    for sides in ((saved[0], str(saved[1])), (saved[0], stored[1]), (stored[0], str(saved[1]))):
        code, gates, _ = check(*sides)
        assert (code, gates["quality"]["numbers"]) == (4, expected[1]["quality"]["numbers"])


def test_a_file_says_its_version_by_what_is_in_it(root, cli, tmp_path):
    """A medtune of before reads what holds nothing that is new to it, and refuses what does."""
    saved = tmp_path / "base.json"
    alone = write_run(root, "lora", [1] * 1200)
    (together,) = in_clusters(root, write_run(root, "new", WORSE))
    cli("--save", str(saved), "--candidate", alone)
    value = json.loads(saved.read_text())
    assert (value["version"], "clusters" in value["baseline"]) == (1, False)
    cli("--save", str(saved), "--candidate", together)
    value = json.loads(saved.read_text())
    assert (value["version"], len(set(value["baseline"]["clusters"]))) == (2, 120)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_items_that_belong_together_count_as_one_beside_an_anchor(root, check, rerun, seeds):
    sides: dict[str, list[str]] = {"lora": [], "new": []}
    for seed in seeds:  # each seed has an item of its own right or wrong, so that seeds vary
        flipped = [1] * 1200
        flipped[seed] = 0
        sides["lora"].append(write_run(root, "lora", flipped, seed=seed))
        sides["new"].append(write_run(root, "new", WORSE, seed=seed, packages=NEW))
    anchor = write_run(root, "zero-shot", [1] * 1200, trains=False)
    rerun([1] * 1200, trains=False)
    words = (",".join(sides["lora"]), ",".join(sides["new"]), "--anchor", "zero-shot")
    code, gates, _ = check(*words)
    assert (code, gates["method"]["outcome"]) == (1, "fail")
    in_clusters(root, *sides["lora"], *sides["new"], anchor)
    code, gates, _ = check(*words)
    assert (code, gates["method"]["outcome"]) == (4, "cannot_tell")
    over_seeds = " and seeds" if len(seeds) > 1 else ""
    method = f"t-test of the difference of changes over clusters{over_seeds}"
    assert gates["method"]["numbers"]["method"] == method


def test_clusters_of_one_item_change_no_difference_of_changes():
    generator = np.random.default_rng(1)
    sides = [(generator.random((3, 200)) < 0.6).astype(float) for _ in range(4)]
    fixed = [False] * 4
    alone = difference_of_changes(sides, fixed)
    assert alone.method.endswith("over items and seeds")
    each = difference_of_changes(sides, fixed, clusters=[f"c{i}" for i in range(200)])
    assert each.interval == pytest.approx(alone.interval, rel=1e-12)
    halves = difference_of_changes(sides, fixed, clusters=[i // 100 for i in range(200)])
    assert (
        halves.items_interval[1] - halves.items_interval[0]
        > alone.items_interval[1] - alone.items_interval[0]
    )
    with pytest.raises(UsageError, match="one cluster is too few"):
        difference_of_changes(sides, fixed, clusters=[0] * 200)


def test_cannot_tell_is_not_asked_wrongly(root, cli):
    run = write_run(root, "lora", BASE[:30])
    assert cli("--baseline", run, "--candidate", run)[0] == EXIT_UNDECIDED == 4
    assert cli("--baseline", run, "--candidate", "lorra")[0] == 2


def test_bits_helper():
    assert bits("1*3 0 10") == [1, 1, 1, 0, 1, 0]
