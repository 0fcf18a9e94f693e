"""Training rows as token ids, kept on disk: every run of a grid needs the same, and the Hub's MedQA
takes seconds to tokenise.

Ids can be turned back into their text. So only what is public anyway is kept unless asked for
(`MEDTUNE_CACHE_TOKENS`), and files are open to their owner only.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors.numpy
from transformers import PreTrainedTokenizerBase

from harness.io.files import NotReadableError, read_bounded
from harness.io.hashes import cache_root
from harness.runtime.cache import forget_unused, mark_used, may_keep, private_folder
from harness.runtime.device import rank
from harness.runtime.tokens.rows import Row, encode_pairs

VARIABLE = "MEDTUNE_CACHE_TOKENS"
_FOLDER = "tokens"
_FORMAT = 2
_DIGEST_BYTES = 32
_MOST_BYTES = 2**34


class TokenCache:
    """Tokenised rows of data from `source`. What keeps it from being used costs time, and `notice` says so."""

    def __init__(self, source: str, notice: Callable[[str], None]) -> None:
        self._keep = may_keep(VARIABLE, "public", source)
        self._notice = notice

    def encode_pairs(
        self, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], max_length: int
    ) -> list[Row]:
        """`harness.runtime.training.batches.encode_pairs`, from disk where an earlier run left it."""
        # A tokenizer written in Python does not show all that it does, so nothing of it is kept.
        if not (pairs and self._keep and tokenizer.is_fast):
            return encode_pairs(tokenizer, pairs, max_length)
        key = _key(pairs, tokenizer, max_length)
        try:
            found = self._read(key)
        except OSError as error:
            self._not_kept(error)
            return encode_pairs(tokenizer, pairs, max_length)
        if found is not None:
            return found
        rows = encode_pairs(tokenizer, pairs, max_length)
        if rank() == 0:
            try:
                _write(key, rows)
            except OSError as error:
                self._not_kept(error)
        return rows

    def _not_kept(self, error: OSError) -> None:
        self._notice(f"tokenised rows are not kept in {cache_root()}: {error.strerror or error}")

    def _read(self, key: str) -> list[Row] | None:
        path = _path(key)
        try:
            content = read_bounded(path, _MOST_BYTES)
        except FileNotFoundError:
            return None
        except NotReadableError:  # a pipe, say: as damaged as any
            content = b""
        body = content[_DIGEST_BYTES:]
        if content[:_DIGEST_BYTES] != _digest(key, body):
            self._notice(f"tokenised rows in {path} are damaged: tokenising anew")
            return None
        mark_used(path)
        arrays = safetensors.numpy.load(body)
        ids = arrays["ids"].tolist()
        ends = [0, *np.cumsum(arrays["lengths"], dtype=np.int64).tolist()]
        others = zip(arrays["answer_starts"].tolist(), arrays["cuts"].tolist(), strict=True)
        return [
            Row(tuple(ids[a:b]), start, cut)
            for (a, b), (start, cut) in zip(pairwise(ends), others, strict=True)
        ]


def _key(pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """SHA-256 over all that the rows depend on."""
    # Resets the truncation and padding that a tokenizer's file may hold, as every later call does;
    # with them its state would not be the same before its first call as after.
    tokenizer.encode("")
    versions = [importlib.metadata.version(name) for name in ("tokenizers", "transformers")]
    kind = [str(type(tokenizer)), tokenizer.bos_token, tokenizer.split_special_tokens]
    state = [_FORMAT, *kind, versions, max_length]
    digest = hashlib.sha256(json.dumps(state).encode())
    for text in (tokenizer.backend_tokenizer.to_str(), *(text for pair in pairs for text in pair)):
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def _path(key: str) -> Path:
    return cache_root() / _FOLDER / f"{key}.tokens"


def _digest(key: str, body: bytes) -> bytes:
    return hashlib.sha256(key.encode() + body).digest()


def _write(key: str, rows: Sequence[Row]) -> None:
    """Appears by rename, whole; two processes that write the same do not meet. Raises `OSError`."""
    folder = private_folder(_FOLDER)
    forget_unused(folder)
    arrays = {
        "ids": np.fromiter((i for row in rows for i in row.ids), dtype=np.int32),
        "lengths": np.array([len(row.ids) for row in rows], dtype=np.int32),
        "answer_starts": np.array([row.answer_start for row in rows], dtype=np.int32),
        "cuts": np.array([row.cut for row in rows], dtype=np.int32),
    }
    body = safetensors.numpy.save(arrays)
    # mkstemp's files are open to their owner only.
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".making-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(_digest(key, body) + body)
        Path(name).replace(_path(key))
    finally:
        with contextlib.suppress(FileNotFoundError):  # renamed
            Path(name).unlink()
