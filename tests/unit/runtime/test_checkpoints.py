"""Checkpoints: what is written, which one is gone on from, and what becomes of damaged ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.contracts import Strategy
from harness.errors import HarnessError, UsageError
from harness.runtime.training.checkpoints import (
    Progress,
    complete,
    load_trained,
    make_room,
    refuse_other_processes,
    save_trained,
    usable,
)
from harness.store.leftovers import COMPLETE, delete_checkpoint, last_checkpoint, whole_checkpoints
from strategies.full import Full
from strategies.ia3 import IA3
from strategies.lora import Lora
from strategies.peft import Peft
from strategies.prefix import Prefix

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

Train = Callable[..., Any]


def write(
    folder: Path, step: int, *, whole: bool = True, best: str | None = None, processes: int = 1
) -> Path:
    """A checkpoint of one file, in a folder of checkpoints."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text(f"weights {step}")
    for rank in range(processes if processes > 1 else 0):
        (checkpoint / f"rng_state_{rank}.pth").write_text(f"random state {rank}")
    if whole:
        steps = folder.parent / "steps.jsonl"
        steps.write_text("".join(f'{{"step": {i + 1}}}\n' for i in range(step)))
        complete(checkpoint, Progress({"steps": step}, {}, False, best, processes), steps)
    return checkpoint


def found(folder: Path) -> Path | None:
    usable_one, _ = usable(folder)
    return usable_one.path if usable_one else None


def test_the_last_whole_checkpoint_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert usable(folder) == (None, [])
    write(folder, 100, whole=False)
    assert usable(folder) == (None, [])
    write(folder, 9)
    expected = write(folder, 10)  # 10 comes after 9, though not by name
    assert found(folder) == expected
    assert last_checkpoint(tmp_path) == 10


