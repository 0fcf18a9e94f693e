"""Where a task's data comes from: what `--data` means for one task."""

from __future__ import annotations

import os
import threading
from urllib.parse import quote

from harness.contracts import Task
from harness.errors import UsageError
from harness.escape import masked
from harness.io.hub_cache import hub_cache, is_cached
from harness.io.paths import typed_path

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 2.0
MOST_CONFIG_BYTES = 2**22
DATA_CHOICES = ("auto", "hub", "sample")

_TRUE = {"1", "true", "yes", "on"}


def resolve_source(data: str, task: type[Task]) -> tuple[str, str | None]:
    """What `--data` means for `task`: `hub`, `sample` or an absolute folder, and what to tell the user.

    `auto` is the Hub where the dataset is cached or can be reached, else the built-in sample with a
    notice that says so. Raises `UsageError` for a folder that is not there.
    """
    if data == "auto":
        problem = hub_problem(task)
        return ("hub", None) if problem is None else ("sample", _sample_notice(task, problem))
    if data == "sample":
        return "sample", None
    if data == "hub":
        if task.hub_id is None:
            raise UsageError(
                f"task '{task.name}' has no dataset on the Hub", "Use --data sample or a folder."
            )
        return "hub", None
    return _folder(data), None


def _folder(data: str) -> str:
    folder = typed_path(data, "data")
    if folder.is_dir():
        return str(folder.resolve())
    remedy = f"--data takes {', '.join(DATA_CHOICES)}, or the path of a folder."
    if folder.exists():
        raise UsageError(f"data {data}: not a folder", remedy)
    raise UsageError(f"data {data}: there is no such folder", remedy)


def _sample_notice(task: type[Task], problem: str) -> str:
    lines = [
        f"NOT THE REAL {task.title}: {problem}.",
        f"Scores are on the built-in sample. They say nothing about {task.title} itself and are not "
        "comparable to published figures.",
    ]
    if task.hub_id is not None:
        lines.append(
            f"For the real data: connect to the Hub once (dataset {task.hub_id}) and use --data hub, "
            "or give a folder: --data DIR. To silence this: --data sample."
        )
    return "\n".join(lines)


def hub_problem(task: type[Task]) -> str | None:
    """Why the task's Hub dataset cannot be used here, or `None` when it can."""
    if task.hub_id is None:
        return f"task '{task.name}' has no dataset on the Hub"
    if is_cached("datasets", task.hub_id):
        return None
    if _is_offline():
        return f"HF_HUB_OFFLINE is set and {task.hub_id} is not in the cache ({hub_cache()})"
    return _ask_hub(task.hub_id)


def _is_offline() -> bool:
    return any(
        os.environ.get(name, "").lower() in _TRUE for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    )


def download_config(hub_id: str, revision: str | None) -> bytes | str:
    """A model's config.json from the Hub, or why it is not to be had; in seconds either way."""
    if _is_offline():
        return "HF_HUB_OFFLINE is set and it is not in the cache"
    endpoint = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        return "HF_ENDPOINT is not a web address (it begins with http:// or https://)"
    url = f"{endpoint}/{hub_id}/resolve/{quote(revision or 'main', safe='')}/config.json"
    answers: list[bytes | str] = []
    asker = threading.Thread(target=lambda: answers.append(_get(endpoint, url)), daemon=True)
    asker.start()
    asker.join(TIMEOUT_SECONDS + 0.5)
    answer = answers[0] if answers else f"{endpoint} did not answer within {TIMEOUT_SECONDS:g} s"
    return masked(answer) if isinstance(answer, str) else answer


def _get(endpoint: str, url: str) -> bytes | str:
    import http.client
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - checked above
            content: bytes = answer.read(MOST_CONFIG_BYTES)
            return content
    except urllib.error.HTTPError as error:
        error.close()
        return f"the Hub answered {error.code} {error.reason}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return f"{endpoint} cannot be reached ({reason})"


def _ask_hub(hub_id: str) -> str | None:
    endpoint = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        return "HF_ENDPOINT is not a web address (it begins with http:// or https://)"
    answers: list[str | None] = []
    # A thread, since a name lookup has no timeout of its own and can hang for a minute.
    asker = threading.Thread(
        target=lambda: answers.append(_head(endpoint, f"{endpoint}/api/datasets/{hub_id}")), daemon=True
    )
    asker.start()
    asker.join(TIMEOUT_SECONDS + 0.5)
    answer = answers[0] if answers else f"{endpoint} did not answer within {TIMEOUT_SECONDS:g} s"
    return None if answer is None else masked(answer)


def _head(endpoint: str, url: str) -> str | None:
    import http.client
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the scheme is checked above
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"{url} answered {error.code} {error.reason}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return f"{endpoint} cannot be reached ({reason})"
