"""Distribute the runs of a comparison over processes by Optuna's storage. No run is made twice.

A missing run is queued once; a process claims it and records its outcome. A file lock beside the study keeps
two processes from claiming the same one, which Optuna's SQLite storage alone does not. If machines that don't
share the lock share a database, the trial with the lower number counts and the other is pruned. A run claimed
by a dead process is queued again, at once if the process was on this machine, else when its heartbeat is
missing; the run itself resumes from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import json
import random
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from frostline.errors import StudyError
from frostline.selection.resampling import Cell
from frostline.selection.successive_halving import Task
from frostline.system.liveness import ProcessId

HEARTBEAT_S = 30  # seconds between heartbeats
OPENINGS = 5  # attempts to create the tables, if several machines start at the same moment
SILENCE_S = 120  # seconds without a heartbeat after which a process on another machine counts as dead

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Unfinished:
    """Runs without an outcome.

    Parameters
    ----------
    running
        Those in progress in all processes.
    stopped
        By candidate index, the most seconds after which one of its runs was stopped for time. Candidates that
        finished a run afterwards are left out.
    """

    running: set[Task]
    stopped: dict[int, float]


@dataclass(frozen=True)
class TrialQueue:
    """Queue and outcomes of one comparison."""

    study: Any  # optuna.Study
    storage: Any  # optuna.storages.RDBStorage
    lock: filelock.BaseFileLock
    shared: bool = False  # with machines that may not share the lock
    _heartbeats: dict[int, float] = field(default_factory=dict)  # trial number → last heartbeat from here

    @classmethod
    def open(cls, name: str, folder: Path, url: str | None = None) -> TrialQueue:
        """Open or create the queue: an SQLite file in `folder`, or the database at `url`.

        Raises `StudyError` if the database can't be used.
        """
        address = url or f"sqlite:///{folder / 'trials.db'}"
        lock = filelock.FileLock(folder / "trials.lock")
        for attempt in range(OPENINGS):
            try:
                with lock:
                    return cls(*_open_storage(name, address), lock, url is not None)
            except Exception as error:  # whatever the database's driver raises
                if attempt < OPENINGS - 1 and _tables_exist_already(error):
                    time.sleep(random.uniform(0.1, 1.0))
                    continue
                raise StudyError(
                    f"The database of trials {_without_login(address)} cannot be used "
                    f"({_reason(error, address)}). Expected a URL like sqlite:///trials.db or "
                    "postgresql://user@host/name, and its driver "
                    '(for PostgreSQL: pip install "frostline[postgresql]").'
                ) from None
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the database's connections."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    def outcomes(self) -> dict[Task, Outcome]:
        """Return the outcome of each finished run."""
        complete = _optuna().trial.TrialState.COMPLETE
        with _database_errors(self.storage.url):
            return {_task(t): dict(t.user_attrs["outcome"]) for t in self._trials() if t.state == complete}

    def unfinished(self) -> Unfinished:
        """Return the runs in progress and the stopped ones, after releasing those of dead processes."""
        with _database_errors(self.storage.url):
            with self.lock:
                trials = self._living_trials()
            running, stopped_s = set[Task](), dict[int, float]()
            for trial in sorted(trials, key=lambda t: t.number):
                task = _task(trial)
                if trial.state.name == "RUNNING":
                    running.add(task)
                elif trial.state.name == "COMPLETE":
                    stopped_s.pop(task.candidate, None)
                if "stopped" in trial.user_attrs and trial.state.name != "COMPLETE":
                    seconds = float(trial.user_attrs["stopped"])
                    stopped_s[task.candidate] = max(stopped_s.get(task.candidate, 0.0), seconds)
        return Unfinished(running, stopped_s)

    def take(
        self,
        missing: Sequence[Task],
        work: Callable[[Task], Outcome],
        stop_on: type[BaseException] | tuple[()] = (),
        allowed_s: float = 0.0,
    ) -> Task | None:
        """Claim and do one of the missing runs; return which, or `None` if other processes have them all.

        `work` returns the outcome, with `score`. An exception ends the claim, so that the run is queued
        again; with one of `stop_on`, the allowed seconds are recorded. Raises `StudyError` if the database
        can't be written.
        """
        with _database_errors(self.storage.url):
            trial = self._claim(missing)
        if trial is None:
            return None
        task, states = _task(trial), _optuna().trial.TrialState
        started = time.perf_counter()
        try:
            with self._heartbeat(trial):
                outcome = work(task)
        except BaseException as error:
            with contextlib.suppress(Exception):  # the first error is raised; a dead claim ends by itself
                if isinstance(error, stop_on):
                    trial.set_user_attr("stopped", max(allowed_s, time.perf_counter() - started))
                self._tell(trial, state=states.FAIL)
            raise
        with _database_errors(self.storage.url):
            try:
                trial.set_user_attr("outcome", outcome)
            except _optuna().exceptions.UpdateFinishedTrialError:  # released by another machine: asleep?
                return None  # the run itself is stored, and read back by the next process that claims it
            self._tell(trial, float(outcome["score"]))
        return task

    def _claim(self, missing: Sequence[Task]) -> Any | None:
        """Claim a run from the queue, after adding the first unclaimed one to it."""
        states = _optuna().trial.TrialState
        with self.lock:  # SQLite lets two processes claim the same one
            active = [trial for trial in self._living_trials() if _is_active(trial)]
            claimed = {_task(trial) for trial in active}
            unclaimed = next((task for task in missing if task not in claimed), None)
            if unclaimed is not None:
                self.study.enqueue_trial({}, user_attrs={"task": _text(unclaimed)})
            elif not any(trial.state == states.WAITING for trial in active):
                return None
            with _no_warnings():
                trial = self.study.ask()
            try:
                trial.set_user_attr("holder", _holder())
            except _optuna().exceptions.UpdateFinishedTrialError:  # released by another machine
                return None
        if "task" not in trial.user_attrs or self._claimed_before(trial.number, _task(trial)):
            self._tell(trial, state=states.PRUNED)  # another machine claimed it first
            return None
        return trial

    def _tell(self, trial: Any, value: float | None = None, state: Any = None) -> None:
        self.study.tell(trial, value, state=state, skip_if_finished=True)

    @contextlib.contextmanager
    def _heartbeat(self, trial: Any) -> Iterator[None]:
        """Record heartbeats during a run."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_S):
                with contextlib.suppress(Exception):  # if the database is busy, the next one counts
                    self.storage.record_heartbeat(trial._trial_id)

        self.storage.record_heartbeat(trial._trial_id)
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @property
    def waiting_for(self) -> list[str]:
        """Processes that are making runs, as `host:pid`."""
        running = _optuna().trial.TrialState.RUNNING
        return [t.user_attrs.get("holder", {}).get("name", "?") for t in self._trials() if t.state == running]

    def _trials(self) -> Sequence[Any]:
        return [t for t in self.study.get_trials(deepcopy=False) if "task" in t.user_attrs]

    def _claimed_before(self, number: int, task: Task) -> bool:
        return any(t.number < number and _task(t) == task and _is_active(t) for t in self._trials())

    def _living_trials(self) -> Sequence[Any]:
        """Return the trials, after releasing the runs of dead processes.

        On this machine they are known by process id, elsewhere by heartbeat. A living process of this machine
        needs no heartbeat: the machine may have slept, or its clock may have jumped.
        """
        optuna, trials = _optuna(), self._trials()
        running = [trial for trial in trials if trial.state == optuna.trial.TrialState.RUNNING]
        if not running:
            return trials
        for trial in running:
            with contextlib.suppress(Exception):  # another process may have been faster
                if self._abandoned(trial):
                    self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                elif _is_local(trial) and self._heartbeat_due(trial):
                    self.storage.record_heartbeat(trial._trial_id)
        with _no_warnings():
            optuna.storages.fail_stale_trials(self.study)
        return self._trials()

    def _heartbeat_due(self, trial: Any) -> bool:
        """Whether a heartbeat is due by the wall clock, as far as this process knows."""
        now, started = time.time(), trial.datetime_start.timestamp()
        due = bool(abs(now - self._heartbeats.get(trial.number, started)) > HEARTBEAT_S)
        if due:
            self._heartbeats[trial.number] = now
        return due

    def _abandoned(self, trial: Any) -> bool:
        """Whether the process that claimed a trial is dead; called under the lock that claims need.

        A process killed between claiming and writing its name leaves none. If machines without the lock share
        the database, one of them may be about to write its name.
        """
        holder = trial.user_attrs.get("holder")
        if holder:
            return not _process(holder).runs()
        since = datetime.datetime.now() - trial.datetime_start
        return not self.shared or abs(since.total_seconds()) > SILENCE_S


