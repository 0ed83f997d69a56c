"""Several processes at one run, kills at random moments, workers that die, clocks that jump."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

import frostline
from fault_examples import FAST, STRATEGY, same
from frostline.data import Manifest
from frostline.errors import StudyError, TrainingError
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone
from frostline.selection.resampling import Cell
from frostline.selection.successive_halving import Task
from frostline.selection.trial_queue import TrialQueue
from frostline.studies.study_folder import RunFolder
from frostline.training.resilience import checkpoint
from tiny import PREPROCESSING, tiny_backbone, tiny_model, write_table


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=24, val=4, test=4), near_copies=False)


# --- two at once --------------------------------------------------------------------------------------------


def test_a_run_is_made_by_one_process_and_the_other_is_told_by_which(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    def progress(what: str, done: int, total: int) -> None:
        if what == "train" and done == 2:
            with pytest.raises(StudyError, match=f"being trained by process {os.getpid()} on .* since 20"):
                frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", batch_size=8, **FAST)
            frostline.train(backbone, data, "linear_probe", study=tmp_path / "s", batch_size=8, **FAST)

    run = frostline.train(
        backbone, data, STRATEGY, study=tmp_path / "s", progress=progress, batch_size=8, **FAST
    )
    assert not (run.folder.path / "holder.json").exists()


def test_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    code = (
        "import sys, time; from pathlib import Path; "
        "from frostline.studies.study_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).held(): print('held', flush=True); time.sleep(60)"
    )
    folder = RunFolder(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StudyError, match=f"process {process.pid} "), folder.held():
            pass
        process.kill()
    with folder.held():
        assert json.loads((tmp_path / "run" / "holder.json").read_text())["process"] == os.getpid()


def test_what_a_dead_holder_had_started_is_waited_for(tmp_path: Path) -> None:
    """A data worker outlives its killed parent for a while, and holds the parent's lock as long."""
    (tmp_path / "run").mkdir()
    code = (
        "import os, sys, time; from pathlib import Path; "
        "from frostline.studies.study_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).held():\n"
        "    if os.fork(): print('held', flush=True); time.sleep(60)\n"
        "    else: time.sleep(2); os._exit(0)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()
        with RunFolder(tmp_path / "run").held():
            holder = json.loads((tmp_path / "run" / "holder.json").read_text())
    assert holder["process"] == os.getpid()


def test_states_that_a_finished_run_left_behind_go(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    """Killed between writing its result and removing them."""
    run = frostline.train(backbone, data, "linear_probe", study=tmp_path, **FAST)
    state = run.folder.path / checkpoint.STATE
    state.write_bytes(b"left")
    assert frostline.train(backbone, data, "linear_probe", study=tmp_path, **FAST).reused
    assert not state.exists()


# --- the ledger of a comparison -----------------------------------------------------------------------------

TASK = Task(0, 1.0, Cell(0, 0))


def test_a_process_that_slept_with_its_machine_keeps_its_run(tmp_path: Path) -> None:
    """Its heartbeat is old by the clock on the wall; it lives all the same."""
    mine, other = (TrialQueue.open("x", tmp_path) for _ in range(2))
    taken: list[Task | None] = []

    def work(task: Task) -> dict[str, Any]:
        with sqlite3.connect(tmp_path / "trials.db") as database:
            database.execute("UPDATE trial_heartbeats SET heartbeat = '2001-01-01 00:00:00'")
            database.execute("UPDATE trials SET datetime_start = '2001-01-01 00:00:00.000000'")
        database.close()
        taken.append(other.take([TASK], lambda task: {"score": 0.0}))
        return {"score": 1.0}

    assert mine.take([TASK], work) == TASK
    assert taken == [None]
    assert mine.outcomes() == {TASK: {"score": 1.0}}


def test_a_run_that_was_given_up_elsewhere_is_taken_again(tmp_path: Path) -> None:
    ledger = TrialQueue.open("x", tmp_path)

    def work(task: Task) -> dict[str, Any]:
        ledger.study.tell(0, state=optuna.trial.TrialState.FAIL)
        return {"score": 1.0}

    assert ledger.take([TASK], work) is None
    assert ledger.outcomes() == {}
    assert ledger.take([TASK], lambda task: {"score": 2.0}) == TASK
    assert ledger.outcomes() == {TASK: {"score": 2.0}}


def test_a_database_on_a_full_disk_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = TrialQueue.open("x", tmp_path)

    def full(*_: object, **__: object) -> None:
        raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.") from (
            sqlite3.OperationalError("database or disk is full")
        )

    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.RDBStorage, "set_trial_user_attr", full)
        with pytest.raises(StudyError, match=r"trials.db cannot be written.*disk is full.*resumes"):
            ledger.take([TASK], lambda task: {"score": 1.0})
    # The claim has no holder now, as after a kill in the middle of it: it does not block the run.
    assert ledger.take([TASK], lambda task: {"score": 1.0}) == TASK


