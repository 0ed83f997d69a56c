"""A comparison on a Ray cluster: every worker claims trials from the shared queue, and one concludes it.

A worker does what a second process with the same command would do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

import filelock

from frostline.distributed import ray_cluster
from frostline.progress import QUIET
from frostline.selection.compare_request import CompareRequest
from frostline.selection.conclusion import conclude
from frostline.selection.trial_runner import TrialRunner
from frostline.studies.study_folder import Study
from frostline.system import devices
from frostline.system.timing import Stopwatch

Begin = Callable[[CompareRequest], TrialRunner]  # makes the plan, or reads the caller's


def run_trials(request: CompareRequest, runner: TrialRunner, begin: Begin, address: str) -> bool:
    """Let the workers of a Ray cluster make the runs and train the winner.

    The trials are the same as without a cluster, and planned for the speed of one machine.

    Parameters
    ----------
    request
        Options of the comparison.
    runner
        Its runs.
    begin
        Returns a runner for a request, in a worker.
    address
        Address of the cluster, "auto" or "local".

    Returns
    -------
    bool
        Whether no runs are left.

    Raises
    ------
    UsageError
        If there is no such cluster; also whatever a worker raises.
    """
    portable = _portable(request)
    folders = [portable.study.path, *([portable.data.root] if portable.data.root else [])]
    with ray_cluster.connected(address, threads=request.config.threads) as workers:
        request.progress.log(f"Ray at {workers.address}: {len(workers.shares)} worker(s)")
        spent = (runner.clock.spent_s, time.time())
        finished = workers.everywhere(
            _run_schedule, portable, begin, *spent, folders=folders, on_poll=lambda: _log_new_outcomes(runner)
        )
        _log_new_outcomes(runner)
        workers.once(_end, portable, begin, any(finished), *spent, folders=folders)
    return any(finished)


def _portable(request: CompareRequest) -> CompareRequest:
    """Return the request as a worker can use it: absolute paths, no progress."""
    root = request.data.root and request.data.root.resolve()
    return replace(
        request,
        data=replace(request.data, root=root),
        study=Study(request.study.path.resolve()),
        watch=Stopwatch(),
        progress=QUIET,
    )


def _run_schedule(request: CompareRequest, begin: Begin, spent_s: float, since: float) -> bool:
    """Make runs in a worker until none is left or the time is up."""
    with devices.computing(request.config.device):
        runner = _resumed(request, begin, spent_s, since)
        with contextlib.closing(runner.queue):
            return runner.run()


def _end(request: CompareRequest, begin: Begin, finished: bool, spent_s: float, since: float) -> None:
    """Train the winner in a worker; the caller then reads it back."""
    with devices.computing(request.config.device):
        runner = _resumed(request, begin, spent_s, since)
        with contextlib.closing(runner.queue), filelock.FileLock(request.folder / "end.lock"):
            conclude(request, runner, finished)


def _resumed(request: CompareRequest, begin: Begin, spent_s: float, since: float) -> TrialRunner:
    """Return the runner in a worker, with the caller's clock; machines must agree on the time of day."""
    runner = begin(replace(request, watch=Stopwatch()))
    runner.clock.earlier_s = spent_s + max(0.0, time.time() - since)
    return runner


def _log_new_outcomes(runner: TrialRunner) -> None:
    """Log each run that was finished since the last call."""
    for task, outcome in runner.queue.outcomes().items():
        if task not in runner.outcomes:
            runner.log_outcome(task, outcome)
            runner.outcomes[task] = outcome