@pytest.mark.parametrize(
    "stray", ["checkpoint-x", "checkpoint-", "checkpoint--1", "checkpoint-٣", "checkpoint-1.0"]
)
def test_a_stray_folder_is_no_checkpoint_and_stays(stray: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    expected = write(folder, 2)
    shutil.copytree(expected, folder / stray)
    assert found(folder) == expected
    write(folder, 4)
    make_room(folder / "checkpoint-6")
    assert (folder / stray / "weights").exists()
    assert last_checkpoint(tmp_path) == 4


def test_room_is_made_before_the_next_is_written(tmp_path: Path) -> None:
    """The newest whole one stays, and the best that it names: both are needed until the next is whole."""
    folder = tmp_path / "checkpoints"
    for step, best in ((2, "checkpoint-2"), (4, "checkpoint-4"), (6, "checkpoint-4"), (8, "checkpoint-4")):
        write(folder, step, best=best)
    write(folder, 10, whole=False)
    make_room(folder / "checkpoint-12")
    assert {path.name for path in folder.iterdir()} == {"checkpoint-4", "checkpoint-8"}


def test_room_is_not_made_of_what_another_process_has_written_already(tmp_path: Path) -> None:
    """The second process may be first: its random state went, and the run went on to another result."""
    folder = tmp_path / "checkpoints"
    write(folder, 2)
    theirs = folder / "checkpoint-4" / "rng_state_1.pth"
    theirs.parent.mkdir()
    theirs.write_text("the second process's")
    make_room(folder / "checkpoint-4")
    assert theirs.read_text() == "the second process's"


def test_a_checkpoint_that_lacks_a_process_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    before = write(folder, 2, processes=2)
    lacking = write(folder, 4, whole=False)
    (lacking / "rng_state_0.pth").write_text("random state 0")
    complete(lacking, Progress({"steps": 4}, {}, False, None, 2), tmp_path / "steps.jsonl")
    usable_one, passed_over = usable(folder)
    assert usable_one is not None
    assert usable_one.path == before
    assert passed_over == ["checkpoint-4 is damaged (process 1 left no random state)"]


def test_a_checkpoint_killed_while_deleted_is_not_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = write(tmp_path / "c", 2), write(tmp_path / "c", 4)

    def killed(path: Path, **_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        delete_checkpoint(old)
    assert whole_checkpoints(tmp_path / "c") == [new]


def test_all_is_on_the_disk_before_the_mark_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves what was not synced empty or as zeros."""
    synced: set[int] = set()
    fsync, replace = os.fsync, Path.replace

    def note(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def mark(self: Path, target: Path) -> Any:
        if Path(target).name == COMPLETE:
            missing = [path.name for path in [folder, *folder.iterdir()] if path.stat().st_ino not in synced]
            assert missing == []
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "replace", mark)
    folder = tmp_path / "c" / "checkpoint-2"
    write(tmp_path / "c", 2)
    assert (folder / COMPLETE).stat().st_ino in synced


# ---- damage, done to a real one: a run of five steps, a checkpoint after each


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FILES = ("trained.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
         "progress.json", "steps.jsonl", COMPLETE)  # fmt: skip
DAMAGES: list[Callable[[Path], None]] = [Path.unlink, cut, empty, zeros, flipped, fifo]
LORA = Lora(r=4, dropout=0.2)
SETTINGS = {"max_steps": 5, "checkpoint_steps": 1, "schedule": "constant"}


@pytest.fixture
def stopped(run_training: Train, tmp_path: Path) -> Path:
    """The folder of a run stopped after step 4, with the checkpoints of steps 3 and 4."""

    class Stops(Lora):
        def after_step(self, model: Any, step: int) -> None:
            if step == 5:
                raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run_training(Stops(r=4, dropout=0.2), folder=folder, **SETTINGS)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "checkpoint-3",
        "checkpoint-4",
    ]
    return folder


def notices(folder: Path) -> list[str]:
    events = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return [event["text"] for event in events if event["event"] == "notice"]


def assert_same(found: Any, whole: Any) -> None:
    weights = dict(found.model.named_parameters())
    assert found.losses == whole.losses
    assert [line["step"] for line in found.lines] == [1, 2, 3, 4, 5]
    assert all(torch.equal(weights[name], weight) for name, weight in whole.model.named_parameters())


def test_every_damage_to_every_file_is_seen(stopped: Path, tmp_path: Path) -> None:
    checkpoints = stopped / "checkpoints"
    assert found(checkpoints) == checkpoints / "checkpoint-4"
    for i, (name, damage) in enumerate((name, damage) for name in FILES for damage in DAMAGES):
        copied = shutil.copytree(checkpoints, tmp_path / str(i) / "checkpoints")
        damage(copied / "checkpoint-4" / name)
        usable_one, passed_over = usable(copied)
        assert usable_one is not None, (name, damage)
        assert usable_one.path.name == "checkpoint-3", (name, damage)
        if (copied / "checkpoint-4" / COMPLETE).is_file():
            (text,) = passed_over
            assert text.startswith("checkpoint-4 is damaged (")
            assert f"checkpoint-4/{name}" in text or name == COMPLETE


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(stopped: Path, run_training: Train) -> None:
    whole = run_training(LORA, **SETTINGS)
    (stopped / "checkpoints" / "checkpoint-4" / "optimizer.pt").unlink()
    again = run_training(LORA, folder=stopped, **SETTINGS)
    assert_same(again, whole)
    (text,) = notices(stopped)
    assert again.throughput.passed_over == [text]
    assert (
        text == "checkpoint-4 is damaged (checkpoint-4/optimizer.pt is missing): going on from checkpoint-3"
    )


def test_where_no_checkpoint_is_good_training_starts_anew(stopped: Path, run_training: Train) -> None:
    whole = run_training(LORA, **SETTINGS)
    for step in (3, 4):
        flipped(stopped / "checkpoints" / f"checkpoint-{step}" / "trained.safetensors")
    again = run_training(LORA, folder=stopped, **SETTINGS)
    assert_same(again, whole)
    assert again.throughput.resumed == 0
    assert [text.split(" (")[0] for text in notices(stopped)] == [
        "checkpoint-4 is damaged",
        "checkpoint-3 is damaged",
    ]
    assert all(text.endswith("training starts anew") for text in notices(stopped))


@pytest.mark.parametrize(
    "line", ['{"step": 4, "lo', "[1]\n", '{"loss": 1}\n', "\0\0\0\0", "\n", '{"step": "x"}\n']
)
def test_an_odd_line_in_the_log_of_steps_does_no_harm(line: str, stopped: Path, run_training: Train) -> None:
    whole = run_training(LORA, **SETTINGS)
    steps = stopped / "steps.jsonl"
    steps.write_text(line + steps.read_text() + line)
    assert_same(run_training(LORA, folder=stopped, **SETTINGS), whole)


def test_a_checkpoint_without_its_best_is_passed_over(tmp_path: Path) -> None:
    """Early stopping would end with the last weights in place of the best."""
    folder = tmp_path / "checkpoints"
    best, before, _ = write(folder, 2), write(folder, 4), write(folder, 6, best="checkpoint-2")
    assert usable(folder)[1] == []
    (best / "weights").write_text("other")
    assert found(folder) == before
    shutil.rmtree(best)
    assert found(folder) == before


def test_a_renamed_checkpoint_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    expected, other = write(folder, 2), write(folder, 4)
    other.rename(folder / "checkpoint-9")
    assert found(folder) == expected


def test_a_checkpoint_of_an_earlier_medtune_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    (write(folder, 2, whole=False) / COMPLETE).touch()
    assert found(folder) is None
    assert len(usable(folder)[1]) == 1


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    """Each has random states of its own; with others dropout would draw other numbers, without a word."""
    write(tmp_path / "c", 2, processes=2)
    usable_one, _ = usable(tmp_path / "c")
    assert usable_one is not None
    refuse_other_processes(usable_one, 2)
    with pytest.raises(UsageError, match="begun with 2 processes") as error:
        refuse_other_processes(usable_one, 1)
    assert "--processes 2" in error.value.remedy


# ---- trained weights


def adalora() -> Peft:
    config = {"peft_type": "ADALORA", "init_r": 8, "target_r": 2, "tinit": 1, "tfinal": 1, "deltaT": 1}
    return Peft(config={**config, "total_step": 6, "target_modules": ["q_proj", "v_proj"]})


WEIGHTS: dict[str, Strategy] = {
    "lora": Lora(r=4),
    "full": Full(),
    "prefix": Prefix(num_virtual_tokens=4),
    "ia3": IA3(),
    "prefix-projection": Prefix(num_virtual_tokens=4, projection=True),
    "adalora": adalora(),
    "vera": Peft(config={"peft_type": "VERA", "r": 4}),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_trained_weights_come_back_as_they_were(name: str, run_training: Train, tmp_path: Path) -> None:
    def trained(model: Any) -> dict[str, torch.Tensor]:
        return {n: w for n, w in model.named_parameters() if w.requires_grad}

    strategy = WEIGHTS[name]
    model = run_training.adapted(strategy, "float32", 0)  # type: ignore[attr-defined]
    for weight in trained(model).values():
        weight.data.normal_()
    save_trained(model, tmp_path)
    other = run_training.adapted(strategy, "float32", 0)  # type: ignore[attr-defined]
    assert any(not torch.equal(trained(other)[n], w) for n, w in trained(model).items())
    load_trained(other, tmp_path)
    assert all(torch.equal(trained(other)[n], w) for n, w in trained(model).items())


def test_weights_of_another_model_are_refused(run_training: Train, tmp_path: Path) -> None:
    save_trained(run_training.adapted(Lora(r=4), "float32", 0), tmp_path)  # type: ignore[attr-defined]
    with pytest.raises(HarnessError, match="another model"):
        load_trained(run_training.adapted(Full(), "float32", 0), tmp_path)  # type: ignore[attr-defined]
