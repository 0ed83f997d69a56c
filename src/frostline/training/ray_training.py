"""One run on a Ray cluster: Ray Train starts the processes and joins them, and what they do is `train`'s own.

What a run needs to go on lies in its study, which all machines see. So a job that lost a process is simply
begun again, and resumes; Ray keeps no checkpoints, and what it writes down itself goes to a folder that is
deleted.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from frostline.distributed import ray_cluster
from frostline.distributed.ray_cluster import Caller, Cluster, WorkerResources
from frostline.errors import FrostlineError, LostProcess, RunWarning, TrainingError, UsageError
from frostline.progress import QUIET, Activity
from frostline.studies.study_folder import Study
from frostline.training.train_request import TrainRequest

LOOK_S = 1.0  # between two looks at how far the processes are
# Ray Train's second generation; what else it may print is of no use to a person who waits for a run.
SETTINGS = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0"}
Work = Callable[[TrainRequest, str], None]  # what every process does: its part of the run in the study


def train(request: TrainRequest, study: Path, work: Work, address: str) -> None:
    """Let every worker of the cluster be a process of one job that makes the run.

    A job that lost a process is begun again, `cluster.RETRIES` times, and goes on from the run's own state.
    Raises `UsageError`, what a process raises, or `TrainingError` where processes are lost again and again.
    """
    os.environ.update(SETTINGS)  # before the import, which reads them
    root = request.data.root and request.data.root.resolve()
    carried = replace(request, data=replace(request.data, root=root), progress=QUIET, since=None)
    folders = [study.resolve(), *([root] if root else [])]
    with ray_cluster.connected(address, threads=request.config.threads) as cluster, _watched(request, study):
        for left in reversed(range(ray_cluster.RETRIES + 1)):
            try:
                _job(cluster, work, ray_cluster.caller(folders), carried, study.resolve())
                return
            except LostProcess as lost:
                if not left:
                    raise TrainingError(
                        f"The job lost a process {ray_cluster.RETRIES + 1} times ({lost}). What is finished "
                        "is kept; the same command resumes."
                    ) from None
                warnings.warn(
                    f"The job lost a process and is begun again ({lost}).", RunWarning, stacklevel=3
                )


def _job(cluster: Cluster, work: Work, caller: Caller, request: TrainRequest, study: Path) -> None:
    """Run one job to its end. Raises `LostProcess` where a process died, or what one of them raised.

    Ray wants a folder that all machines see, though nothing of the run goes there.
    """
    try:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise UsageError(
            f'Ray Train cannot be imported here ({error}). Install it: pip install "frostline[ray]"'
        ) from None
    least = WorkerResources(min(s.cpus for s in cluster.shares), min(s.gpus for s in cluster.shares))
    needs = {"CPU": float(least.cpus)} | ({"GPU": float(least.gpus)} if least.gpus else {})
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=study) as scratch:
        trainer = TorchTrainer(
            _process,
            train_loop_config={"work": work, "carried": (caller, request, str(study))},
            scaling_config=ScalingConfig(
                num_workers=len(cluster.shares), use_gpu=bool(least.gpus), resources_per_worker=needs
            ),
            run_config=RunConfig(storage_path=scratch, name="frostline"),
            torch_config=TorchConfig(backend="nccl" if least.gpus else "gloo"),
        )
        try:
            _aside(trainer.fit)
        except Exception as error:
            raise _reason(error) from None


def _aside(work: Callable[[], object]) -> None:
    """Do `work` in a thread of its own, and raise what it raises.

    In the main thread Ray Train takes Ctrl-C for itself, and the process leaves with 1 and without a word. So
    signals are the caller's here; the job ends with the connection to the cluster.
    """
    raised: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_S)
    if raised:
        raise raised[0]


def _process(config: dict[str, Any]) -> None:
    """Be one process of the job, in a worker."""
    caller, request, study = config["carried"]
    ray_cluster.take_after(caller)
    config["work"](request, study)


def _reason(error: Exception) -> Exception:
    """Return what ended a job: what a process raised, rather than what the others made of its absence."""
    failures = getattr(error, "worker_failures", {})
    raised = {rank: getattr(failure, "_base_exc", failure) for rank, failure in failures.items()}
    died = [rank for rank, failure in sorted(raised.items()) if type(failure).__module__.startswith("ray.")]
    own_errors = [f for rank, f in raised.items() if rank not in died and not isinstance(f, LostProcess)]
    if own_errors:
        return next((one for one in own_errors if isinstance(one, FrostlineError)), own_errors[0])
    if died:
        return LostProcess(f"process {', '.join(map(str, died))} died")
    return next(iter(raised.values()), error)


@contextlib.contextmanager
def _watched(request: TrainRequest, study: Path) -> Iterator[None]:
    """Tell how many epochs the run has behind it, from its study, while the processes work."""
    if not request.progress.heard:
        yield
        return
    over, total = threading.Event(), sum(phase.epochs for phase in request.phases())

    def look() -> None:
        while not over.wait(LOOK_S):
            with contextlib.suppress(FrostlineError, OSError):
                epochs = len(Study(study).run(request.identity()).metrics())
                if epochs:
                    request.progress(Activity.EPOCHS, epochs, total)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
