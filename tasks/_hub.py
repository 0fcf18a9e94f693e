"""Rows of a data set on the Hugging Face Hub, or of its cache on this machine."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from harness.errors import DataError, MissingDependencyError, UsageError, first_line
from tasks._read import Row

CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class HubRows:
    """The rows of each split, and the commit they are from (`None` where the cache does not say)."""

    rows: dict[str, list[Row]]
    revision: str | None


def load_hub(hub_id: str, *, splits: Sequence[str], config: str | None = None) -> HubRows:
    """Read `splits` of `hub_id` from the Hub, or from the cache when the Hub cannot be reached.

    Raises `MissingDependencyError` without the package `datasets`, `UsageError` when the data is
    neither reachable nor cached, `DataError` when a split is not there or is empty.
    """
    try:
        import datasets
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingDependencyError(
            f"the package 'datasets' is not installed; {hub_id} is read with it",
            "Type: pip install datasets. Or use --data DIR or --data sample, which need no package.",
        ) from error
    no_route = "" if datasets.config.HF_HUB_OFFLINE else _no_route(datasets.config.HF_ENDPOINT)
    try:
        with _cache_only(datasets.config) if no_route else nullcontext():
            builder = datasets.load_dataset_builder(hub_id, config)
            builder.download_and_prepare()
            tables = builder.as_dataset()
    # There is no one error for "not to be had": OSError is the network and a missing cache, ValueError
    # a cache without this config, DatasetsError the rest, and what the Hub's error derives from is
    # the HTTP client's own (which client depends on the version): a connection lost half-way.
    except (OSError, ValueError, datasets.exceptions.DatasetsError, *HfHubHTTPError.__bases__) as error:
        raise _unavailable(hub_id, config, no_route or _first_line(error)) from error
    return HubRows(
        {name: _rows(tables, hub_id, name) for name in splits},
        # The cached copy of a Hub commit is a folder named after the commit.
        builder.hash if re.fullmatch("[0-9a-f]{40}", builder.hash or "") else None,
    )


def _rows(tables: Any, hub_id: str, split: str) -> list[Row]:
    there = ", ".join(tables)
    remedy = "The data set has changed on the Hub. Use an older copy with --data DIR, or --data sample."
    if split not in tables:
        raise DataError(f"{hub_id}: no split '{split}' (there: {there})", remedy)
    rows = [Row(values, f"{hub_id} {split}, row {n}") for n, values in enumerate(tables[split], start=1)]
    if not rows:
        raise DataError(f"{hub_id}: the split '{split}' is empty", remedy)
    return rows


def _no_route(endpoint: str) -> str:
    """Why no connection to the Hub can be made; empty where one can, or where a proxy decides.

    Asked first, because the client retries for half a minute before it looks into its cache.
    """
    address = urlsplit(endpoint)
    host, port = address.hostname or "", address.port or (80 if address.scheme == "http" else 443)
    if getproxies().get(address.scheme) and not proxy_bypass(host):
        return ""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return f"no connection to {endpoint} ({error.strerror or error})"
    return ""


@contextmanager
def _cache_only(settings: Any) -> Iterator[None]:
    """HF_HUB_OFFLINE for one load: the variable itself is read only when `datasets` is imported."""
    settings.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        settings.HF_HUB_OFFLINE = False


def _first_line(error: Exception) -> str:
    return first_line(str(error)) or type(error).__name__


def _unavailable(hub_id: str, config: str | None, cause: str) -> UsageError:
    arguments = ", ".join(repr(part) for part in (hub_id, config) if part)
    return UsageError(
        f"{hub_id} is not in this machine's cache and could not be read from the Hub: {cause}",
        "Do one of these:\n"
        f'  - on a machine with a network: python -c "import datasets; datasets.load_dataset({arguments})", '
        "then copy its folder ~/.cache/huggingface to this machine (HF_HOME names another place)\n"
        "  - --data DIR: a folder with the data set's files\n"
        "  - --data sample: the built-in sample, which needs no download",
    )
