"""A local server that answers as the Hugging Face Hub does when a data set is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# A repository's id to its commit and its files by path.
Repositories = dict[str, tuple[str, dict[str, bytes]]]


@contextmanager
def serve(repositories: Repositories, cut_short: str = "") -> Iterator[str]:
    """Serve `repositories` on a free port of this machine; gives the value for HF_ENDPOINT.

    The connection is lost in the middle of the file named `cut_short`.
    """
    handler = type("ThisHub", (Hub,), {"repositories": repositories, "cut_short": cut_short})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def tree(files: dict[str, bytes], prefix: str, recursive: bool) -> Iterator[dict[str, Any]]:
    """The Hub's listing of the files and folders under `prefix`."""
    folders: set[str] = set()
    for name in sorted(files):
        if not name.startswith(prefix):
            continue
        folder, _, rest = name.removeprefix(prefix).partition("/")
        if rest and prefix + folder not in folders:
            folders.add(prefix + folder)
            yield {"type": "directory", "path": prefix + folder, "oid": "0" * 40, "size": 0}
        if recursive or not rest:
            oid = hashlib.sha1(files[name]).hexdigest()
            yield {"type": "file", "path": name, "size": len(files[name]), "oid": oid}


class Hub(BaseHTTPRequestHandler):
    """The parts of the Hub's API that loading a data set asks for."""

    repositories: Repositories
    cut_short: str

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        for repo_id, (sha, files) in self.repositories.items():
            if path.startswith(f"/api/datasets/{repo_id}"):
                return self.api(repo_id, sha, files, path.removeprefix(f"/api/datasets/{repo_id}"))
            if path.startswith(f"/datasets/{repo_id}/resolve/"):
                return self.file(sha, files, path.split("/", 6)[-1])
        return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_POST = do_GET

    def api(self, repo_id: str, sha: str, files: dict[str, bytes], what: str) -> None:
        if what.startswith("/tree/"):
            folder = what.removeprefix("/tree/").partition("/")[2]
            recursive = "recursive=true" in self.path.lower()
            return self.reply_json(list(tree(files, f"{folder}/" if folder else "", recursive)))
        if what.startswith("/paths-info/"):
            entries = {entry["path"]: entry for entry in tree(files, "", recursive=True)}
            asked = self.asked_paths()
            return self.reply_json([entries[path] for path in asked if path in entries])
        siblings = [{"rfilename": name} for name in files]
        return self.reply_json(
            {"id": repo_id, "sha": sha, "siblings": siblings, "private": False, "tags": []}
        )

    def file(self, sha: str, files: dict[str, bytes], name: str) -> None:
        if name not in files:
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        etag = hashlib.sha1(files[name]).hexdigest()
        return self.reply(200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": sha})

    def asked_paths(self) -> list[str]:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        # Clients send JSON or a form, by their age.
        return list(json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"])

    def reply_json(self, value: object) -> None:
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            is_cut = bool(self.cut_short) and self.path.endswith(self.cut_short)
            self.wfile.write(content[: len(content) // 2] if is_cut else content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: a request log is no test output."""
