"""Live progress on standard error: a bar with an ETA on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from frostline.system.activity import Activity

LABELS: dict[str, str] = {
    Activity.INDEX: "Reading the images' bytes",
    Activity.FIND_COPIES: "Searching for copies",
    Activity.DECODE: "Decoding each image once",
    Activity.FROZEN_LAYERS: "Computing frozen layers",
    Activity.TRAIN: "Training",
    Activity.PREDICT: "Predicting",
}
LINE_EVERY_S = 10.0  # seconds between lines if standard error is not a terminal


class Progress:
    """Called as `progress(what, done, total)`; prints nothing when quiet."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: object | None = None
        self._task: object | None = None
        self._what = ""
        self._done = 0
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        if self._quiet:
            return
        if sys.stderr.isatty():
            self._draw(what, done, total)
        else:
            self._line(what, done, total)

    def log(self, text: str) -> None:
        """Print a line to standard error, past the bar."""
        if not self._quiet:
            self.close()
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()  # type: ignore[attr-defined]
            self._bar = None
            self._what = ""

    def _draw(self, what: str, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        if self._bar is None or what != self._what or done < self._done:
            self.close()
            self._bar = Bar(
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(LABELS.get(what, what), total=total)
            self._what = what
        self._done = done
        self._bar.update(self._task, completed=done, total=total)  # type: ignore[attr-defined]

    def _line(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what or done <= self._done:  # another job of the same kind
            self._what, self._started, self._printed = what, now, now
        self._done = done
        if now - self._printed >= LINE_EVERY_S and 0 < done < total:
            left = (now - self._started) / done * (total - done)
            print(
                f"  {LABELS.get(what, what)}: {done} of {total}, about {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            self._printed = now
