"""Live page of a running study: served on the loopback address, rendered again when a file changes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from frostline.errors import FrostlineError, UsageError
from frostline.reports.page import render
from frostline.reports.writer import read_context, sections
from frostline.sentences import counted

LOOPBACK = "127.0.0.1"
# Files whose change renders the page again: weights and pictures change with their run's result.
WATCHED = ("*.json", "*.jsonl", "*.csv")


def state_of(study: Path) -> str:
    """Return a digest of the watched files' names, sizes and times."""
    digest = hashlib.sha256()
    for pattern in WATCHED:
        for path in sorted(study.rglob(pattern)):
            try:
                stat = path.stat()
            except OSError:  # renamed in the meantime
                continue
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


class Watch:
    """The current page of a study, cached until a file of the study changes."""

    def __init__(self, study: Path) -> None:
        self.study = study
        self._state = ""
        self._page = b""
        self._lock = threading.Lock()

    def page(self) -> bytes:
        """Return the current page."""
        with self._lock:
            state = state_of(self.study)
            if state != self._state:
                context = read_context(self.study)
                n_unfinished = len(context.contents.unfinished_runs)
                live = (
                    f"Watching: {counted(n_unfinished, 'run')} unfinished; this page updates itself."
                    if n_unfinished
                    else "Watching."
                )
                self._page = render(context, sections(context), live=live)
                self._state = state
            return self._page


def server(study: str | Path, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of the study's page on the loopback address; `serve_forever` runs it.

    Port 0 takes any free port. Requests that name another host are refused, so that no web site can read the
    page through this machine's browser. Raises `StudyError`, and `UsageError` where the port is in use.
    """
    watch = Watch(Path(study))
    watch.page()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in (LOOPBACK, "localhost"):
                self._send(403, b"This page is only for this machine.", "text/plain")
            elif self.path == "/":
                self._send_result(watch.page, "text/html; charset=utf-8")
            elif self.path == "/state":
                self._send_result(lambda: state_of(watch.study).encode(), "text/plain")
            else:
                self._send(404, b"The only page is /", "text/plain")

        def _send_result(self, build: Callable[[], bytes], content_type: str) -> None:
            try:
                self._send(200, build(), content_type)
            except FrostlineError as error:  # the study was removed
                self._send(500, str(error).encode(errors="replace"), "text/plain; charset=utf-8")

        def _send(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log nothing: the terminal belongs to the run."""

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except OSError as error:
        raise UsageError(f"Port {port} can't be used ({error.strerror}). Take another with --port.") from None
