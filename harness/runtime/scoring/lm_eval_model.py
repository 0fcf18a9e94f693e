"""Our LM under lm-eval's own command line and library, as model `medtune`, for any of its tasks.

Importing this module registers it; lm-eval 0.4.13 has no entry points for models of others.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import jinja2
import torch
from lm_eval.api.registry import register_model
from pydantic import ValidationError
from transformers import AutoConfig

from harness.errors import UsageError, unknown_name
from harness.runtime.device import run_device
from harness.runtime.models.context import context_length
from harness.runtime.models.loading import Base, Located, autocast, load_tokenizer, locate, one_dtype
from harness.runtime.models.precision import slow_products
from harness.runtime.scoring.passes import Answer
from harness.runtime.scoring.scorer import Scorer
from harness.spec import AUTO, Dtype, ModelSpec

NAME = "medtune"
LOGGER = logging.getLogger("lm_eval")


@register_model(NAME)
class MedtuneLM(Scorer):
    """`pretrained` is what `--model` of a run may be; `peft` a folder with an adapter (a run's `adapter`).

    `dtype`: bfloat16, float16, float32, or auto: the weights' own, and for 16-bit ones of which the device
    has no products another that it has. With an adapter that is float32 on a 16-bit model, scoring runs
    under autocast, as in a run. `attention` is what `model.attention` of a run may be. `batch_tokens`
    bounds a forward pass (default: by the free memory); lm-eval's batch sizes are taken and have no
    effect. Raises UsageError, in lm-eval's words, for arguments that cannot be.
    """

    def __init__(
        self,
        pretrained: str,
        peft: str | None = None,
        dtype: str = "auto",
        revision: str | None = None,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        attention: str | None = None,
        device: str | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise UsageError(unknown_name(f"argument of {NAME}", next(iter(unknown)), ARGUMENTS))
        spec = _spec(pretrained, revision, max_length, attention)
        if batch_tokens is not None and (not isinstance(batch_tokens, int) or batch_tokens < 1):
            raise UsageError(f"batch_tokens={batch_tokens}: a whole number of tokens is expected")
        with _in_words_of_lm_eval():
            located = locate(spec)
            # lm-eval asks for cuda:0 where nothing was asked; HFLM takes the CPU then, if there is no GPU.
            given = device is not None and (torch.cuda.is_available() or not device.startswith("cuda"))
            where = torch.device(device) if device is not None and given else run_device()
            spec = spec.model_copy(update={"dtype": _dtype(located, dtype, where)})
            model: Any = Base(located, spec, str(where)).load()
            tokenizer = load_tokenizer(located, spec)
        if peft is not None:
            model = _with_adapter(model, peft)
        model.eval()
        self._name = spec.name
        super().__init__(
            model,
            tokenizer,
            max_length=context_length(model, tokenizer, spec.max_length, LOGGER.warning),
            batch_tokens=batch_tokens,
            autocast=functools.partial(autocast, model.device, "float32" if one_dtype(model) else spec.dtype),
        )

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Answer]:
        answers = super().loglikelihood(requests, disable_tqdm)
        self._say_what_was_cut()
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        texts = super().generate_until(requests, disable_tqdm)
        self._say_what_was_cut()
        return texts

    def _say_what_was_cut(self) -> None:
        """lm-eval's own way of cutting stays; what it lost is said once a call."""
        if cuts := self.prompts.cuts:
            LOGGER.warning(
                "%s: %d prompts do not fit the context of %d tokens and lost %d tokens at the beginning, "
                "worked examples and the tokenizer's first token among them",
                NAME,
                len(cuts),
                self.max_length,
                sum(cut.tokens for cut in cuts.values()),
            )
        self.prompts.cuts = {}

    @property
    def tokenizer_name(self) -> str:
        """Part of the name under which lm-eval caches requests."""
        return self._name.replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text, as HFLM makes it. Raises UsageError for a tokenizer without a template."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise UsageError(
                f"the tokenizer of {self._name} has no chat template", "Leave --apply_chat_template out."
            )

        def text(messages: list[dict[str, str]]) -> str:
            return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )

        try:
            return text(chat_history)
        except jinja2.exceptions.TemplateError as error:
            LOGGER.warning("%s: the chat template takes no system message, left out (%s)", NAME, error)
            return text([message for message in chat_history if message["role"] != "system"])


ARGUMENTS = tuple(
    name
    for name, parameter in inspect.signature(MedtuneLM.__init__).parameters.items()
    if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
)


def _spec(pretrained: Any, revision: Any, max_length: Any, attention: Any) -> ModelSpec:
    given = {"max_length": max_length, "attention": attention}
    try:
        return ModelSpec(
            name=str(pretrained),
            revision=None if revision is None else str(revision),
            **{name: value for name, value in given.items() if value is not None},
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{name}={first['input']}: {first['msg']}", f"Mend {name} in --model_args."
        ) from error


@contextlib.contextmanager
def _in_words_of_lm_eval() -> Iterator[None]:
    """Remedies name settings of a run; here they are arguments."""
    try:
        yield
    except UsageError as error:
        remedy = re.sub(r"--set model\.([\w=]+)", r"\1 in --model_args", error.remedy)
        raise UsageError(error.message, remedy) from error


def _dtype(located: Located, asked: str, device: torch.device) -> Dtype:
    found = asked
    if asked == AUTO:
        found = str(AutoConfig.from_pretrained(located.folder, local_files_only=True).dtype or "float32")
    found = found.removeprefix("torch.")
    if found not in get_args(Dtype):
        raise UsageError(
            f"dtype {asked} ({found}) is not supported", f"Give dtype={' or dtype='.join(get_args(Dtype))}."
        )
    own = cast(Dtype, found)
    slow = slow_products(device, own)
    if slow is None:
        return own
    chosen: Dtype = own if asked != AUTO else "float32" if device.type == "cpu" else "float16"
    LOGGER.warning("%s: %s; computed in %s", NAME, slow, chosen)
    return chosen


def _with_adapter(model: Any, folder: str) -> Any:
    from peft import PeftModel

    if not (Path(folder) / "adapter_config.json").is_file():
        raise UsageError(
            f"peft={folder} holds no adapter_config.json", "Give the folder `adapter` of a run that made one."
        )
    return PeftModel.from_pretrained(model, folder)
