"""A hub in the test's own process: repositories that huggingface_hub makes, commits to and fetches from."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Files by repository and name, and what was asked.

    Attributes:
        url: of the server.
        repos: content by name, by repository.
        private: repositories that were made private.
        branches: that were made.
        tokens: that were sent.
        refuse: status code of every answer; 0 answers.
    """

    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    branches: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    refuse: int = 0

    def post(self, parts: list[str], body: bytes) -> dict[str, object]:
        """The answer to a request of the hub's interface, /api/..."""
        if parts[:2] == ["repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.repos.setdefault(name, {})
            if asked.get("private") or asked.get("visibility") == "private":
                self.private.add(name)
            return {"url": f"{self.url}/{name}", "id": name}
        if parts[0] == "validate-yaml":
            return {"errors": [], "warnings": []}
        repo, what = "/".join(parts[1:3]), parts[3]
        if what == "branch":
            self.branches.append(parts[4])
            return {}
        if what == "preupload":
            files = json.loads(body)["files"]
            return {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
        assert what == "commit", parts
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {
            "commitUrl": f"{self.url}/{repo}/commit/{COMMIT}",
            "commitOid": COMMIT,
            "hookOutput": "",
            "success": True,
        }


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub on this machine, until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _begin(self) -> bool:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.tokens.add(self.headers.get("Authorization", ""))
            if hub.refuse:
                self.send_response(hub.refuse)
                self.send_header("Content-Length", "0")
                self.end_headers()
            return not hub.refuse

        def do_POST(self) -> None:
            if not self._begin():
                return
            answer = json.dumps(hub.post(self.path.split("?")[0].strip("/").split("/")[1:], self.body)).encode()
            self._send(200, answer, {"Content-Type": "application/json"})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if not self._begin():
                return
            parts = self.path.split("?")[0].strip("/").split("/")
            content = hub.repos.get("/".join(parts[:2]), {}).get("/".join(parts[4:])) if "resolve" in parts else None
            if content is None:
                missing = "EntryNotFound" if "/".join(parts[:2]) in hub.repos else "RepoNotFound"
                self._send(404, b"", {"X-Error-Code": missing})
                return
            etag = hashlib.sha1(content).hexdigest()
            self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Nothing: the log of a test is not for this."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
