"""On a Ray cluster: the same results as without one, and what a killed worker had begun is done again."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

import frostline
from frostline.cli.main import cli
from frostline.distributed import ray_cluster
from frostline.distributed.ray_cluster import WorkerResources
from frostline.errors import DataError, RunWarning, UsageError
from frostline.selection import Comparison
from frostline.selection.trial_queue import TrialQueue
from frostline.training import ray_training
from test_process_group import STAGES, launch, weights_file
from tiny import tiny_backbone, write_folder, write_table
from training_in_processes import OPTIONS as TRAINING
from training_in_processes import images_of, steady_backbone

OPTIONS: dict[str, Any] = {"deterministic": True, "flip": "none", "threads": 1, "repeats": 1}
STRATEGIES = ("head(epochs=4)", "full(epochs=8, lr=0.01)")
OBJECTS_BYTES = 80_000_000


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of two workers, on this machine alone."""
    if not importlib.util.find_spec("ray"):
        pytest.skip("needs pip install -e '.[ecosystem]'")
    ray = ray_cluster._ray(ray_cluster.LOCAL)
    seen = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, seen))  # workers find the networks of tiny.py
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=OBJECTS_BYTES,
            _node_ip_address="127.0.0.1",
            log_to_driver=False,
        )
        yield ray
        ray.shutdown()


def trials(comparison: Comparison) -> list[Any]:
    """Every trial of a comparison's ledger, dropped ones included."""
    return list(TrialQueue.open(comparison.folder.name, comparison.folder)._trials())


def outcomes(comparison: Comparison) -> dict[str, Any]:
    """What came of each run, without what a clock says."""
    return {
        trial.user_attrs["task"]: (trial.user_attrs["outcome"]["score"], trial.user_attrs["outcome"]["run"])
        for trial in trials(comparison)
        if trial.state.name == "COMPLETE"
    }


@pytest.mark.ecosystem
def test_a_cluster_changes_no_bit_and_a_killed_workers_trial_is_done_again(ray: Any, tmp_path: Path) -> None:
    data = frostline.load_data(write_folder(tmp_path / "images", per_class=16), near_copies=False)
    alone = frostline.compare(tiny_backbone(), data, STRATEGIES, study=tmp_path / "alone", **OPTIONS)
    lines: list[str] = []
    killed: list[int] = []

    def kill_one(line: str) -> None:
        lines.append(line)
        while len(lines) > 1 and not killed:  # the first line speaks of the cluster
            (folder,) = (tmp_path / "shared" / "comparisons").iterdir()
            holders = TrialQueue.open(folder.name, folder).waiting_for
            if holders:
                killed.append(int(holders[0].split(":")[1]))
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.01)

    comparison = frostline.compare(
        tiny_backbone(), data, STRATEGIES, study=tmp_path / "shared", ray="auto", log=kill_one, **OPTIONS
    )
    assert outcomes(comparison) == outcomes(alone)
    assert comparison.run.folder.weights.read_bytes() == alone.run.folder.weights.read_bytes()
    figures = {
        key: comparison.result[key] for key in ("winner", "accuracy", "test_evaluations", "out_of_fold")
    }
    assert figures == {key: alone.result[key] for key in figures}
    holders = [t.user_attrs["holder"]["pid"] for t in trials(comparison) if t.state.name == "COMPLETE"]
    assert len(holders) == len(outcomes(alone)), "a trial was made twice"
    assert os.getpid() not in holders
    assert len({t.user_attrs["holder"]["pid"] for t in trials(comparison)}) >= 2, "one worker did it all"
    states = [t.state.name for t in trials(comparison)]
    assert states.count("FAIL") == 1, "what the killed worker had taken, and nothing else"
    assert len([line for line in lines if "repeat 1" in line]) == len(holders)


@pytest.mark.ecosystem
def test_a_clusters_workers_fill_one_store_and_no_row_twice(ray: Any, tmp_path: Path) -> None:
    data = frostline.load_data(write_folder(tmp_path / "images", per_class=40), near_copies=False)
    given = {"deterministic": True, "flip": "none", "threads": 1}
    one = frostline.fill_cache(tiny_backbone(), data, cut=3, views=3, ray="auto", **given)
    assert one.workers == 2
    assert one.computed == one.wanted, "a row was computed twice, or not at all"
    frostline.fill_cache(tiny_backbone(), data, "top_k(1, epochs=4)", ray="auto", **given)
    assert frostline.fill_cache(tiny_backbone(), data, "top_k(1, epochs=4)", **given).computed == 0


