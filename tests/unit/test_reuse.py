"""What a stored result was made of, and that a change of it is noticed before the result is used again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from stored import command, write_run

from harness.errors import UsageError
from harness.evidence.outcomes import groups
from harness.io.files import write_json_atomic
from harness.io.hashes import changes, file_sha256, hashes, remembered_sha256
from harness.plan.reuse import data_changes, input_changes
from harness.record import ModelInfo, RunRecord
from harness.spec import ModelSpec
from harness.store.model_files import files_read, model_changes
from harness.store.runs import Store
from harness.store.trained_on import TrainedOn, check_trained_on, write_trained_on
from tasks.medqa import MedQA

HUB_ID = "org/model"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("harness.io.hashes.SETTLED_SECONDS", -1.0)  # these files are all just written


# --- remembered hashes --------------------------------------------------------------------------


def test_a_file_replaced_at_the_same_size_and_time_is_hashed_anew(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    os.utime(path, ns=(10**18, 10**18))
    assert remembered_sha256(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"two")
    os.utime(path, ns=(10**18, 10**18))
    assert remembered_sha256(path) == hashlib.sha256(b"two").hexdigest()
    other = tmp_path / "other"
    other.write_bytes(b"six")
    os.utime(other, ns=(10**18, 10**18))
    other.replace(path)
    assert remembered_sha256(path) == hashlib.sha256(b"six").hexdigest()


def test_a_file_just_written_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.io.hashes.SETTLED_SECONDS", 3.0)
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    remembered_sha256(path)
    assert not (tmp_path / "cache" / "sha256").exists()


@pytest.mark.parametrize("damage", ["[]", "{", '{"sha256": 1}', '{"sha256": "x"}', "pipe"])
def test_a_damaged_memory_costs_time_only(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    expected = remembered_sha256(path)
    (memo,) = (tmp_path / "cache" / "sha256").iterdir()
    memo.unlink()
    os.mkfifo(memo) if damage == "pipe" else memo.write_text(damage)
    assert remembered_sha256(path) == expected


def test_only_a_blob_of_the_hubs_cache_is_named_by_its_hash(tmp_path: Path) -> None:
    name = "ab" * 32
    for folder, expected in (("blobs", name), ("mine", hashlib.sha256(b"x").hexdigest())):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"x")
        link = tmp_path / f"link-{folder}"
        link.symlink_to(tmp_path / folder / name)
        assert file_sha256(link) == expected


# --- models -------------------------------------------------------------------------------------


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(name)
    return folder


def info(folder: Path, **more: Any) -> ModelInfo:
    given = {
        "source": "dir",
        "revision": None,
        "fingerprint": "f",
        "files": hashes(files_read(folder)),
        **more,
    }
    return ModelInfo.model_validate({"dtype": "float32", **given})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.safetensors", "model.safetensors is changed"),
        ("config.json", "config.json is changed"),
        ("tokenizer.json", "tokenizer.json is changed"),
        ("generation_config.json", "generation_config.json is new"),
        ("adapter_config.json", "adapter_config.json is new"),
        ("chat_template.jinja", "chat_template.jinja is new"),
        ("more.safetensors", "more.safetensors is new"),
    ],
)
def test_a_model_folder_that_changed_is_noticed(tmp_path: Path, name: str, told: str) -> None:
    folder = model_folder(tmp_path / "model")
    stored, spec = info(folder), ModelSpec(name=str(folder))
    assert model_changes(spec, stored) == []
    (folder / name).write_text("something else")
    assert model_changes(spec, stored) == [f"{told} in {folder}"]


def test_a_file_that_is_gone_is_noticed_and_one_that_is_not_read_is_not(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    stored, spec = info(folder), ModelSpec(name=str(folder))
    (folder / "trainer_state.json").write_text("{}")
    (folder / "README.md").write_text("read me")
    assert model_changes(spec, stored) == []
    (folder / "tokenizer.json").unlink()
    assert model_changes(spec, stored) == [f"tokenizer.json is gone in {folder}"]


def test_an_old_record_knows_the_weights_by_their_fingerprint(tmp_path: Path) -> None:
    from harness.store.model_files import weights_sha256

    folder = model_folder(tmp_path / "model")
    stored = info(folder, files={}, fingerprint=weights_sha256(folder))
    assert model_changes(ModelSpec(name=str(folder)), stored) == []
    (folder / "model.safetensors").write_text("others")
    assert model_changes(ModelSpec(name=str(folder)), stored) == [f"weights are changed in {folder}"]


def cached(tmp_path: Path, commit: str) -> Path:
    """A model in the Hub's cache, whose main branch is at `commit`."""
    repository = tmp_path / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    return model_folder(repository / "snapshots" / commit)


