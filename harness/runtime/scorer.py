"""An lm-eval `LM` over a model in memory, adapters active: the same requests and answers as
lm-eval's HFLM, with a question's prompt computed once for its options and logits only where an
answer is predicted.

Legend: B rows, T tokens, N scored positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import nn
from transformers import PreTrainedTokenizerBase

from harness.errors import UsageError
from harness.runtime.positions import base_model, chosen_positions, float32_head
from harness.runtime.rows import Ids, PackedRow, batches, branch_mask, clip, may_branch, packed_rows

Answer = tuple[float, bool]


class Scorer(TemplateLM):  # type: ignore[misc]
    """Scores continuations with `model`, which stays as it is (not merged, not cast).

    `batch_tokens` bounds the padded tokens of a forward pass; it is halved when the GPU runs out
    of memory. `on_progress(done, of)` is called after every batch.
    """

    backend = "causal"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        batch_tokens: int,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_tokens = batch_tokens
        self.forward_seconds = 0.0
        self._autocast = autocast
        self._on_progress: Callable[[int, int], None] = lambda done, of: None
        self._device = base_model(model).get_input_embeddings().weight.device
        self.branching = may_branch(model, max_length) and self._branches_agree()
        self.forward_seconds = 0.0  # without the trial
        if on_progress is not None:
            self._on_progress = on_progress

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return int(bos if bos is not None else self.eot_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        bos = self.tokenizer.bos_token
        if add_special_tokens is None and bos and string.startswith(bos):
            options["add_special_tokens"] = False
        return self.tokenizer.encode(string, **options)  # type: ignore[no-any-return]

    def _branches_agree(self) -> bool:
        """Whether branches score as the same rows do one by one, tried on a few made-up ones.

        Models take the mask and the positions given to them in many ways: ALiBi and recurrent ones
        ignore both without a word, others refuse. What a configuration says does not tell.
        """
        base = base_model(self.model)
        vocabulary, exact = len(base.get_input_embeddings().weight), base.dtype == torch.float32
        made_up = [7 * i * i % vocabulary for i in range(1, 61)]
        prompt = tuple(made_up[: max(1, min(36, self.max_length - 3))])
        pairs = [(prompt, tuple(made_up[i : i + 4])) for i in range(36, 60, 4)]
        try:
            together = self._score(packed_rows(pairs, branching=True))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
        apart = self._score(packed_rows(pairs, branching=False))
        difference = sum(abs(together[pair][0] - apart[pair][0]) for pair in pairs) / (4 * len(pairs))
        # Nats a token. Rounding makes about 1e-6 in float32 and 0.01 to 0.05 in bfloat16.
        return difference < (1e-3 if exact else 0.1)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[Answer]:
        """(summed log-likelihood in nats, greedy?) of each (text, prompt ids, continuation ids)."""
        pairs = [clip(prompt, continuation, self.max_length) for _, prompt, continuation in requests]
        answers = self._score(packed_rows(pairs, branching=self.branching))
        return [answers[pair] for pair in pairs]

    def _score(self, rows: list[PackedRow]) -> dict[tuple[Ids, Ids], Answer]:
        answers: dict[tuple[Ids, Ids], Answer] = {}
        waiting = batches(rows, self.batch_tokens)
        done, of = 0, len(rows)
        with self._inference(), float32_head(self.model), chosen_positions(self.model) as positions:
            while waiting:
                batch = waiting.pop(0)
                started = time.perf_counter()
                try:
                    answers |= self._forward(batch, positions)
                except torch.OutOfMemoryError:
                    if len(batch) == 1:
                        raise
                    torch.cuda.empty_cache()
                    self.batch_tokens = max(1, self.batch_tokens // 2)
                    left = [row for later in (batch, *waiting) for row in later]
                    waiting = batches(left, self.batch_tokens)
                    continue
                self.forward_seconds += time.perf_counter() - started
                done += len(batch)
                self._on_progress(done, of)
        return answers

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        """No gradients, no dropout; the model's mode is put back afterwards."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.train(was_training)

    def _forward(self, batch: list[PackedRow], positions: Any) -> dict[tuple[Ids, Ids], Answer]:
        width = batch[0].length
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for i, row in enumerate(batch):
            ids[i, : row.length] = torch.tensor(row.ids())
        scored = [(i, row, branch) for i, row in enumerate(batch) for branch in row.branches]
        columns = [row.columns(branch) for _, row, branch in scored]
        # Options of one prompt share its last position: one line of logits serves them all.
        places = {
            place: n
            for n, place in enumerate(
                dict.fromkeys((i, c) for (i, _, _), own in zip(scored, columns, strict=True) for c in own)
            )
        }
        chosen = torch.tensor(list(places), device=self._device)  # (N, 2)
        positions.choose(chosen[:, 0], chosen[:, 1], width)
        with self._autocast():
            logits = self.model(
                input_ids=ids.to(self._device), use_cache=False, **self._branch_inputs(batch, width)
            ).logits  # (N, V)
        lines = [places[i, c] for (i, _, _), own in zip(scored, columns, strict=True) for c in own]
        targets = [token for _, _, branch in scored for token in branch.continuation]
        logprobs, greedy = _token_scores(logits, lines, targets)
        answers: dict[tuple[Ids, Ids], Answer] = {}
        at = 0
        for _, row, branch in scored:
            end = at + len(branch.continuation)
            answers[row.prompt, branch.continuation] = (
                float(logprobs[at:end].sum()),
                bool(greedy[at:end].all()),
            )
            at = end
        return answers

    def _branch_inputs(self, batch: list[PackedRow], width: int) -> dict[str, torch.Tensor]:
        if all(row.is_causal for row in batch):
            return {}  # right-padded and causal: neither mask nor position ids are needed
        positions = torch.zeros(len(batch), width, dtype=torch.long)
        for i, row in enumerate(batch):
            positions[i, : row.length] = torch.tensor(row.positions())
        mask = branch_mask(batch, width, base_model(self.model).dtype)
        return {"attention_mask": mask.to(self._device), "position_ids": positions.to(self._device)}

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of the context's length (lm-eval's rule)."""
        totals = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(logprob for logprob, _ in self._loglikelihood_tokens(pairs)))
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy or sampled text of each (prompt, settings), cut before the first stop string."""
        return [self._generate(prompt, settings) for prompt, settings in (r.args for r in requests)]

    def _generate(self, prompt: str, settings: dict[str, Any]) -> str:
        settings = dict(normalize_gen_kwargs(settings))
        stops, new_tokens = settings.pop("until"), settings.pop("max_gen_toks")
        if not settings["do_sample"]:
            settings.pop("temperature", None)
        if new_tokens >= self.max_length:
            raise UsageError(
                f"{new_tokens} tokens to generate leave no room for a prompt in a context of {self.max_length}",
                "Ask for fewer (max_gen_toks).",
            )
        ids = self.tok_encode(prompt)[-(self.max_length - new_tokens) :]
        model: Any = self.model
        with self._inference(), self._autocast():
            generated = model.generate(
                input_ids=torch.tensor([ids], device=self._device),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=self._device),
                max_new_tokens=new_tokens,
                stop_strings=stops or None,
                tokenizer=self.tokenizer,
                pad_token_id=self.tokenizer.pad_token_id,
                **settings,
            )
        text = str(self.tokenizer.decode(generated[0, len(ids) :], skip_special_tokens=True))
        for stop in filter(None, stops):
            text = text.split(stop)[0]
        return text


def _token_scores(
    logits: torch.Tensor, lines: list[int], targets: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability (float64, on the CPU) and greedy match of each target token at its line."""
    line = torch.tensor(lines, device=logits.device)
    target = torch.tensor(targets, device=logits.device)
    logits = logits.float()
    normaliser = logits.logsumexp(dim=-1)  # (N,)
    logprobs = logits[line, target] - normaliser[line]
    greedy = logits.argmax(dim=-1)[line] == target
    return logprobs.double().cpu(), greedy.cpu()
