"""The real Hub loading code against a local server that answers as the Hub does.

`datasets` and `huggingface_hub` run unchanged in a process of their own; only HF_ENDPOINT points at
127.0.0.1. The repositories have the layout of the real ones and hand-made rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_hub import Repositories, serve

from harness.errors import EXIT_MISSING, EXIT_USAGE

ROOT = Path(__file__).parents[2]
PMIDS = json.loads((ROOT / "tasks" / "pubmedqa_split.json").read_text())
MEDQA_SHA = hashlib.sha1(b"medqa").hexdigest()
PUBMEDQA_SHA = hashlib.sha1(b"pubmedqa").hexdigest()

LOAD = """
import json, sys
from harness.contracts import DataSource
from harness.errors import HarnessError
from harness.registry import load_registry
try:
    splits = load_registry().task(sys.argv[1])().load(DataSource("hub"))
except HarnessError as error:
    print(json.dumps({"message": error.message, "remedy": error.remedy}))
    raise SystemExit(error.exit_code)
print(json.dumps({
    "sizes": [len(splits.train), len(splits.validation), len(splits.test)],
    "test": [[e.id, e.question, e.options, e.gold, e.subgroup, e.context] for e in splits.test],
    "revision": splits.revision, "comparable": splits.comparable,
    "title": splits.title, "source": splits.source, "note": splits.note,
}))
"""


def medqa_row(number: int) -> dict[str, Any]:
    options = {letter: f"option {letter} of {number}" for letter in "ABCD"}
    gold = "ABCD"[number % 4]
    return {
        "question": f"Question number {number}?",
        "answer": options[gold],
        "options": options,
        "meta_info": "step1" if number % 2 else "step2&3",
        "answer_idx": gold,
        "metamap_phrases": ["question", "number"],
    }


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def pubmedqa_parquet(pmids: list[int]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "pubid": pmid,
            "question": f"Is {pmid} even?",
            "context": {"contexts": [f"Background {pmid}.", "Results."], "labels": ["A", "B"], "meshes": []},
            "long_answer": "never to be read",
            "final_decision": "no" if pmid % 2 else "yes",
        }
        for pmid in pmids
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def labelled_pmids() -> list[int]:
    """The 500 official test PMIDs, fold 0's 50, and 450 stand-ins to train on; test rows come last."""
    return [*range(1, 451), *PMIDS["validation"], *PMIDS["test"]]


def real_layout() -> Repositories:
    pubmedqa_card = (
        "---\nlicense: mit\nconfigs:\n"
        "- config_name: pqa_artificial\n  data_files:\n  - split: train\n    path: pqa_artificial/train-*\n"
        "- config_name: pqa_labeled\n  data_files:\n  - split: train\n    path: pqa_labeled/train-*\n---\n"
    )
    return {
        "GBaker/MedQA-USMLE-4-options": (
            MEDQA_SHA,
            {
                "README.md": b"---\nlicense: cc-by-4.0\nlanguage:\n- en\n---\n",
                "phrases_no_exclude_train.jsonl": jsonl([medqa_row(n) for n in range(20)]),
                "phrases_no_exclude_test.jsonl": jsonl([medqa_row(n) for n in range(100, 106)]),
            },
        ),
        "qiaojin/PubMedQA": (
            PUBMEDQA_SHA,
            {
                "README.md": pubmedqa_card.encode(),
                "pqa_artificial/train-00000-of-00001.parquet": pubmedqa_parquet([7]),
                "pqa_labeled/train-00000-of-00001.parquet": pubmedqa_parquet(labelled_pmids()),
            },
        ),
    }


@pytest.fixture
def repositories() -> Repositories:
    return real_layout()


