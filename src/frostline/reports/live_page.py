"""A study at work, followed in a browser: served to this machine alone, made again when something lands."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from frostline.errors import FrostlineError, UsageError
from frostline.reports.page import render
from frostline.reports.sections import sections
from frostline.reports.writer import gathered
from frostline.sentences import counted

LOOPBACK = "127.0.0.1"
# What a page is made of: weights and pictures change with their run's result.
WATCHED = ("*.json", "*.jsonl", "*.csv")


def state_of(study: Path) -> str:
    """Return a digest of what the page is made of, by the files' names, sizes and times."""
    found = hashlib.sha256()
    for pattern in WATCHED:
        for path in sorted(study.rglob(pattern)):
            try:
                about = path.stat()
            except OSError:  # renamed while we look
                continue
            found.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return found.hexdigest()


class Watch:
    """The page of a study as it stands, kept until a file of the study changes."""

    def __init__(self, study: Path) -> None:
        self.study = study
        self._state = ""
        self._page = b""
        self._lock = threading.Lock()

    def page(self) -> bytes:
        """Return the page as the study stands now."""
        with self._lock:
            state = state_of(self.study)
            if state != self._state:
                found = gathered(self.study)
                work = len(found.told.at_work)
                live = (
                    f"Watching: {counted(work, 'run')} at work; this page follows." if work else "Watching."
                )
                self._page = render(found, sections(found), live=live)
                self._state = state
            return self._page


def server(study: str | Path, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of the study's page on the loopback address; `serve_forever` runs it.

    Port 0 takes any that is free. Requests that name another host are refused, so that no web site can read
    the page through this machine's browser. Raises `StudyError`, and `UsageError` where the port is taken.
    """
    watch = Watch(Path(study))
    watch.page()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in (LOOPBACK, "localhost"):
                self._answer(403, b"This page is for this machine alone.", "text/plain")
            elif self.path == "/":
                self._made(watch.page, "text/html; charset=utf-8")
            elif self.path == "/state":
                self._made(lambda: state_of(watch.study).encode(), "text/plain")
            else:
                self._answer(404, b"There is one page: /", "text/plain")

        def _made(self, make: Callable[[], bytes], kind: str) -> None:
            try:
                self._answer(200, make(), kind)
            except FrostlineError as error:  # the study has gone
                self._answer(500, str(error).encode(errors="replace"), "text/plain; charset=utf-8")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing: the terminal belongs to the run."""

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except OSError as error:
        raise UsageError(f"Port {port} can't be used ({error.strerror}). Take another with --port.") from None
