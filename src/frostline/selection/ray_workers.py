"""A race on a cluster: every worker takes trials from the one ledger, and one of them ends it.

Nothing is handed out: a worker does what a second process with the same command would do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

import filelock

from frostline.distributed import ray_cluster
from frostline.selection.conclusion import conclude
from frostline.selection.request import CompareRequest
from frostline.selection.runner import TrialRunner
from frostline.studies.study_folder import Study
from frostline.system.timing import Stopwatch

Begin = Callable[
    [CompareRequest], TrialRunner
]  # plans the race, or reads the plan that the caller has written


def run_trials(request: CompareRequest, runner: TrialRunner, begin: Begin, address: str) -> bool:
    """Let the workers of a Ray cluster make the runs and train the winner; returns whether the race is over.

    Trials are the same as without a cluster, and planned for one machine's minutes.
    Raises `UsageError` or what a worker raises.
    """
    carried = _carried(request)
    folders = [carried.study.path, *([carried.data.root] if carried.data.root else [])]
    with ray_cluster.connected(address, threads=request.options["threads"]) as found:
        request.log(f"Ray at {found.address}: {len(found.shares)} worker(s)")
        spent = (runner.clock.spent_s, time.time())
        over = found.everywhere(
            _run_schedule, carried, begin, *spent, folders=folders, hear=lambda: _tell_new(runner)
        )
        _tell_new(runner)
        found.once(_end, carried, begin, any(over), *spent, folders=folders)
    return any(over)


def _carried(request: CompareRequest) -> CompareRequest:
    """What of a call can travel: paths hold everywhere, and nobody listens there."""
    root = request.data.root and request.data.root.resolve()
    return replace(
        request,
        data=replace(request.data, root=root),
        study=Study(request.study.path.resolve()),
        watch=Stopwatch(),
        progress=None,
        log=_unheard,
    )


def _unheard(line: str) -> None:
    """Say nothing."""


def _run_schedule(request: CompareRequest, begin: Begin, spent_s: float, since: float) -> bool:
    """Make runs in a worker until none is left or the time is up."""
    runner = _going_on(request, begin, spent_s, since)
    with contextlib.closing(runner.queue):
        return runner.run()


def _end(request: CompareRequest, begin: Begin, over: bool, spent_s: float, since: float) -> None:
    """Train the winner in a worker; who called finds it trained."""
    runner = _going_on(request, begin, spent_s, since)
    with contextlib.closing(runner.queue), filelock.FileLock(request.folder / "end.lock"):
        conclude(request, runner, over)


def _going_on(request: CompareRequest, begin: Begin, spent_s: float, since: float) -> TrialRunner:
    """The contest in a worker, whose clock goes on from its caller's; machines agree on the time of day."""
    runner = begin(replace(request, watch=Stopwatch()))
    runner.clock.earlier_s = spent_s + max(0.0, time.time() - since)
    return runner


def _tell_new(runner: TrialRunner) -> None:
    """Say of each run that was finished since."""
    for task, outcome in runner.queue.outcomes().items():
        if task not in runner.outcomes:
            runner.log_outcome(task, outcome)
            runner.outcomes[task] = outcome