@contextlib.contextmanager
def closing_at_once() -> Iterator[tuple[str, list[str]]]:
    """An address that takes connections and says nothing, and those it took."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[str] = []

        def take() -> None:
            with contextlib.suppress(OSError):  # shut down
                while True:
                    connection, address = server.accept()
                    taken.append(str(address))
                    connection.close()

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", taken
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def endpoint(repositories: Repositories) -> Iterator[str]:
    with serve(repositories) as url:
        yield url


def load(task: str, home: Path, endpoint: str, **extra: str) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of a process that loads `task` from the Hub at `endpoint`."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and not name.lower().endswith("_proxy")
    }
    env = {**inherited, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, task],
        cwd=ROOT, env={**env, **extra}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_medqa_from_the_hub_then_from_its_cache(tmp_path: Path, endpoint: str) -> None:
    code, first = load("medqa", tmp_path, endpoint)
    assert code == 0, first
    assert first["sizes"] == [18, 2, 6]
    assert first["revision"] == MEDQA_SHA
    assert (first["title"], first["source"], first["comparable"]) == ("MedQA", "hub", True)
    row = medqa_row(100)
    assert first["test"][0][1:] == [row["question"], list(row["options"].values()), 0, "step2&3", ""]

    code, again = load("medqa", tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert code == 0, again
    assert again == first


def test_pubmedqa_from_the_hub_then_from_its_cache(tmp_path: Path, endpoint: str) -> None:
    code, first = load("pubmedqa", tmp_path, endpoint)
    assert code == 0, first
    assert first["sizes"] == [450, 50, 500]
    assert {int(entry[0]) for entry in first["test"]} == set(PMIDS["test"])
    assert first["revision"] == PUBMEDQA_SHA
    assert (first["comparable"], first["note"]) == (True, "")
    pmid, question, options, _, _, context = first["test"][0]
    assert (question, options) == (f"Is {pmid} even?", ["yes", "no", "maybe"])
    assert context == f"Background {pmid}.\nResults."

    code, again = load("pubmedqa", tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert code == 0, again
    assert again == first


def test_the_cache_serves_when_the_hub_cannot_be_reached(tmp_path: Path, endpoint: str) -> None:
    _, first = load("medqa", tmp_path, endpoint)
    code, again = load("medqa", tmp_path, "http://127.0.0.1:9")
    assert (code, again) == (0, first)


@pytest.mark.parametrize("offline", ["0", "1"])
def test_neither_network_nor_cache_says_how_to_get_the_data(tmp_path: Path, offline: str) -> None:
    with closing_at_once() as (endpoint, connections):
        code, error = load("medqa", tmp_path, endpoint, HF_HUB_OFFLINE=offline)
    assert code == EXIT_USAGE
    # One question and not the client's own retries of it, which take 24 s.
    assert len(connections) <= (0 if offline == "1" else 2)
    assert "GBaker/MedQA-USMLE-4-options is not in this machine's cache" in error["message"]
    for remedy in ("datasets.load_dataset('GBaker/MedQA-USMLE-4-options')", "--data DIR", "--data sample"):
        assert remedy in error["remedy"]


def test_a_changed_repository_is_refused(tmp_path: Path, endpoint: str, repositories: Repositories) -> None:
    _, files = repositories["qiaojin/PubMedQA"]
    files["pqa_labeled/train-00000-of-00001.parquet"] = pubmedqa_parquet(labelled_pmids()[:-3])
    code, error = load("pubmedqa", tmp_path, endpoint)
    assert code == EXIT_USAGE
    assert "has 997 labelled rows and lacks 3 of the official PMIDs" in error["message"]
    assert "--data DIR" in error["remedy"]


def test_a_removed_split_is_refused(tmp_path: Path, endpoint: str, repositories: Repositories) -> None:
    del repositories["GBaker/MedQA-USMLE-4-options"][1]["phrases_no_exclude_test.jsonl"]
    code, error = load("medqa", tmp_path, endpoint)
    assert code == EXIT_USAGE
    assert "no split 'test' (there: train)" in error["message"]


def test_a_repository_that_is_gone(tmp_path: Path, endpoint: str, repositories: Repositories) -> None:
    del repositories["GBaker/MedQA-USMLE-4-options"]
    code, error = load("medqa", tmp_path, endpoint)
    assert code == EXIT_USAGE
    assert "--data sample" in error["remedy"]


def test_a_connection_lost_half_way(tmp_path: Path, repositories: Repositories) -> None:
    with serve(repositories, cut_short="phrases_no_exclude_test.jsonl") as url:
        code, error = load("medqa", tmp_path, url)
    assert code == EXIT_USAGE
    assert "could not be read from the Hub" in error["message"]
    # The half that came must not spoil the next try.
    with serve(repositories) as url:
        code, splits = load("medqa", tmp_path, url)
    assert (code, splits["sizes"]) == (0, [18, 2, 6])


def test_without_the_package_datasets(tmp_path: Path) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "datasets.py").write_text("raise ImportError('not here')\n")
    code, error = load("medqa", tmp_path, "http://127.0.0.1:9", PYTHONPATH=str(tmp_path / "shadow"))
    assert code == EXIT_MISSING
    assert "pip install datasets" in error["remedy"]
