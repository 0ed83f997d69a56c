"""How far long work is: a bar in a notebook or a terminal, a line now and then elsewhere.

Functions that a person calls take `progress` as any function of (what, done, total), and some take `log`, a
function of a line; `Progress.of` makes one object of both, and that is what everything below them is given.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from importlib import import_module
from typing import Any

OnProgress = Callable[[str, int, int], None]  # called with (what, done, total)
OnLine = Callable[[str], None]


class Activity(StrEnum):
    """What progress is of; a plain string for the caller."""

    INDEX = "indexing"
    FIND_COPIES = "looking for copies"
    DECODE = "decoding"
    FROZEN_LAYERS = "frozen layers"
    TRAIN = "train"
    EPOCHS = "epochs"
    MEASURE = "measure"
    PREDICT = "predict"
    FORGETTING = "forgetting"
    EXPORT = "export"


LABELS: dict[str, str] = {
    Activity.INDEX: "Reading the images' bytes",
    Activity.FIND_COPIES: "Searching for copies",
    Activity.DECODE: "Decoding each image once",
    Activity.FROZEN_LAYERS: "Computing frozen layers",
    Activity.TRAIN: "Training",
    Activity.EPOCHS: "Training",
    Activity.MEASURE: "Measuring",
    Activity.PREDICT: "Predicting",
    Activity.FORGETTING: "Measuring what is forgotten",
    Activity.EXPORT: "Exporting",
}
LINE_EVERY_S = 10.0  # seconds between lines where there is no bar: a choice
HTML_EVERY_S = 0.2  # seconds between updates of a notebook's bar: a choice, each is a message to the browser


class Progress:
    """Progress of long work, to pass as `progress=`: a bar in a notebook or a terminal, else lines.

    Written to standard error, lines at most every 10 s.

    Parameters
    ----------
    quiet
        Show nothing.

    Examples
    --------
    >>> frostline.fit("photos/", progress=frostline.Progress())  # doctest: +SKIP
    """

    def __init__(self, quiet: bool = False) -> None:
        self._on_progress: OnProgress | None = None if quiet else self._show
        self._on_line: OnLine | None = None if quiet else self._print
        self._bar: Any = None  # rich's, in a terminal
        self._task: Any = None
        self._handle: Any = None  # IPython's, in a notebook
        self._what = ""
        self._done = 0
        self._started = self._shown = time.monotonic()

    @classmethod
    def of(cls, on_progress: OnProgress | None, log: OnLine | None = None) -> Progress:
        """Return one object that calls these.

        Parameters
        ----------
        on_progress
            Called with (what, done, total); `None` for nothing. A `Progress` also gets the lines.
        log
            Called with lines for a person, in place of what `on_progress` does with them.

        Returns
        -------
        Progress
        """
        if isinstance(on_progress, Progress):
            if log is None:
                return on_progress
            on_progress = on_progress._on_progress
        progress = cls(quiet=True)
        progress._on_progress, progress._on_line = on_progress, log
        return progress

    @property
    def heard(self) -> bool:
        """Whether somebody is told how far the work is."""
        return self._on_progress is not None

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tell that `done` of `total` steps are done.

        Parameters
        ----------
        what
            The name of the work.
        done, total
            Steps done and steps in all.
        """
        if self._on_progress is not None:
            self._on_progress(what, done, total)

    def log(self, line: str) -> None:
        """Write a line, above the bar if there is one.

        Parameters
        ----------
        line
            The text.
        """
        if self._on_line is not None:
            self._on_line(line)

    def counter(self, what: str, total: int) -> Callable[[int], None]:
        """Return a function that counts steps and reports them.

        Parameters
        ----------
        what
            The name of the work.
        total
            Steps in all.

        Returns
        -------
        callable
            Call it with the number of steps done since its last call.
        """
        done = 0

        def count(steps: int) -> None:
            nonlocal done
            done += steps
            self(what, done, max(done, total))

        return count

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._what = ""

    def _print(self, line: str) -> None:
        if self._bar is not None:  # which stays below the line
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _show(self, what: str, done: int, total: int) -> None:
        if _in_notebook():
            self._draw_html(what, done, total)
        elif sys.stderr.isatty():
            self._draw(what, done, total)
        else:
            self._print_now_and_then(what, done, total)

    def _draw_html(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and self._handle is not None and now - self._shown < HTML_EVERY_S:
            return
        self._shown = now
        # IPython is untyped where it is installed, and may not be; named by a string it is Any either way.
        notebook: Any = import_module("IPython.display")
        bar = f'<progress value="{int(done)}" max="{int(total)}"></progress>'
        shown = notebook.HTML(f"{bar} {html.escape(LABELS.get(what, what))}: {done:,} of {total:,}")
        if self._handle is None:
            self._handle = notebook.display(shown, display_id=True)
        else:
            self._handle.update(shown)

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
        self._bar.update(self._task, completed=done, total=total)

    def _print_now_and_then(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what or done <= self._done:  # another job of the same kind
            self._what, self._started, self._shown = what, now, now
        self._done = done
        if now - self._shown >= LINE_EVERY_S and 0 < done < total:
            left_s = (now - self._started) / done * (total - done)
            print(
                f"  {LABELS.get(what, what)}: {done} of {total}, about {left_s:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            self._shown = now


QUIET = Progress(quiet=True)


def _in_notebook() -> bool:
    """Return whether this code runs in a notebook's kernel."""
    shell = sys.modules.get("IPython")
    ipython = shell.get_ipython() if shell is not None else None
    return ipython is not None and hasattr(ipython, "kernel")