def _open_storage(name: str, address: str) -> tuple[Any, Any]:
    """Return Optuna's study and storage, created if missing."""
    optuna = _optuna()
    with _no_warnings():
        storage = optuna.storages.RDBStorage(
            _with_driver(address),
            engine_kwargs={"connect_args": {"timeout": 60}} if address.startswith("sqlite") else None,
            heartbeat_interval=HEARTBEAT_S,
            grace_period=SILENCE_S,
        )
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    return study, storage


def _with_driver(address: str) -> str:
    """Return the URL with the installed driver: SQLAlchemy's default depends on its version."""
    scheme, _, rest = address.partition("://")
    if scheme not in ("postgresql", "postgres"):
        return address
    drivers = [name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name)]
    return f"postgresql+{drivers[0]}://{rest}" if drivers else address


def _tables_exist_already(error: Exception) -> bool:
    """Whether another machine created the tables at the same moment, which a file lock can't prevent."""
    message = str(error).lower()
    return any(word in message for word in ("already exists", "duplicate key", "unique constraint"))


def _optuna() -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _is_active(trial: Any) -> bool:
    """Whether a trial is queued, being run, or finished."""
    return trial.state.name in ("WAITING", "RUNNING", "COMPLETE")


def _text(task: Task) -> str:
    return json.dumps([task.candidate, task.share, task.cell.repeat, task.cell.fold])


