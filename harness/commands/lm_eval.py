"""`lm-eval`: lm-eval's own command line, with our LM among its models."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from harness.errors import EXIT_OK


def lm_eval(words: Sequence[str]) -> int:
    """Hand `words` to lm-eval. Results and errors are as lm-eval prints them."""
    importlib.import_module("harness.runtime.scoring.lm_eval_model")
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm-eval", *words]  # the only place where lm-eval looks
    cli_evaluate()
    return EXIT_OK