@pytest.mark.ecosystem
def test_nothing_listens_to_other_machines_and_the_store_of_objects_is_bounded(ray: Any) -> None:
    mine = psutil.Process().children(recursive=True)
    listening = [
        (process.name(), connections.laddr.ip)
        for process in mine
        for connections in process.net_connections("inet")
        if connections.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {ip for _, ip in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening
    assert ray.cluster_resources()["object_store_memory"] <= OBJECTS_BYTES


@pytest.mark.ecosystem
def test_what_a_worker_raises_and_what_it_cannot_see_is_one_message(ray: Any, tmp_path: Path) -> None:
    with ray_cluster.connected(threads=1) as connection:
        assert connection.shares == (WorkerResources(1, 0), WorkerResources(1, 0))
        with pytest.raises(UsageError, match=r"does not see .*nowhere. Expected a folder"):
            connection.once(os.getcwd, folders=[tmp_path / "nowhere"])
        with pytest.raises(UsageError, match="k must be") as raised:
            connection.once(_refuse, folders=[])
    assert "Traceback" not in str(raised.value)
    assert ray.is_initialized(), "a cluster that was connected already is left as it is"


def _refuse() -> None:
    raise UsageError("k must be 1")


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UsageError, match=r'pip install "frostline\[ray\]"'),
        ray_cluster.connected(),
    ):
        pass


def test_what_follows_ray_must_be_an_address(tmp_path: Path) -> None:
    answer = CliRunner().invoke(cli, ["compare", "--ray", "photos/"])
    assert answer.exit_code == 2
    assert "'photos/' is not the address of a Ray cluster" in answer.output


def test_machines_are_shared_by_gpu_else_by_threads() -> None:
    def node(cpus: int, gpus: int = 0, alive: bool = True) -> dict[str, Any]:
        return {"Alive": alive, "Resources": {"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {})}}

    assert ray_cluster._shares([node(8), node(4), node(4, alive=False)], None) == (
        WorkerResources(8, 0),
        WorkerResources(4, 0),
    )
    assert ray_cluster._shares([node(8), node(4)], 3) == (WorkerResources(3, 0),) * 3
    assert ray_cluster._shares([node(8), node(16, 4)], 2) == (WorkerResources(4, 1),) * 4
    assert ray_cluster._shares([node(2)], 3) == ()


@pytest.mark.ecosystem
def test_a_run_on_a_cluster_has_the_bits_of_torchruns(ray: Any, tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=12, val=5)
    job = {"table": table, "study": tmp_path / "torchrun", "strategy": STAGES}
    done = launch(2, tmp_path, job)
    assert done.returncode == 0, done.stderr
    here = str(tmp_path / "cluster")
    run = in_a_cluster(table, here, STAGES)
    assert run.result["world_size"] == 2
    assert not run.reused
    assert run.folder.weights.read_bytes() == weights_file(tmp_path / "torchrun").read_bytes()
    assert in_a_cluster(table, here, STAGES).reused
    assert not list(Path(here).glob(".ray-*")), "Ray left something behind"


@pytest.mark.timeout(900)  # three jobs, whose processes import everything: 170 s on two slow cores, alone
@pytest.mark.ecosystem
def test_a_run_that_loses_a_process_is_begun_again_and_goes_on(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_training, "LOOK_S", 0.02)
    table, strategy = write_table(tmp_path / "images", train=12, val=5), "full(epochs=150, lr=0.003)"
    whole = in_a_cluster(table, tmp_path / "whole", strategy)
    killed: list[int] = []

    def kill_the_leader(what: str, done: int, total: int) -> None:
        if what == "epochs" and done > 3 and not killed:
            (holder,) = (tmp_path / "study").glob("runs/*/holder.json")
            killed.append(json.loads(holder.read_text())["process"])
            os.kill(killed[0], signal.SIGKILL)

    with pytest.warns(RunWarning, match="lost a process and is begun again"):
        run = in_a_cluster(table, tmp_path / "study", strategy, progress=kill_the_leader)
    assert killed
    assert run.folder.weights.read_bytes() == whole.folder.weights.read_bytes()


@pytest.mark.ecosystem
def test_what_a_process_of_a_run_raises_is_its_one_message(ray: Any, tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=12, val=5)
    data = images_of(table)
    (tmp_path / "images" / data.subset("train")[0].path).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)  # such a job is not begun again
        with pytest.raises(DataError, match=r"does not exist|has changed") as raised:
            frostline.train(steady_backbone(), data, STAGES, study=tmp_path / "s", ray="auto", **TRAINING)
    assert "Traceback" not in str(raised.value)


def in_a_cluster(table: Path, study: Path | str, strategy: str, **given: Any) -> frostline.Run:
    return frostline.train(
        steady_backbone(), images_of(table), strategy, study=study, ray="auto", **TRAINING, **given
    )
