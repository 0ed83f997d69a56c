"""Who runs what: Optuna's storage, shared by any number of processes. No run is made twice.

A run that is wanted is queued once; a process takes one from the queue and tells its outcome. A file lock
beside the study keeps two processes from taking the same one, which Optuna's SQLite storage alone does not;
where a database is shared by machines that don't share the lock, the run with the lower number counts and the
other is dropped unseen. What a dead process had taken is wanted again, at once where the process was on this
machine, else when its heartbeat is missing; the run itself goes on from its last checkpoint.
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

HEARTBEAT_S = 30  # between two signs of life
OPENINGS = 5  # tries to make the tables where several machines begin at the same moment
SILENCE_S = 120  # without one a process on another machine counts as dead

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """The queue and the outcomes of one comparison."""

    study: Any  # optuna.Study
    storage: Any  # optuna.storages.RDBStorage
    lock: filelock.BaseFileLock
    shared: bool = False  # with machines that may not share the lock
    _beaten: dict[int, float] = field(default_factory=dict)  # trial → when this process gave its sign of life

    @classmethod
    def open(cls, name: str, folder: Path, url: str | None = None) -> Ledger:
        """Open or begin the ledger: an SQLite file in `folder`, or a database that several machines reach.

        Raises `StudyError` where the database can't be used.
        """
        address = url or f"sqlite:///{folder / 'trials.db'}"
        lock = filelock.FileLock(folder / "trials.lock")
        for attempt in range(OPENINGS):
            try:
                with lock:
                    return cls(*_opened(name, address), lock, url is not None)
            except Exception as error:  # whatever the database's driver raises
                if attempt < OPENINGS - 1 and _crossed(error):
                    time.sleep(random.uniform(0.1, 1.0))
                    continue
                raise StudyError(
                    f"The database of trials {_shown(address)} cannot be used ({_reason(error, address)}). "
                    "Expected a URL like sqlite:///trials.db or postgresql://user@host/name, and its driver "
                    '(for PostgreSQL: pip install "frostline[postgresql]").'
                ) from None
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Give the database's connections back."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    def outcomes(self) -> dict[Task, Outcome]:
        """Return what was told of each finished run."""
        complete = _optuna().trial.TrialState.COMPLETE
        with _told(self.storage.url):
            return {_task(t): dict(t.user_attrs["outcome"]) for t in self._trials() if t.state == complete}

    def running(self) -> set[Task]:
        """Return the runs that are being made, by this process or another; what the dead had is given up."""
        with _told(self.storage.url), self.lock:
            self._release_dead()
            return {_task(trial) for trial in self._trials() if trial.state.name == "RUNNING"}

    def stopped(self) -> dict[int, float]:
        """Return the most seconds that runs were given before they were stopped for time, by candidate.

        What a candidate's later run took tells more, so then there is none.
        """
        found: dict[int, float] = {}
        with _told(self.storage.url):
            for trial in sorted(self._trials(), key=lambda t: t.number):
                place = _task(trial).candidate
                if trial.state.name == "COMPLETE":
                    found.pop(place, None)
                elif "stopped" in trial.user_attrs:
                    found[place] = max(found.get(place, 0.0), float(trial.user_attrs["stopped"]))
        return found

    def take(
        self,
        wanted: Sequence[Task],
        work: Callable[[Task], Outcome],
        stops: type[BaseException] | tuple[()] = (),
        given_s: float = 0.0,
    ) -> Task | None:
        """Do one of the wanted runs that nobody has: returns which, or `None` where others have them all.

        `work` returns the outcome, with `score`. Whatever it raises ends the claim, so that the run is wanted
        again; where it raises `stops`, the seconds it was given are noted. Raises `StudyError` where the
        database can't be written.
        """
        with _told(self.storage.url):
            trial = self._claim(wanted)
        if trial is None:
            return None
        task, states = _task(trial), _optuna().trial.TrialState
        began = time.perf_counter()
        try:
            with self._beating(trial):
                outcome = work(task)
        except BaseException as error:
            with contextlib.suppress(Exception):  # what went wrong first is said; a dead claim ends by itself
                if isinstance(error, stops):
                    trial.set_user_attr("stopped", max(given_s, time.perf_counter() - began))
                self._tell(trial, state=states.FAIL)
            raise
        with _told(self.storage.url):
            try:
                trial.set_user_attr("outcome", outcome)
            except _optuna().exceptions.UpdateFinishedTrialError:  # given up by another machine: asleep?
                return None  # the run itself is kept, and read back by whoever takes it
            self._tell(trial, float(outcome["score"]))
        return task

    def _claim(self, wanted: Sequence[Task]) -> Any | None:
        """Take a run out of the queue, after putting the first that nobody has into it."""
        states = _optuna().trial.TrialState
        with self.lock:  # SQLite lets two processes take the same one
            self._release_dead()
            taken = {_task(trial) for trial in self._trials() if _alive(trial)}
            for task in [task for task in wanted if task not in taken][:1]:
                self.study.enqueue_trial({}, user_attrs={"task": _text(task)})
            if not any(trial.state == states.WAITING for trial in self._trials()):
                return None
            with _calm():
                trial = self.study.ask()
            try:
                trial.set_user_attr("holder", _holder())
            except _optuna().exceptions.UpdateFinishedTrialError:  # another machine took it for dead
                return None
        if "task" not in trial.user_attrs or self._claimed_before(trial.number, _task(trial)):
            self._tell(trial, state=states.PRUNED)  # another machine was a moment faster
            return None
        return trial

    def _tell(self, trial: Any, value: float | None = None, state: Any = None) -> None:
        self.study.tell(trial, value, state=state, skip_if_finished=True)

    @contextlib.contextmanager
    def _beating(self, trial: Any) -> Iterator[None]:
        """Give signs of life while a run is being made."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_S):
                with contextlib.suppress(Exception):  # a database that is busy hears the next one
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
        """Who is at work, as `host:pid`."""
        running = _optuna().trial.TrialState.RUNNING
        return [t.user_attrs.get("holder", {}).get("name", "?") for t in self._trials() if t.state == running]

    def _trials(self) -> Sequence[Any]:
        return [t for t in self.study.get_trials(deepcopy=False) if "task" in t.user_attrs]

    def _claimed_before(self, number: int, task: Task) -> bool:
        return any(t.number < number and _task(t) == task and _alive(t) for t in self._trials())

    def _release_dead(self) -> None:
        """Give up what processes of this machine had taken that are no more; the rest by their heartbeats.

        A process of this machine that lives needs no heartbeat: the machine may have slept, or its clock
        have jumped.
        """
        optuna = _optuna()
        for trial in self._trials():
            if trial.state != optuna.trial.TrialState.RUNNING:
                continue
            with contextlib.suppress(Exception):  # another process may have been faster
                if self._abandoned(trial):
                    self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                elif _here(trial) and self._quiet_for_long(trial):
                    self.storage.record_heartbeat(trial._trial_id)
        with _calm():
            optuna.storages.fail_stale_trials(self.study)

    def _quiet_for_long(self, trial: Any) -> bool:
        """Whether a heartbeat is due by the clock on the wall, as far as this process knows."""
        now, began = time.time(), trial.datetime_start.timestamp()
        due = bool(abs(now - self._beaten.get(trial.number, began)) > HEARTBEAT_S)
        if due:
            self._beaten[trial.number] = now
        return due

    def _abandoned(self, trial: Any) -> bool:
        """Whether who took a trial is no more; asked under the lock, under which trials are taken.

        Who was killed between taking it and saying who it is left no name. Where machines without the lock
        share the database, one of them may be just doing that.
        """
        holder = trial.user_attrs.get("holder")
        if holder:
            return not _process(holder).runs()
        since = datetime.datetime.now() - trial.datetime_start
        return not self.shared or abs(since.total_seconds()) > SILENCE_S


