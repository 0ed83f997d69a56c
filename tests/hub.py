"""A hub on this machine: it answers as huggingface.co does, with the files that it is given."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789" * 4


@dataclass
class Hub:
    """The files by "OWNER/NAME/FILE", what was asked for, and after how many bytes an answer breaks off."""

    files: dict[str, bytes]
    address: str = ""
    asked: list[str] = field(default_factory=list)
    broken_after: int | None = None

    def fetched(self) -> list[str]:
        """Return the files whose bytes were asked for; the client also asks for what is no file."""
        return [line.removeprefix("GET ") for line in self.asked if line.removeprefix("GET ") in self.files]


@contextmanager
def standing_in(files: dict[str, bytes]) -> Iterator[Hub]:
    """Serve files from this machine, as a hub does, for as long as the block runs."""
    hub = Hub(files)

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.strip("/").replace("/resolve/main/", "/").replace(f"/resolve/{COMMIT}/", "/")
            hub.asked.append(f"{self.command} {path}")
            content = hub.files.get(path)
            self.send_response(200 if content is not None or not path else 404)
            body = content or b""
            self.send_header("X-Repo-Commit", COMMIT)
            if content is None and path:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body[: hub.broken_after])

        def log_message(self, *about: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
