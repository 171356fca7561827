"""As much of the Hugging Face hub as `datasets` needs to stream one public dataset, `a/b`, out of a folder."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlparse


@contextmanager
def serving(folder: Path, commit: str) -> Iterator[tuple[str, list[str]]]:
    """The server's address and the paths that are asked for, as they come."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folder, commit, asked))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, commit: str, asked: list[str], *arguments) -> None:
        self.folder, self.commit, self.asked = folder, commit, asked
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.asked.append(path)
        if re.fullmatch(r"/api/datasets/a/b(/revision/.*)?", path):
            self.send_json({"id": "a/b", "sha": self.commit, "private": False, "tags": [], "siblings": []})
        elif tree := re.fullmatch(r"/api/datasets/a/b/tree/[^/]+/?(.*)", path):
            self.send_json([self.entry(found) for found in sorted((self.folder / tree[1]).iterdir())])
        elif (resolved := re.fullmatch(r"/datasets/a/b/resolve/[^/]+/(.*)", path)) and (
            self.folder / resolved[1]
        ).is_file():
            self.send_file((self.folder / resolved[1]).read_bytes())
        else:
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def entry(self, path: Path) -> dict:
        kind = {"type": "directory"} if path.is_dir() else {"type": "file", "size": path.stat().st_size}
        return {"path": str(path.relative_to(self.folder)), "oid": "0" * 40, **kind}

    def send_file(self, content: bytes) -> None:
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            span = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            self.send(206, content[first : last + 1], span)
        else:
            self.send(200, content, {"ETag": '"1"', "Accept-Ranges": "bytes"})

    def send_json(self, content: object) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"X-Repo-Commit": self.commit, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Nothing on stderr."""
