"""ROUGE-L is rouge-score's, on random words with repeats; exact match as SQuAD has it."""

from __future__ import annotations

import random

import pytest

from harness.stats.text_overlap import exact_match, rouge_l

WORDS = ["chest", "pain", "x-ray", "5mg", "the", "Fever,", "no", "cough.", "naïve", "β", "", "ALT/AST"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_rouge_l_is_rouge_scores(seed: int) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    drawn = random.Random(seed)
    text, *references = (" ".join(drawn.choices(WORDS, k=drawn.randint(0, 90))) for _ in range(3))
    expected = max(scorer.score(reference, text)["rougeL"].fmeasure for reference in references)
    assert rouge_l(text, references) == pytest.approx(expected, abs=1e-9)


def test_rouge_l_by_hand() -> None:
    # Longest common subsequence "police kill gunman" of 4 and 5 words: 3/4 and 3/5.
    assert rouge_l("police kill the gunman", ["police now kill a gunman"]) == pytest.approx(
        2 * 0.75 * 0.6 / 1.35
    )
    assert rouge_l("", ["a"]) == rouge_l("a", [""]) == rouge_l("a", []) == 0.0


@pytest.mark.parametrize(
    ("text", "references", "same"),
    [
        ("The heart.", ["heart"], 1.0),
        (" Beta-blocker ", ["betablocker"], 1.0),
        ("a liver", ["the  Liver!"], 1.0),
        ("livers", ["liver"], 0.0),
        ("b", ["a", "b"], 1.0),
        ("b", [], 0.0),
    ],
)
def test_exact_match(text: str, references: list[str], same: float) -> None:
    assert exact_match(text, references) == same