# --- kills at random moments --------------------------------------------------------------------------------


def chaos(tmp_path: Path, *words: str) -> list[dict[str, Any]]:
    """Run the benchmark in its short form; returns what it found."""
    script = Path(__file__).parents[1] / "benchmarks" / "chaos.py"
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-W", "ignore", str(script), "--out", str(out), *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_killed_at_4_random_moments_it_ends_the_same(tmp_path: Path) -> None:
    (found,) = chaos(tmp_path, "--kills", "4", "--only", "train")
    assert found["kills"] == 4
    assert found["survived"] == found["runs"] > 0
    assert found["wrong"] == found["rows_lost"] == found["redone"] == 0


@pytest.mark.slow
def test_every_job_survives_kills(tmp_path: Path) -> None:
    report = chaos(tmp_path, "--kills", "14", "--times", "1")
    assert sum(row.get("kills", 0) for row in report) >= 13
    assert not sum(row["wrong"] for row in report)


# --- workers, clocks ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's own, as it tidies up
def test_a_worker_that_dies_is_one_message_and_the_same_command_goes_on(
    backbone: Backbone, data: Manifest, tmp_path: Path, each_step_kept: None
) -> None:
    import psutil

    # a person's own augmentation runs in processes, all else in threads
    given = {**FAST, "batch_size": 8, "cache": "compute", "augment": lambda image: image}
    whole = frostline.train(backbone, data, "full(epochs=3)", study=tmp_path / "whole", **given)

    def progress(what: str, done: int, total: int) -> None:
        if what == "train" and done >= 4:
            for child in psutil.Process().children():
                if "resource_tracker" not in " ".join(child.cmdline()):
                    child.kill()

    with pytest.raises(TrainingError, match="process that decodes images"):
        frostline.train(
            backbone, data, "full(epochs=3)", study=tmp_path / "s", workers=1, progress=progress, **given
        )
    assert same(frostline.train(backbone, data, "full(epochs=3)", study=tmp_path / "s", **given), whole)


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="no such signal here")
def test_a_workers_death_raises_only_where_a_batch_is_waited_for(data: Manifest) -> None:
    """torch's handler raised wherever the main thread was: in a thread that started, in an `__exit__`."""

    def torchs(*_: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    images = Images(
        data, data.subset("train"), PREPROCESSING, policy=Policy("custom"), custom=lambda image: image
    )
    batches = [[(position, 1)] for position in range(4)]
    before = signal.signal(signal.SIGCHLD, torchs)
    try:
        arriving = images.batches(batches, workers=1)
        next(arriving)
        os.kill(os.getpid(), signal.SIGCHLD)
        assert len(list(arriving)) == len(batches) - 1
        with pytest.raises(RuntimeError, match="killed"):  # torch's own, as it was before
            os.kill(os.getpid(), signal.SIGCHLD)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_clock_that_jumps_changes_nothing(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = frostline.train(backbone, data, STRATEGY, study=tmp_path / "whole", batch_size=8, **FAST)
    real, jumps = time.time, iter([0.0, 1e9, -1e9] * 10_000)
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    run = frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", batch_size=8, minutes=5.0, **FAST)
    assert run.stopped is None
    assert run.folder.weights.read_bytes() == whole.folder.weights.read_bytes()
    assert 0 <= run.seconds < 300


def test_a_compiled_network_learns_what_thaws(data: Manifest, tmp_path: Path) -> None:
    """pytorch #139476: what was compiled while frozen stayed so. The network inside is cut, not its graph."""
    given = {"study": tmp_path / "plain", "batch_size": 8, **FAST}
    plain = frostline.train(tiny_backbone(), data, STRATEGY, **given)
    compiled = torch.compile(tiny_model(), backend="eager")
    backbone = frostline.load_backbone(compiled, preprocessing=PREPROCESSING)
    run = frostline.train(backbone, data, STRATEGY, **{**given, "study": tmp_path / "compiled"})
    assert run.folder.weights.read_bytes() == plain.folder.weights.read_bytes()