def _task(trial: Any) -> Task:
    candidate, share, repeat, fold = json.loads(trial.user_attrs["task"])
    return Task(candidate, share, Cell(repeat, fold))


def _holder() -> dict[str, Any]:
    own = ProcessId.own()
    return {"name": f"{own.host}:{own.number}", "host": own.host, "pid": own.number, "began": own.started}


def _process(holder: dict[str, Any]) -> ProcessId:
    return ProcessId(str(holder.get("host")), int(holder.get("pid", 0)), float(holder.get("began", 0.0)))


def _is_local(trial: Any) -> bool:
    """Return whether a process of this machine claimed the trial."""
    return bool(_process(trial.user_attrs.get("holder", {})).is_local)


def _without_login(address: str) -> str:
    """Return a database's address without user, password and options, which may hold a password, too."""
    return address.rpartition("@")[2].partition("?")[0]


def _reason(error: BaseException, address: str) -> str:
    """Return the first line of a driver's error, or its type if the line holds the password in any form."""
    message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    _, _, login = address.rpartition("@")[0].rpartition("//")
    password = login.partition(":")[2]
    secrets = {address, login, password, urllib.parse.unquote(password)} - {""}
    secret = any(word in message for word in secrets) or "password=" in message
    return type(error).__name__ if secret and password else message


@contextlib.contextmanager
def _database_errors(url: str) -> Iterator[None]:
    """Raise `StudyError` with one message if the database fails, for example because a disk is full."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _optuna().exceptions.StorageInternalError | OSError):
            raise
        raise StudyError(
            f"The database of trials {_without_login(url)} cannot be written or read "
            f"({_reason(error.__cause__ or error, url)}). Finished runs are kept; the same command resumes."
        ) from None


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Suppress Optuna's warnings about heartbeats, an experimental feature that users did not choose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", _optuna().exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage")  # `_heartbeat` gives them
        yield
