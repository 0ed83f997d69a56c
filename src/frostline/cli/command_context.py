"""What all commands share: common options, clock, progress, warnings, and the JSON output."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from frostline.distributed.torchrun_env import Launch, demand_alone, launched
from frostline.errors import CacheWarning, FrostlineError, LoggerWarning, NoTime, RunWarning, UsageError
from frostline.progress import Progress
from frostline.system import cpu_threads, deadline
from frostline.system.timing import Stopwatch, process_s

SCHEMA = 2  # of the JSON objects: docs/cli.md; raised when a field changes its meaning or goes
PLAIN_WARNINGS = (RunWarning, CacheWarning, LoggerWarning)  # shown without Python's decoration
# An error in all processes of a job is reported by the first. Another process waits this many seconds before
# it reports one, and the launcher ends it meanwhile if the first has ended.
GRACE_S = 2.0
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
F = TypeVar("F", bound=Callable[..., Any])


def stack(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Return several options as one decorator."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


everywhere = stack(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output."),
    click.option("--quiet", is_flag=True, help="No progress on standard error."),
    click.option(
        "--cache-dir",
        "cache_dir",
        type=click.Path(file_okay=False),
        help="Folder of caches shared by all studies [FROSTLINE_CACHE_DIR].",
    ),
)


def given(option: str) -> bool:
    """Whether an option was written at the prompt."""
    source = click.get_current_context().get_parameter_source(option)
    return source is not ParameterSource.DEFAULT


class Verb:
    """One call of a command: cache folder, clock, progress, and the JSON output."""

    owns_process = False  # whether this process was started for it

    def __init__(
        self, options: dict[str, Any], *, divided: bool = False, minutes: float | None = None
    ) -> None:
        """Begin a command; `divided` if several processes of torchrun share its work.

        `minutes` limits the time of all of it, from the start of the process to its exit.
        """
        # A time limit counts from start to exit, with imports. In another program's process it starts here.
        self.since_called = Stopwatch(process_s() if Verb.owns_process else 0.0)
        self._minutes = minutes
        self._divided, self._launch = divided, Launch()
        self._json: bool = options["as_json"]
        self._device: str = options.get("device", "auto")
        self._around = ExitStack()
        self.progress = Progress(options["quiet"])
        self._watch: Any = None
        self._warnings = warnings.catch_warnings()
        if options["cache_dir"]:
            os.environ["FROSTLINE_CACHE_DIR"] = options["cache_dir"]

    def __enter__(self) -> Verb:
        self._see_launch()
        cpu_threads.settle()  # before torch is imported
        signal.signal(signal.SIGTERM, _leave if self._launch.leads else _leave_quietly)
        self._around.enter_context(deadline.alarm(self._minutes, self.since_called))
        self._warnings.__enter__()
        for kind in PLAIN_WARNINGS:
            warnings.simplefilter("always" if self._launch.leads else "ignore", kind)
        plain, shown = warnings.showwarning, set[str]()

        def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            if str(message) in shown:  # two parts of the work met the same trouble
                return
            if issubclass(category, PLAIN_WARNINGS):
                shown.add(str(message))
                print(f"Warning: {message}", file=sys.stderr)
            else:
                plain(message, category, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        return self

    def _see_launch(self) -> None:
        """Find out whether this is one of several processes, of which only the first prints."""
        try:
            self._launch = launched()
            self.progress = self.progress if self._launch.leads else Progress(quiet=True)
            if not self._divided:
                demand_alone(f"frostline {click.get_current_context().info_name}")
        except UsageError as error:
            self._end(str(error), error.exit_code)

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks and writes, of several or alone."""
        return self._launch.leads

    def together(self) -> AbstractContextManager[Any]:
        """Return a context in which the processes of a job work together."""
        if self._launch.size == 1:
            return nullcontext()
        from frostline.distributed import process_group
        from frostline.system import devices

        together = ExitStack()
        together.enter_context(devices.computing(self._device))
        together.enter_context(process_group.together())
        return together

    def in_turn(self) -> AbstractContextManager[None]:
        """Return a context that the first process enters before the others, which then use its cache."""
        if self._launch.size == 1:
            return nullcontext()
        from frostline.distributed import process_group

        return process_group.in_turn()

    def start(self) -> None:
        """Import what training and measuring need, then start the clock."""
        from frostline import training  # noqa: F401  # brings the heavy imports
        from frostline.system import devices, numerics, timing

        self._around.enter_context(deadline.within(self._minutes, self.since_called))
        self._around.enter_context(devices.computing(self._device))  # raised before images are read
        timing.prepare_process()
        numerics.settle()
        self.start_light()

    def start_with(self, module: str) -> None:
        """Import one module of frostline with its dependencies, then start the clock."""
        from frostline.system.timing import reuse_freed_memory

        import_module(f"frostline.{module}")
        reuse_freed_memory()
        self.start_light()

    def start_for(self, data: str) -> None:
        """Start for images at a path; raise before the heavy imports if it does not exist."""
        if not Path(data).exists():
            import frostline

            frostline.load_data(data)
        self.start()

    def start_light(self) -> None:
        """Start the clock, for a command that needs no network."""
        self._watch = Stopwatch()

    def warn(self, lines: Iterable[str]) -> None:
        """Print to standard error, in quiet mode too."""
        from frostline.reports.display_names import visible_lines

        for line in lines if self._launch.leads else ():
            click.echo(visible_lines(line), err=True)

    def done(self, result: dict[str, Any], show: Callable[[], None]) -> None:
        """Print the result, as JSON or for a person."""
        self.progress.close()
        if not self._launch.leads:
            return
        try:
            if self._json:
                from frostline.studies.study_folder import plain

                output = {"schema": SCHEMA, **result, "seconds": self._watch.seconds}
                print(json.dumps(plain(output), allow_nan=False))
            else:
                show()
            sys.stdout.flush()
        except OSError as error:
            raise _OutputLost(error.errno, error.strerror) from None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._around.close()
        self._warnings.__exit__(kind, error, trace)
        self.progress.close()
        match error:
            case KeyboardInterrupt() if not self._launch.leads:
                raise SystemExit(130)
            case KeyboardInterrupt():
                self._end("Interrupted. What is finished is saved; the same command resumes.", 130)
            case FrostlineError():
                self._end(str(error), error.exit_code)
            case _OutputLost():
                _write_no_more()
                if error.errno != errno.EPIPE:  # who reads a pipe, such as head, has enough
                    self._end(
                        f"The output cannot be written ({error.strerror}). Free space, or direct it to "
                        "another place, and repeat the command.",
                        1,
                    )
                raise SystemExit(1)
            case deadline.Rang():
                self._end(str(error), NoTime.exit_code)
            case OSError():  # a disk that is full, a folder that can't be written
                remedy = "Free space there, or name" if error.errno in NO_SPACE else "Name"
                self._end(
                    f"{error.filename or 'A file'}: {error.strerror or error}. What is finished is saved. "
                    f"{remedy} another place, and repeat the command.",
                    1,
                )

    def _end(self, message: str, code: int) -> None:
        from frostline.reports.display_names import visible_lines

        message = visible_lines(message)
        if not self._launch.leads:
            time.sleep(GRACE_S)
            message = f"Process {self._launch.rank} of {self._launch.size}: {message}"
        print(message, file=sys.stderr, flush=True)
        try:
            if self._json and self._launch.leads:
                print(json.dumps({"schema": SCHEMA, "error": message, "exit_code": code}))
            sys.stdout.flush()
        except OSError:
            _write_no_more()
        raise SystemExit(code)


class _OutputLost(OSError):
    """Standard output takes no more."""


def _write_no_more() -> None:
    """Send the rest of the output nowhere: the interpreter would fail to write it once more as it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave_quietly(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def _leave(number: int, frame: Any) -> None:
    print("Stopped. What is finished is saved; the same command resumes.", file=sys.stderr, flush=True)
    raise SystemExit(128 + number)
