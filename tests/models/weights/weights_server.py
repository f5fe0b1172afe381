"""A server of files in the test's own process, which can be told to misbehave."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class WeightsServer:
    """Files by path, how they are sent, and what was asked.

    Attributes:
        url: of the server, without a slash at its end.
        files: content by path, such as "/weights.pth".
        redirects: path to go to by path.
        statuses: by path, status codes to answer with before the file is sent.
        cuts: by path, after how many bytes of the answer each connection is cut, in turn.
        ranges: whether parts are sent.
        etag: of all files, if any.
        content_type: of all files.
        length: what is said of the length: the truth by default; None says nothing.
        requests: path and Range of each request, in turn.
        before: called with the path at the beginning of each answer.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    ranges: bool = True
    etag: str | None = '"one"'
    content_type: str = "application/octet-stream"
    length: Callable[[bytes], int | None] = len
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    before: Callable[[str], None] = lambda path: None

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, wanted = handler.path, handler.headers.get("Range")
        self.requests.append((path, wanted))
        self.before(path)
        if path in self.redirects:
            handler.send_response(302)
            handler.send_header("Location", self.redirects[path])
            handler.end_headers()
            return
        status = self.statuses[path].pop(0) if self.statuses.get(path) else (200 if path in self.files else 404)
        if status != 200:
            handler.send_error(status)
            return
        content = self.files[path]
        begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.ranges else 0  # type: ignore[index]
        if handler.headers.get("If-Range", self.etag) != self.etag:
            begin = 0
        if begin and begin >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.end_headers()
            return
        body = content[begin:]
        handler.send_response(206 if begin else 200)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        if self.etag is not None:
            handler.send_header("ETag", self.etag)
        handler.send_header("Content-Type", self.content_type)
        length = self.length(body)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        cut = self.cuts[path].pop(0) if self.cuts.get(path) else len(body)
        handler.wfile.write(body[:cut])


@contextmanager
def weights_server() -> Iterator[WeightsServer]:
    """A server on this machine, until the block ends."""
    state = WeightsServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *arguments: object) -> None:
            """Nothing: the log of a test is not for this."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
