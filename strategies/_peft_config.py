"""A configuration of the PEFT library as settings: read, checked, built.

Refused by name is what would run as something else than it says.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from harness.errors import UsageError, all_at_once, did_you_mean, first_line, unknown_name
from strategies._lora_start import is_start, refuse_beside

CONFIG_NAME = "adapter_config.json"
TASK_TYPE = "CAUSAL_LM"

# What a saved adapter_config.json says of its model and its making, not of the method.
_NOT_SETTINGS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "peft_type",
        "peft_version",
        "revision",
        "runtime_config",
        "task_type",
    }
)

_NEEDS_TASK_IDS = "it needs a task's number beside each example, and a run here has one task"
_REFUSED: dict[str, str] = {
    "CPT": "it needs to know of each token which part of the prompt it belongs to",
    "MULTITASK_PROMPT_TUNING": _NEEDS_TASK_IDS,
    "POLY": _NEEDS_TASK_IDS,
    "XLORA": "it mixes adapters that were trained before",
}

_OTHERS = "Leave it out; pissa, olora, orthogonal and gaussian need nothing but the model."
_NO_STARTS: dict[str, str] = {
    "eva": "it is made from activations on the training data, which the library takes in a step of its own",
    "corda": "it is made from activations on the training data, which the library takes in a step of its own",
    "lora_ga": "it is made from gradients on the training data, which the library takes in a step of its own",
    "loftq": "it changes the base to one that is quantised for this adapter; qlora has a base in four bits",
}
"""Values of `init_lora_weights` that the library alone does not do: some it passes over without a word."""

_NO_SETTINGS: dict[str, str] = {
    "alora_invocation_tokens": "it switches on at a token that no prompt here has",
    "arrow_config": "it mixes adapters that were trained before",
    "corda_config": _NO_STARTS["corda"],
    "eva_config": _NO_STARTS["eva"],
    "kasa_config": "its loss has terms that the library does not add by itself",
    "loftq_config": _NO_STARTS["loftq"],
    "lora_ga_config": _NO_STARTS["lora_ga"],
    "megatron_config": "it is for Megatron's parallel layers",
    "monteclora_config": "its loss has terms that the library does not add by itself",
    "use_asa": "which subspaces it keeps is not part of a checkpoint",
    "use_qalora": "it acts on GPTQ checkpoints only",
}
"""Settings that would have no effect here, or half of one."""


def read(path: Path) -> dict[str, Any]:
    """The settings in an adapter_config.json, or in the one inside a folder."""
    file = path.expanduser()
    file = file / CONFIG_NAME if file.is_dir() else file
    remedy = f"Give a PEFT {CONFIG_NAME}, or a folder with one."
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"strategy.config_file {file}: {error.strerror}", remedy) from error
    except ValueError as error:
        raise UsageError(
            f"strategy.config_file {file}: not JSON: {first_line(str(error))}", remedy
        ) from error
    if not isinstance(content, dict) or "peft_type" not in content:
        raise UsageError(f"strategy.config_file {file}: has no peft_type", remedy)
    return content


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with the method's name as PEFT spells it and without what is not a setting.

    Raises `UsageError` on an unknown method, unknown settings, or values that PEFT refuses.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {str(kind.value): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    usable = sorted(set(known) - set(_REFUSED))
    if "peft_type" not in config:
        raise UsageError(
            "strategy peft: which method?",
            f"Set one, such as --set strategy.config.peft_type=VERA; there are {', '.join(usable)}.",
        )
    peft_type = str(config["peft_type"]).upper().replace("-", "_")
    if peft_type in _REFUSED:
        raise UsageError(
            f"strategy.config.peft_type {peft_type} cannot be used here: {_REFUSED[peft_type]}.",
            f"There are {', '.join(usable)}.",
        )
    if peft_type not in known:
        raise UsageError(unknown_name("strategy.config.peft_type", str(config["peft_type"]), usable))
    task_type = config.get("task_type") or TASK_TYPE
    if task_type != TASK_TYPE:
        raise UsageError(
            f"strategy.config.task_type is {task_type}, but every run here is {TASK_TYPE}.", "Leave it out."
        )
    settings = {key: value for key, value in config.items() if key not in _NOT_SETTINGS}
    _check_keys(peft_type, settings, known[peft_type])
    _check_effects(peft_type, settings)
    result = {"peft_type": peft_type, **settings}
    build(result)
    return result


def _check_keys(peft_type: str, settings: dict[str, Any], config_class: Any) -> None:
    valid = sorted({field.name for field in dataclasses.fields(config_class) if field.init} - _NOT_SETTINGS)
    problems = [
        f"unknown setting strategy.config.{key} of {peft_type}{did_you_mean(key, valid)}"
        for key in settings
        if key not in valid
    ]
    all_at_once(problems, f"{peft_type} has: {', '.join(valid)}.")


def _check_effects(peft_type: str, settings: dict[str, Any]) -> None:
    """Refuse what would run as something else: as plain LoRA, or for a base that is changed."""
    at = "strategy.config"
    problems = [f"{at}.{name}: {why}." for name, why in _NO_SETTINGS.items() if settings.get(name)]
    init = settings.get("init_lora_weights")
    if isinstance(init, str) and init in _NO_STARTS:
        problems.append(f"{at}.init_lora_weights {init}: {_NO_STARTS[init]}.")
    elif isinstance(init, str) and peft_type != "LORA":
        problems.append(f"{at}.init_lora_weights {init}: {peft_type} starts in a way of its own.")
    all_at_once(problems, _OTHERS)
    if is_start(init):
        refuse_beside(settings, at)


def build(config: dict[str, Any]) -> Any:
    """The PEFT configuration of a checked `config`; PiSSA and OLoRA, which are done here, left out of it."""
    from peft import get_peft_config

    if config["peft_type"] == "ADALORA" and not config.get("total_step"):
        raise UsageError(
            "AdaLoRA plans its ranks over the whole run and needs the number of optimiser steps.",
            "Set it, with the same number for the run: --set strategy.config.total_step=200 --set train.max_steps=200",
        )
    if is_start(config.get("init_lora_weights")):
        config = {**config, "init_lora_weights": True}
    try:
        return get_peft_config({**config, "task_type": TASK_TYPE})
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"strategy.config: {config['peft_type']} refuses these settings: {first_line(str(error))}",
            "Correct strategy.config.",
        ) from error
