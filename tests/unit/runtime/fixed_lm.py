"""An lm-eval LM without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval.api.model import LM


class Fixed(LM):  # type: ignore[misc]
    """Answers each request by a function of its texts, and keeps the requests."""

    def __init__(self, answer: Callable[[str, str], float]) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.asked += [request.args for request in requests]
        return [(self.answer(*request.args), False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError
