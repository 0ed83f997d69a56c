"""One run, logged by every requested logger. A logger that fails is dropped with one warning."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from frostline.errors import FrostlineError, LoggerWarning
from frostline.loggers.logger import RESULT, Log, Tracked, figures
from frostline.system import timing

OnEpochs = Callable[[Sequence[Mapping[str, Any]]], None]  # of the epochs so far, after each


class Following:
    """Sends the metrics of one run to loggers, as a context; `given_up` is shared by all runs."""

    def __init__(self, run: Tracked, makers: Mapping[str, Callable[[Tracked], Log]], given_up: set[str]):
        self._run = run
        self._makers = makers
        self._given_up = given_up
        self._logs: dict[str, Log] = {}

    def __enter__(self) -> Following:
        names = [name for name in self._makers if name not in self._given_up]
        with timing.set_apart() if names else contextlib.nullcontext():
            for name in names:
                with self._guard(name):
                    self._logs[name] = self._makers[name](self._run)
        return self

    def epochs(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log all the epochs so far; each logger adds those that it lacks."""
        for name, log in self._at_work():
            with self._guard(name):
                if len(rows) < log.epochs_logged:
                    log.rewind(len(rows))
                for step in range(log.epochs_logged + 1, len(rows) + 1):
                    log.add(step, figures(rows[step - 1]))

    def end(self, rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
        """Log the result, and epochs that were run before logging began."""
        self.epochs(rows)
        for name, log in self._at_work():
            with self._guard(name):
                log.end(figures(result, RESULT))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, log in list(self._logs.items()):
            with self._guard(name):
                log.close(None if kind is None else issubclass(kind, FrostlineError))

    def _at_work(self) -> list[tuple[str, Log]]:
        return [(name, log) for name, log in self._logs.items() if not log.finished]

    @contextlib.contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        """Drop a logger that fails, for any reason: the run continues without it."""
        try:
            yield
        except Exception as error:
            self._given_up.add(name)
            log = self._logs.pop(name, None)
            if log is not None:
                with contextlib.suppress(Exception):
                    log.close(failed=False)
            warnings.warn(
                f"{name} cannot be written ({_short(error)}): the work continues without it. The run's own "
                "files hold everything.",
                LoggerWarning,
                stacklevel=2,
            )


def _short(error: Exception) -> str:
    """One line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
