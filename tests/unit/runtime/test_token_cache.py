"""Tokenised rows on disk: the same rows, for their owner only, and never a reason to fail."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from harness.contracts import DataSource, Example
from harness.errors import UsageError
from harness.runtime.tokens.rows import Row, encode_pairs, text_pairs
from harness.runtime.training import token_cache
from harness.runtime.training.token_cache import VARIABLE, TokenCache
from tasks.medqa import MedQA

DATA = Path(os.environ.get("HARNESS_DATA") or Path(__file__).parents[4] / "shared" / "data")
ODD = (
    ("", "x"),
    (" ", " "),
    ("Question: naïve – β ≥ 37 °C?\r\n\tAnswer:", "é\u0301"),
    ("</s> in the text, <pad> too\nAnswer:", "<s>"),
    ("👩‍⚕️ ‏עברית 日本語\u00a0\u200b", "\ufffd"),
    ("spaces   \n\n   ", "two\nlines"),
    ("a" * 3000, "b"),
)


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were tokenised, call by call."""
    found: list[int] = []

    def counted(tokenizer: Any, pairs: Any, max_length: int) -> list[Row]:
        found.append(len(pairs))
        return encode_pairs(tokenizer, pairs, max_length)

    monkeypatch.setattr(token_cache, "encode_pairs", counted)
    return found


@pytest.fixture
def go(toy: Any, examples: Callable[..., tuple[Example, ...]], tokenizer: Any) -> Callable[..., list[Row]]:
    """Encodes five toy items as a run does; the notices are in `go.notices`."""
    notices: list[str] = []

    def encode(source: str = "hub", **changes: Any) -> list[Row]:
        asked = {"task": toy, "examples": examples(5), "scoring": "cloze", "tokenizer": tokenizer}
        asked |= {"max_length": 64, **changes}
        pairs = text_pairs(asked["task"], asked["examples"], asked["scoring"])
        wanted = (asked["tokenizer"], pairs, asked["max_length"])
        rows = TokenCache(source, notices.append).encode_pairs(*wanted)
        assert rows == encode_pairs(*wanted)
        return rows

    encode.notices = notices  # type: ignore[attr-defined]
    return encode


def files(cache: Path) -> list[Path]:
    return sorted((cache / "tokens").iterdir()) if (cache / "tokens").is_dir() else []


@pytest.mark.parametrize("max_length", [8, 4096])
def test_a_batch_has_the_ids_of_one_text_at_a_time(
    tokenizer: PreTrainedTokenizerBase, max_length: int
) -> None:
    expected, pairs = [], []
    for prompt, answer in ODD * 100:  # more than are tokenised at once
        # spaces at the prompt's end go to the answer, as in scoring
        before, whole = tokenizer.encode(prompt.rstrip()), tokenizer.encode(f"{prompt} {answer}")
        if (length := len(whole) - len(before)) < 8:
            cut = whole[-max_length:]
            expected.append(Row(tuple(cut), len(cut) - length, len(whole) - len(cut)))
            pairs.append((prompt, answer))
    assert len(pairs) > 512
    assert encode_pairs(tokenizer, pairs, max_length) == expected


def test_the_second_run_reads_what_the_first_tokenised(go: Any, calls: list[int]) -> None:
    assert go() == go()
    assert calls == [5]
    assert go.notices == []


def test_whatever_rows_depend_on_is_told_apart(
    go: Any, calls: list[int], cache: Path, examples: Any, tokenizer: Any, monkeypatch: Any
) -> None:
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["organ"])
    splitting = copy.deepcopy(tokenizer)
    splitting.split_special_tokens = True
    go()
    for changes in (
        {"examples": examples(5, start=1)},
        {"examples": examples(5)[::-1]},
        {"examples": examples(4)},
        {"scoring": "letter"},
        {"max_length": 20},
        {"tokenizer": other},
        {"tokenizer": splitting},
    ):
        go(**changes)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0")
    go()
    assert len(calls) == len(files(cache)) == 9
    go()
    assert len(calls) == 9


def test_text_moved_between_prompt_and_answer_is_another_row(tokenizer: Any) -> None:
    moved = ([("a b", "c")], [("a", "b c")], [("a", "bc")])
    assert len({token_cache._key(pairs, tokenizer, 64) for pairs in moved}) == 3


def test_truncation_in_the_tokenizers_file_changes_no_key(tokenizer: Any) -> None:
    cutting = copy.deepcopy(tokenizer)
    cutting.backend_tokenizer.enable_truncation(4)
    cutting.backend_tokenizer.enable_padding(length=9)
    keys = [token_cache._key([("a", "b")], used, 64) for used in (cutting, cutting, tokenizer)]
    assert len(set(keys)) == 1