def _opened(name: str, address: str) -> tuple[Any, Any]:
    """Return Optuna's study and storage, made where they were not there."""
    optuna = _optuna()
    with _calm():
        storage = optuna.storages.RDBStorage(
            _with_driver(address),
            engine_kwargs={"connect_args": {"timeout": 60}} if address.startswith("sqlite") else None,
            heartbeat_interval=HEARTBEAT_S,
            grace_period=SILENCE_S,
        )
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    return study, storage


def _with_driver(address: str) -> str:
    """Name the driver that is installed: which one SQLAlchemy takes by itself changed with its version."""
    scheme, _, rest = address.partition("://")
    if scheme not in ("postgresql", "postgres"):
        return address
    found = [name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name)]
    return f"postgresql+{found[0]}://{rest}" if found else address


def _crossed(error: Exception) -> bool:
    """Whether another machine made the tables at the same moment, which a file lock can't prevent."""
    said = str(error).lower()
    return any(word in said for word in ("already exists", "duplicate key", "unique constraint"))


def _optuna() -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _alive(trial: Any) -> bool:
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


def _here(trial: Any) -> bool:
    """Return whether a process of this machine took it."""
    return _process(trial.user_attrs.get("holder", {})).is_local


def _shown(address: str) -> str:
    """Return a database's address without the user, the password and options, which may hold one, too."""
    return address.rpartition("@")[2].partition("?")[0]


def _reason(error: BaseException, address: str) -> str:
    """Return what a driver says, in a line that doesn't hold the password, however it is written."""
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    _, _, login = address.rpartition("@")[0].rpartition("//")
    password = login.partition(":")[2]
    secrets = {address, login, password, urllib.parse.unquote(password)} - {""}
    secret = any(word in said for word in secrets) or "password=" in said
    return type(error).__name__ if secret and password else said


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """Say in one message that the database failed, a full disk for example."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _optuna().exceptions.StorageInternalError | OSError):
            raise
        raise StudyError(
            f"The database of trials {_shown(url)} cannot be written or read "
            f"({_reason(error.__cause__ or error, url)}). What is finished is kept; the same command goes on."
        ) from None


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Keep the library's warnings about heartbeats from people who never chose them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", _optuna().exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage")  # `_beating` gives them
        yield
