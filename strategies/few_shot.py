"""Worked examples in the prompt instead of training."""

from __future__ import annotations

from typing import ClassVar

from strategies.zero_shot import ZeroShot


class FewShot(ZeroShot):
    """Zero-shot with worked examples from the training split before each question.

    How many is `task.shots` (default here: 5, the protocol of MMLU, arXiv 2009.03300); the engine
    draws them by seed, so this class has no settings of its own.
    """

    name = "few-shot"
    summary = "the untouched model, with worked examples in the prompt"
    source = "Brown et al. 2020, arXiv 2005.14165; five shots as in MMLU, arXiv 2009.03300"
    default_shots: ClassVar[int] = 5
