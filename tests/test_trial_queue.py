"""Runs that several processes share: none is lost, none made twice."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from frostline.errors import StudyError
from frostline.selection.resampling import Cell
from frostline.selection.successive_halving import Task
from frostline.selection.trial_queue import TrialQueue
from frostline.selection.trial_runner import ComparisonTimeUp

WORKER = """
import json, sys, time
from pathlib import Path
from frostline.selection.resampling import Cell
from frostline.selection.trial_queue import TrialQueue
from frostline.selection.successive_halving import Task

folder, die = Path(sys.argv[1]), sys.argv[2]
queue = TrialQueue.open("x", folder)
tasks = [Task(c, 1.0, Cell(0, 0)) for c in range(12)]

def work(task):
    with open(folder / "done.txt", "a") as file:
        file.write(f"{task.candidate}\\n")
    if die == "die":
        print("working", flush=True)
        time.sleep(60)
    time.sleep(0.05)
    return {"score": task.candidate / 10}

while True:
    outcomes = queue.outcomes()
    wanted = [task for task in tasks if task not in outcomes]
    if not wanted:
        break
    if queue.take(wanted, work) is None:
        time.sleep(0.05)
"""


@pytest.mark.slow
def test_processes_share_the_runs_and_none_is_made_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", WORKER, str(tmp_path)]
    dying = subprocess.Popen([*command, "die"], stdout=subprocess.PIPE, text=True)
    assert dying.stdout is not None
    assert dying.stdout.readline() == "working\n"
    dying.kill()
    dying.wait()
    dying.stdout.close()
    workers = [subprocess.Popen([*command, "live"]) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    counted = Counter((tmp_path / "done.txt").read_text().split())
    assert set(counted) == {str(c) for c in range(12)}
    assert sorted(counted.values()) == [1] * 11 + [2]  # what the dead one had taken, and nothing else
    outcomes = TrialQueue.open("x", tmp_path).outcomes()
    assert {task.candidate: outcome["score"] for task, outcome in outcomes.items()} == {
        c: c / 10 for c in range(12)
    }


def test_a_run_that_was_stopped_for_time_leaves_what_it_was_given(tmp_path: Path) -> None:
    """Else it would be begun again at once, by this process or another, for ever."""
    queue, task = TrialQueue.open("x", tmp_path), Task(3, 1.0, Cell(0, 0))

    def slow(_: Task) -> dict[str, Any]:
        assert queue.unfinished().running == {task}
        raise ComparisonTimeUp

    def interrupted(_: Task) -> dict[str, Any]:
        raise ComparisonTimeUp

    with pytest.raises(ComparisonTimeUp):
        queue.take([task], slow, stop_on=ComparisonTimeUp)
    assert queue.unfinished().running == set()
    assert 0 < queue.unfinished().stopped[3] < 5.0
    with pytest.raises(ComparisonTimeUp):
        queue.take([Task(4, 1.0, Cell(0, 0))], interrupted)
    assert 4 not in queue.unfinished().stopped
    assert queue.take([task], lambda _: {"score": 1.0}) == task
    assert queue.unfinished().stopped == {}  # what it took tells more


def test_who_was_killed_before_leaving_a_name_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by benchmarks/chaos.py: the others waited for it for ever."""
    task = Task(0, 1.0, Cell(0, 0))

    class Killed(BaseException):
        pass

    def kill() -> dict[str, Any]:
        raise Killed

    for url in (None, f"sqlite:///{tmp_path / 'shared.db'}"):
        queue = TrialQueue.open(f"one {url is None}", tmp_path, url)
        with monkeypatch.context() as patch:
            patch.setattr("frostline.selection.trial_queue._holder", kill)
            with pytest.raises(Killed):
                queue.take([task], lambda _: {"score": 0.0})
        taken = queue.take([task], lambda _: {"score": 1.0})
        assert taken == (task if url is None else None)  # another machine may be about to say who it is
        with monkeypatch.context() as patch:
            patch.setattr("frostline.selection.trial_queue.SILENCE_S", 0)
            assert (queue.take([task], lambda _: {"score": 1.0}) is None) == (url is None)
        assert queue.outcomes() == {task: {"score": 1.0}}


def test_a_database_that_cannot_be_used_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be used"):
        TrialQueue.open("x", tmp_path, "nonsense://there")
