"""The file of a run's predictions, opened: its size bounded, and never another kind of file waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.io.files import read_bounded

MOST_BYTES = 2**30
"""A million items take a tenth of it."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A pyarrow ParquetFile over the bytes of `path`. Raises as `read_bounded` and pyarrow do."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # The bytes and not the path: a file of another kind would be waited for.
    with pq.ParquetFile(pa.BufferReader(read_bounded(path, MOST_BYTES))) as file:
        yield file