@pytest.mark.parametrize(
    ("source", "asked", "kept"),
    [
        ("hub", None, True),
        ("sample", None, True),
        ("dir", None, False),
        ("dir", "public", False),
        ("dir", "all", True),
        ("hub", "none", False),
        ("sample", "none", False),
    ],
)
def test_rows_of_own_folders_are_kept_only_when_asked_for(
    source: str, asked: str | None, kept: bool, go: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if asked:
        monkeypatch.setenv(VARIABLE, asked)
    go(source)
    assert len(files(cache)) == kept
    assert cache.exists() == kept  # not even a folder


def test_a_value_that_says_nothing_is_refused(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    with pytest.raises(UsageError, match=f"{VARIABLE} is 'off'") as error:
        go()
    assert "none" in error.value.remedy


def test_files_are_their_owners_only(go: Any, cache: Path) -> None:
    (cache / "tokens").mkdir(parents=True, mode=0o755)
    before = os.umask(0)
    try:
        go()
    finally:
        os.umask(before)
    (file,) = files(cache)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert b"organ" not in file.read_bytes()


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "of another", "pipe"])
def test_a_damaged_file_is_said_and_made_anew(
    damage: str, go: Any, calls: list[int], cache: Path, examples: Any
) -> None:
    go()
    (file,) = files(cache)
    content = file.read_bytes()
    if damage == "of another":
        go(examples=examples(5, start=1))
        (other,) = set(files(cache)) - {file}
        file.write_bytes(other.read_bytes())
    elif damage == "pipe":
        file.unlink()
        os.mkfifo(file)
    else:
        flipped = bytearray(content)
        flipped[-1] ^= 1
        file.write_bytes({"cut": content[:-3], "empty": b"", "flipped": bytes(flipped)}[damage])
    calls.clear()
    go()
    (notice,) = go.notices
    assert f"{file} are damaged" in notice
    assert file.read_bytes() == content
    go()
    assert calls == [5]
    assert len(go.notices) == 1


def test_a_cache_that_cannot_be_made_costs_one_notice(go: Any, calls: list[int], cache: Path) -> None:
    cache.write_text("a file is in the way")
    go()
    assert calls == [5]
    assert go.notices == [f"tokenised rows are not kept in {cache}: Not a directory"]


def test_no_space_costs_one_notice_and_leaves_nothing(
    go: Any, calls: list[int], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    go()
    assert calls == [5]
    assert go.notices == [f"tokenised rows are not kept in {cache}: No space left on device"]
    assert files(cache) == []


def test_only_the_first_process_of_a_run_writes(
    go: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    go()
    assert files(cache) == []
    monkeypatch.setenv("RANK", "0")
    go()
    assert len(files(cache)) == 1


def test_nothing_is_kept_of_no_rows_or_of_a_tokenizer_that_cannot_be_seen(
    go: Any, cache: Path, tokenizer: Any
) -> None:
    class InPython(type(tokenizer)):  # type: ignore[misc]
        is_fast = False

    opaque = copy.deepcopy(tokenizer)
    opaque.__class__ = InPython
    go(examples=())
    go(tokenizer=opaque)
    assert not cache.exists()


def test_what_was_not_used_for_30_days_is_deleted(go: Any, cache: Path, examples: Any) -> None:
    go()
    go(examples=examples(5, start=1))
    used, unused = sorted(files(cache), key=lambda file: file.stat().st_mtime_ns)
    (cache / "tokens" / ".making-of-a-killed-run").write_text("half")
    month_ago = time.time() - 31 * 24 * 3600
    for file in files(cache):
        os.utime(file, (month_ago, month_ago))
    go()  # read, and so used
    go(examples=examples(5, start=2))
    left = files(cache)
    assert used in left
    assert unused not in left
    assert len(left) == 2


def test_many_at_once(toy: Any, examples: Any, tokenizer: Any, cache: Path) -> None:
    """Each reads or writes whole files, whoever is first."""
    notices: list[str] = []

    def go(seed: int) -> None:
        own = copy.deepcopy(tokenizer)  # one that is used by two threads at once raises
        for n in range(10):
            asked = (own, text_pairs(toy, examples(40, start=(seed + n) % 3), "letter"), 64)
            assert TokenCache("sample", notices.append).encode_pairs(*asked) == encode_pairs(*asked)
            if n % 4 == 3:
                for file in (cache / "tokens").glob("*.tokens"):  # not what another thread is writing
                    file.unlink(missing_ok=True)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(go, seed) for seed in range(4)]:
            done.result()
    assert notices == []
    assert not [file for file in files(cache) if file.suffix != ".tokens"]


@pytest.mark.skipif(not (DATA / "medqa").is_dir(), reason="no real MedQA rows here: set HARNESS_DATA")
def test_real_rows_come_back_as_they_were(
    go: Any, calls: list[int], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "all")
    real = MedQA().load(DataSource("dir", DATA)).validation
    asked = {"task": MedQA(), "examples": real, "scoring": "letter", "max_length": 512}
    assert go("dir", **asked) == go("dir", **asked)
    assert calls == [len(real)]
