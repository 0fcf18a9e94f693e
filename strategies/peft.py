"""Any method of the PEFT library, by the name and the settings the library gives it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from strategies._adalora import orthogonality, rank_state, restore_ranks
from strategies._lora_start import begin, fold, is_start
from strategies._peft import AdapterStrategy, refuse_gradient_checkpointing
from strategies._peft_config import build, checked, read

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from harness.spec import TrainSpec

# Best of the stored runs of the PEFT method comparison (MetaMathQA, Llama-3.2-3B,
# github.com/huggingface/peft at 5d602fd), except IA3: its paper, arXiv 2205.05638. A method that
# is not here takes the class's default, LoRA's: right for low-rank updates of weights, a first
# guess for the rest, which a study should tune (`--tune`).
LEARNING_RATES: dict[str, float] = {
    # weights themselves, or their singular directions
    "OSF": 5e-5,
    "SHIRA": 3e-4,
    # products and rotations of weights
    "DELORA": 1e-3,
    "HIRA": 4.5e-3,
    "LOKR": 3e-3,
    "ROAD": 1e-3,
    # few numbers that steer many: scales, shared vectors, kernels
    "C3A": 3e-1,
    "IA3": 3e-3,
    "PVERA": 3e-3,
    "TINYLORA": 1e-3,
    "UNILORA": 2e-3,
    "VBLORA": 5e-4,
    "VERA": 1e-3,
    # virtual tokens and embeddings
    "ADAPTION_PROMPT": 5e-3,
    "PREFIX_TUNING": 5e-3,
    "PROMPT_TUNING": 1e-3,
    "TRAINABLE_TOKENS": 2e-1,
}

_SHADOW_UPDATE = ".shadow_update_"
_CACHE_PREFIXES = frozenset({"PREFIX_TUNING", "CARTRIDGE"})


class Peft(AdapterStrategy):
    """`--set strategy.config.peft_type=VERA --set strategy.config.r=8`, or a saved configuration.

    Names and settings are those of the installed PEFT library; what is not set has the library's
    default, its choice of target modules included.
    """

    name = "peft"
    summary = "any method of the PEFT library, by its own name and settings"
    source = "the PEFT library, github.com/huggingface/peft; each method's paper is in its documentation"
    default_learning_rate: ClassVar[float | None] = 2e-4
    learning_rate_source = (
        "LoRA's for low-rank methods; for others the best of the PEFT method comparison (github.com/huggingface/peft, "
        "5d602fd), IA3 its paper's: the table in strategies/peft.py"
    )
    settings_at: ClassVar[str] = "strategy.config"

    config: dict[str, Any] = Field(
        default_factory=dict,
        description="peft_type and the method's settings, as in PEFT's adapter_config.json; task_type is CAUSAL_LM",
    )
    config_file: str | None = Field(
        None,
        description="an adapter_config.json or a folder with one; read once into config, whose own keys go first",
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        """Read `config_file` into `config`, so that a stored spec holds what was run, and check it."""
        if not isinstance(data, dict) or not isinstance(data.get("config", {}), dict):
            return data  # pydantic says what is wrong with it
        config = dict(data.get("config", {}))
        path = data.get("config_file")
        if path is not None:
            config = {**read(Path(path)), **config}
        return {**data, "config": checked(config), "config_file": None}

    @property
    def peft_type(self) -> str:
        """The method's name as PEFT spells it, such as VERA."""
        return str(self.config["peft_type"])

    def peft_config(self) -> Any:
        """The method's `peft.PeftConfig`."""
        return build(self.config)

    @property
    def _start(self) -> str | None:
        """PiSSA or OLoRA, where LoRA starts that way."""
        init = self.config.get("init_lora_weights")
        return str(init) if is_start(init) else None

    def adapt(self, model: PreTrainedModel) -> torch.nn.Module:
        """`model` wrapped as a `PeftModel`; adapter weights in float32, base weights frozen."""
        adapted = super().adapt(model)
        if self._start is not None:
            begin(adapted, self._start)
        if self.peft_type == "ADALORA":
            # PEFT's cast to float32 makes AdaLoRA's rank counters trainable when the base is in half
            # precision (seen in 0.21); they are constants, and are not saved with the adapter.
            for name, weight in adapted.named_parameters():
                if ".ranknum." in name:
                    weight.requires_grad_(False)
        if self.peft_type == "SHADOW":
            _freeze_unread(adapted)
        return adapted

    def finish(self, model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        """As it was trained; PiSSA and OLoRA as a plain adapter for the base as it is."""
        return fold(model) if self._start is not None else model

    def learning_rate_default(self) -> float | None:
        """The method's own, from the table above; else the class's."""
        return LEARNING_RATES.get(self.peft_type, self.default_learning_rate)

    def optimizer(self, model: torch.nn.Module, train: TrainSpec) -> torch.optim.Optimizer:
        """AdamW; no decay on IA3's scales, which PEFT stores as (1, n) matrices and which rest at 1."""
        if self.peft_type in _CACHE_PREFIXES:
            refuse_gradient_checkpointing(self.peft_type, train)
        if self.peft_type == "IA3":
            train = train.model_copy(update={"weight_decay": 0.0})
        return super().optimizer(model, train)

    def penalty(self, model: torch.nn.Module) -> torch.Tensor | None:
        """AdaLoRA's pull towards orthogonal factors (arXiv 2303.10512, equation 4); others have none.

        PEFT adds it only to a loss that the model computes itself, and ours is computed outside.
        """
        if self.peft_type != "ADALORA":
            return None
        return orthogonality(model, float(self.peft_config().orth_reg_weight))

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Let methods that move their rank budget (AdaLoRA) do it; gradients must still be there."""
        allocate = getattr(getattr(model, "base_model", None), "update_and_allocate", None)
        if allocate is not None:
            allocate(step)

    def state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """AdaLoRA's moving averages of importance and, once ranks are allocated, which are kept."""
        return rank_state(model) if self.peft_type == "ADALORA" else {}

    def restore(self, model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Raises `UsageError` for a checkpoint of AdaLoRA that holds no such state."""
        if self.peft_type == "ADALORA":
            restore_ranks(model, state)


def _freeze_unread(model: Any) -> None:
    """Of ShadowPEFT: freeze what no output depends on, and no gradient reaches.

    Each block updates a state for the next one, so that the last update is read by nothing; and the
    shadow network is given embeddings, and does not use its own.
    """
    updates = [name for name, _ in model.named_parameters() if _SHADOW_UPDATE in name]
    last = updates[-1].split(_SHADOW_UPDATE)[0] + _SHADOW_UPDATE
    for name, weight in model.named_parameters():
        if name.startswith(last):
            weight.requires_grad_(False)
    vocabulary = model.get_base_model().config.get_text_config().vocab_size
    for module in model.base_model.shadow_backbone.modules():
        if getattr(module, "num_embeddings", None) == vocabulary:
            module.requires_grad_(False)
