"""Scores of one written answer against its references, 0 to 1."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

_WORD = re.compile(r"[a-z0-9]+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def rouge_l(text: str, references: Sequence[str]) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of words, of the best reference.

    Words are runs of Latin letters and digits in lower case, not stemmed.
    """
    return max((_overlap(_words(text), _words(reference)) for reference in references), default=0.0)


def exact_match(text: str, references: Sequence[str]) -> float:
    """1 where the answer is one of the references but for case, punctuation, English articles and spaces, as
    SQuAD compares them (Rajpurkar et al. 2016, arXiv 1606.05250).
    """
    return float(any(_bare(text) == _bare(reference) for reference in references))


def _overlap(one: Sequence[str], other: Sequence[str]) -> float:
    if not one or not other:
        return 0.0
    common = _common(one, other)
    precision, recall = common / len(one), common / len(other)
    return 2 * precision * recall / (precision + recall) if common else 0.0


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence, by rows of bits (Hyyro 2004): one step a word."""
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(one)) - 1
    row = every
    for word in other:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & every
    return len(one) - row.bit_count()


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _bare(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())
