"""`python -m harness lm-eval`: our LM on tasks of lm-eval's own kinds gives what its HFLM gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import main
from harness.errors import EXIT_USAGE

pytestmark = pytest.mark.filterwarnings("ignore")

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
fewshot_split: test
"""
KINDS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{options}}"
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "written": """
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{options[gold]}}"
generation_kwargs: {until: ["e", "\\n"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}
ORGANS = ["Liver", "Pancreas", "Spleen", "Kidney of the left side"]


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task of each kind over a file of 12 rows, one of which exceeds the model's context."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [
        {
            "question": f"Which organ is number {i * 37 % 101}" + ", and why" * (i % 4) + "?",
            "options": [ORGANS[(i + k) % 4] for k in range(4)],
            "gold": i * 5 % 4,
            "text": f"Patient {i} was treated for hypertension. " * (60 if i == 3 else 1 + i % 3),
        }
        for i in range(12)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, kind in KINDS.items():
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, file=folder / "rows.jsonl") + kind)
    return folder


def evaluated(model: str, arguments: str, tasks: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics by task, and the model's answers by task and item, as lm-eval writes them."""
    out = tasks.parent / f"{model}-{len(list(tasks.parent.iterdir()))}"
    torch.manual_seed(0)
    main(
        [
            "lm-eval", "run", "--model", model, "--model_args", arguments, "--tasks", ",".join(KINDS),
            "--include_path", str(tasks), "--output_path", str(out), "--log_samples", *words,
        ]
    )  # fmt: skip
    (found,) = out.rglob("results_*.json")
    answers = {
        name: {
            sample["doc_id"]: sample["resps"]
            for sample in map(json.loads, next(out.rglob(f"samples_{name}_*.jsonl")).read_text().splitlines())
        }
        for name in KINDS
    }
    return json.loads(found.read_text())["results"], answers


@pytest.mark.parametrize("words", [(), ("--num_fewshot", "2")], ids=["0-shot", "2-shot"])
def test_every_kind_of_task_gets_the_metrics_of_hflm(
    words: tuple[str, ...], tasks: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    ours, own_answers = evaluated("medtune", f"pretrained={tiny_model_dir}", tasks, *words)
    peers, peer_answers = evaluated("hf", f"pretrained={tiny_model_dir},dtype=float32", tasks, *words)
    for name in KINDS:
        metrics = {key: value for key, value in peers[name].items() if isinstance(value, float)}
        assert metrics
        assert {key: ours[name][key] for key in metrics} == pytest.approx(metrics, rel=1e-5, nan_ok=True)
    assert own_answers["written"] == peer_answers["written"]
    texts = [answer for answers in own_answers["written"].values() for answer in answers[0]]
    assert any(texts), "nothing was generated, so nothing was compared"
    assert not any("e" in text for text in texts)


def test_an_adapter_is_scored(tasks: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(sys, "argv", sys.argv)
    tokenizer, base = AutoTokenizer.from_pretrained(tiny_model_dir), tmp_path / "base"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.resize_token_embeddings(len(tokenizer))  # HFLM does so, silently, where it loads an adapter
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    arguments = f"pretrained={base},peft={tmp_path / 'adapter'},dtype=float32"
    ours, _ = evaluated("medtune", arguments, tasks)
    peers, _ = evaluated("hf", arguments, tasks)
    plain, _ = evaluated("medtune", f"pretrained={base}", tasks)
    key = "byte_perplexity,none"
    assert ours["rolling"][key] == pytest.approx(peers["rolling"][key], rel=1e-5)
    assert ours["rolling"][key] != plain["rolling"][key]


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("dtype=int8", "dtype=bfloat16"),
        ("peft=nowhere", "adapter_config.json"),
        ("batch_tokenz=5", "unknown argument of medtune 'batch_tokenz'"),
        ("attention=flash", "attention=flash"),
    ],
)
def test_wrong_model_arguments_are_refused(
    argument: str, told: str, tasks: Path, tiny_model_dir: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    words = ["--model", "medtune", "--model_args", f"pretrained={tiny_model_dir},{argument}"]
    code = main(["lm-eval", "run", *words, "--tasks", "choices", "--include_path", str(tasks)])
    assert code == EXIT_USAGE
    assert told in capsys.readouterr().err


def test_a_tokenizer_without_a_chat_template_is_told_in_one_line(
    tasks: Path, tiny_model_dir: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    words = ["--model", "medtune", "--model_args", f"pretrained={tiny_model_dir}", "--apply_chat_template"]
    code = main(["lm-eval", "run", *words, "--tasks", "choices", "--include_path", str(tasks)])
    assert code == EXIT_USAGE
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "has no chat template" in line
