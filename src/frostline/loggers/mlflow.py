"""A run in MLflow: on the server that MLFLOW_TRACKING_URI names, else in a database in the study."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.loggers.logger import LOSS, Tracked

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DATABASE = "mlflow.db"  # in the study
EXPERIMENT = "frostline"  # unless MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID says otherwise
STATE_FILE = "loggers.json"  # in the run's folder
MODULES = ("mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store")
BATCH = 100  # parameters that MLflow takes at once
# Where nothing else is set: a server out of reach costs a run seconds instead of MLflow's own quarter of an
# hour (7 tries of 120 s), and no telemetry is sent.
GENTLE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MlflowRun:
    """One of MLflow's runs."""

    def __init__(self, run: Tracked) -> None:
        self._run = run
        with gently():
            self._client, destination = _client(run)
            run_ids = run.folder.read(STATE_FILE) if (run.folder.path / STATE_FILE).is_file() else {}
            self._id, status = _existing(self._client, run_ids.get(destination))
            if not self._id:
                self._id = self._begin()
                run.folder.write(STATE_FILE, {**run_ids, destination: self._id})
            self.finished = self._already_finished = status == "FINISHED"
            steps = [m.step for m in self._client.get_metric_history(self._id, LOSS)] if status else []
            self.epochs_logged = max(steps, default=0)
            if not self.finished:
                self._client.update_run(self._id, status="RUNNING")

    def rewind(self, done: int) -> None:
        """Nothing: MLflow keeps what it has, and epochs that are run again end as before."""

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Log one epoch as a whole."""
        self._log(figures, step)
        self.epochs_logged = step

    def end(self, figures: Mapping[str, float]) -> None:
        """Log the result."""
        self._log(figures, self.epochs_logged)
        self.finished = True

    def close(self, failed: bool | None) -> None:
        """Return how the run ended, unless that was known before."""
        if self._already_finished:
            return
        with gently():
            status = "FINISHED" if failed is None else "FAILED" if failed else "KILLED"
            self._client.set_terminated(self._id, status)

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now_ms = int(1000 * time.time())
        with gently():
            rows = [Metric(name, value, now_ms, step) for name, value in figures.items()]
            self._client.log_batch(self._id, metrics=rows)

    def _begin(self) -> str:
        from mlflow.entities import Param

        run = self._run
        created = self._client.create_run(
            _experiment(self._client, run), run_name=run.name, tags={"frostline.run": run.folder.name}
        )
        parameters = [Param(name, str(value)) for name, value in run.parameters.items()]
        for start in range(0, len(parameters), BATCH):
            self._client.log_batch(created.info.run_id, params=parameters[start : start + BATCH])
        return str(created.info.run_id)


def place(study: Path) -> str:
    """Return where runs of this study are logged."""
    tracking = _tracking()
    if tracking.is_tracking_uri_set():
        return "the server at " + str(tracking.get_tracking_uri()).rpartition("@")[2].rpartition("://")[2]
    return f'mlflow ui --backend-store-uri "sqlite:///{(study / DATABASE).as_posix()}"'


@contextlib.contextmanager
def gently() -> Iterator[None]:
    """Call MLflow with patience in seconds, without telemetry, and without its own lines of progress."""
    log = logging.getLogger("mlflow")
    level, defaults = log.level, {key: value for key, value in GENTLE.items() if key not in os.environ}
    os.environ.update(defaults)
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
        for key in defaults:
            os.environ.pop(key, None)


def _tracking() -> Any:
    """Return MLflow's module of that name, half of which has no types."""
    return importlib.import_module("mlflow.tracking")


def _client(run: Tracked) -> tuple[MlflowClient, str]:
    """Return the client, and a word for where it writes that holds no password."""
    tracking = _tracking()
    if tracking.is_tracking_uri_set():
        uri = str(tracking.get_tracking_uri())
        return tracking.MlflowClient(tracking_uri=uri), hashlib.sha256(uri.encode()).hexdigest()[:12]
    database = (run.study / DATABASE).resolve()
    import filelock  # `--help` imports this module, and needs no lock

    with filelock.FileLock(f"{database}.lock"):  # one process makes the tables
        client = tracking.MlflowClient(tracking_uri=f"sqlite:///{database.as_posix()}")
        client.get_experiment_by_name(EXPERIMENT)
    return client, "here"


def _existing(client: MlflowClient, run_id: Any) -> tuple[str, str]:
    """Return the run that was begun for this one and its status; empty where it is gone."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    if not run_id:
        return "", ""
    try:
        info = client.get_run(str(run_id)).info
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return "", ""
        raise
    return (str(info.run_id), str(info.status)) if info.lifecycle_stage == "active" else ("", "")


def _experiment(client: MlflowClient, run: Tracked) -> str:
    """Return the experiment's id, made where it is new."""
    from mlflow.exceptions import MlflowException

    if experiment_id := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return experiment_id
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    if experiment := client.get_experiment_by_name(name):
        return str(experiment.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:  # another process was faster
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return str(experiment.experiment_id)