def test_a_branch_that_moved_is_noticed(tmp_path: Path) -> None:
    folder = cached(tmp_path, "a" * 40)
    stored, spec = info(folder, source="hub", revision="a" * 40), ModelSpec(name=HUB_ID)
    assert model_changes(spec, stored) == []
    cached(tmp_path, "b" * 40)
    assert model_changes(spec, stored) == [f"{HUB_ID} is at commit {'b' * 12} and was at {'a' * 12}"]
    assert model_changes(ModelSpec(name=HUB_ID, revision="a" * 40), stored) == []
    shutil.rmtree(tmp_path / "hub")
    assert model_changes(spec, stored) == []  # nothing is known to have changed


def test_a_random_model_depends_on_the_shape_alone(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    stored = info(folder, source="random", fingerprint=None, files=hashes(files_read(folder, weights=False)))
    spec = ModelSpec(name=f"random:{folder}")
    (folder / "model.safetensors").write_text("others")
    assert model_changes(spec, stored) == []
    (folder / "config.json").write_text("other shape")
    assert model_changes(spec, stored) == [f"config.json is changed in {folder}"]


# --- data ---------------------------------------------------------------------------------------


def row(number: int) -> dict[str, Any]:
    options = {letter: f"option {letter} of {number}" for letter in "ABCD"}
    return {"question": f"Question {number}?", "options": options, "answer_idx": "B"}


def write(folder: Path, name: str, numbers: range) -> None:
    (folder / name).write_text("".join(json.dumps(row(n)) + "\n" for n in numbers))


@pytest.fixture
def medqa(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder, "train.jsonl", range(20))
    write(folder, "test.jsonl", range(30, 34))
    return folder


def stored_run(root: Path, data: Path, *, split: str = "test") -> RunRecord:
    """The record of a run on `data`, as the runtime writes it."""
    from harness.contracts import DataSource

    run_id = write_run(root, "lora", [1, 0])
    record = Store(root).record(run_id)
    assert record.data is not None
    task = record.spec.task.model_copy(update={"source": str(data), "split": split})
    files = MedQA().load(DataSource("dir", data)).files
    return record.model_copy(
        update={
            "spec": record.spec.model_copy(update={"task": task}),
            "data": record.data.model_copy(update={"source": "dir", "files": files}),
        }
    )


@pytest.mark.parametrize("name", ["dev.jsonl", "valid.jsonl", "val.jsonl", "validation.jsonl"])
def test_a_split_that_came_later_is_noticed(tmp_path: Path, medqa: Path, name: str) -> None:
    record = stored_run(tmp_path / "runs", medqa)
    assert input_changes(record, MedQA()) == ""
    write(medqa, name, range(50, 54))
    assert input_changes(record, MedQA()) == f"its data has changed since: {name} is new in {medqa}"


def test_what_no_split_is_read_from_may_come_and_go(tmp_path: Path, medqa: Path) -> None:
    record = stored_run(tmp_path / "runs", medqa)
    (medqa / "notes.txt").write_text("mine")
    (medqa / "predictions.jsonl").write_text("{}\n")
    assert input_changes(record, MedQA()) == ""


def test_a_trial_does_not_depend_on_the_test_split(tmp_path: Path, medqa: Path) -> None:
    write(medqa, "validation.jsonl", range(50, 54))
    record = stored_run(tmp_path / "runs", medqa, split="validation")
    assert record.data is not None
    write(medqa, "test.jsonl", range(70, 74))
    assert data_changes(record.spec, record.data, MedQA()) == []
    (medqa / "validation.jsonl").unlink()
    assert data_changes(record.spec, record.data, MedQA()) == [f"validation.jsonl is gone in {medqa}"]


def test_a_task_that_names_no_files_is_asked_for_its_items(tmp_path: Path, medqa: Path) -> None:
    from harness.contracts import DataSource
    from harness.items import data_fingerprint

    class Silent(MedQA):
        def files(self, source: Any, parts: Any = ()) -> None:
            return None

    task = Silent()
    splits = task.load(DataSource("dir", medqa))
    record = stored_run(tmp_path / "runs", medqa)
    assert record.data is not None
    scoring = record.spec.task.scoring
    whole = data_fingerprint(task, scoring, (splits.train, splits.validation, splits.test))
    data = record.data.model_copy(update={"fingerprint": whole})
    assert data_changes(record.spec, data, task) == []
    write(medqa, "dev.jsonl", range(50, 54))
    assert data_changes(record.spec, data, task) == [f"the items are others in {medqa}"]


def test_the_sample_of_another_version_is_noticed(tmp_path: Path) -> None:
    run_id = write_run(tmp_path / "runs", "lora", [1, 0])
    record = Store(tmp_path / "runs").record(run_id)
    assert record.data is not None
    files = hashes(MedQA().files(_sample()))
    data = record.data.model_copy(update={"files": files})
    assert data_changes(record.spec, data, MedQA()) == []
    name = next(iter(files))
    data = record.data.model_copy(update={"files": {**files, name: "0" * 64}})
    assert data_changes(record.spec, data, MedQA()) == [f"{name} is changed"]


def _sample() -> Any:
    from harness.contracts import DataSource

    return DataSource("sample")


def test_a_data_set_that_moved_on_the_hub_is_noticed(tmp_path: Path) -> None:
    run_id = write_run(tmp_path / "runs", "lora", [1, 0])
    record = Store(tmp_path / "runs").record(run_id)
    assert record.data is not None
    task = record.spec.task.model_copy(update={"source": "hub"})
    spec = record.spec.model_copy(update={"task": task})
    data = record.data.model_copy(update={"source": "hub", "revision": "a" * 40})
    refs = tmp_path / "hub" / f"datasets--{MedQA.hub_id.replace('/', '--')}" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("a" * 40)
    assert data_changes(spec, data, MedQA()) == []
    (refs / "main").write_text("b" * 40)
    assert data_changes(spec, data, MedQA()) == [
        f"{MedQA.hub_id} is at commit {'b' * 12} and was at {'a' * 12}"
    ]


# --- seeds and checkpoints ----------------------------------------------------------------------


def test_seeds_of_other_weights_are_no_group(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, "lora", [1, 0], seed=seed)
    records, _ = Store(tmp_path).records()
    assert [group.seeds for group in groups(records)] == [(0, 1)]
    assert records[1].model is not None
    other = records[1].model_copy(update={"model": records[1].model.model_copy(update={"fingerprint": "n"})})
    assert [group.seeds for group in groups([records[0], other])] == [(0,), (1,)]


def test_a_checkpoint_of_other_data_or_another_model_is_not_gone_on_from(tmp_path: Path) -> None:
    before = TrainedOn(data="d", data_files={"train.jsonl": "1"}, model_files={"model.safetensors": "2"})
    check_trained_on(before, tmp_path, resumes=True)  # a run of before such files were written
    write_trained_on(before, tmp_path)
    check_trained_on(before, tmp_path, resumes=True)
    # Another layout of the same rows changes nothing that training sees.
    check_trained_on(before.model_copy(update={"data_files": {"train.jsonl": "9"}}), tmp_path, resumes=True)
    other = before.model_copy(update={"data": "e", "data_files": {"train.jsonl": "1", "dev.jsonl": "3"}})
    check_trained_on(other, tmp_path, resumes=False)
    with pytest.raises(UsageError, match=r"training data has changed since: dev\.jsonl is new") as caught:
        check_trained_on(other, tmp_path, resumes=True)
    assert "--no-resume" in caught.value.remedy
    with pytest.raises(UsageError, match=r"model has changed since: model\.safetensors is changed"):
        check_trained_on(
            before.model_copy(update={"model_files": {"model.safetensors": "8"}}), tmp_path, resumes=True
        )


def test_changes_are_told_by_name() -> None:
    assert changes({"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "d": "5"}) == [
        "a is gone", "c is changed", "d is new",
    ]  # fmt: skip


# --- show ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "told"), [("hub", "weights not hashed"), ("random", "random weights")])
def test_show_calls_only_random_weights_random(
    source: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = write_run(tmp_path, "lora", [1, 0])
    record = Store(tmp_path).record(run_id)
    assert record.model is not None
    model = record.model.model_copy(update={"source": source, "fingerprint": None})
    write_json_atomic(tmp_path / run_id / "record.json", record.model_copy(update={"model": model}))
    code, out, _ = command("show", tmp_path, capsys)(run_id)
    assert code == 0
    assert told in " ".join(out.split())
    assert ("random weights" in out) == (source == "random")
