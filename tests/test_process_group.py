"""Several processes on one run: they end where one does, compute nothing twice, and outlive none of them."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

import frostline
from frostline.cli.main import cli
from frostline.config import Config
from frostline.distributed import process_group
from frostline.distributed.torchrun_env import Launch, launched
from frostline.errors import RunWarning, UsageError
from frostline.strategies import parse
from frostline.system import devices
from frostline.training.loop import trainer
from frostline.training.train_request import TrainRequest
from pretended_card import CARD, pretended
from tiny import write_folder, write_table
from training_in_processes import OPTIONS, exhaust, images_of, steady_backbone

SCRIPT = Path(__file__).parent / "training_in_processes.py"
STAGES = "gradual_unfreeze(2, epochs=4, lr=0.003)"
# The sum over processes rounds otherwise than one process does, and AdamW magnifies what is nearly 0.
# Measured on these jobs: docs/LOG.md 2026-11-25.
CLOSE = 2e-5


def launch(processes: int, folder: Path, *jobs: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Do jobs in so many processes of torchrun's."""
    lines = folder / "jobs.jsonl"
    lines.write_text("".join(json.dumps(job, default=str) + "\n" for job in jobs))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    return subprocess.run([*command, str(SCRIPT), str(lines)], capture_output=True, text=True, timeout=400)


def start_each(processes: int, folder: Path, job: dict[str, Any]) -> list[tuple[int, str]]:
    """Do a job in processes that no launcher ends: their exit codes, and what they wrote to stderr.

    torchrun ends the others as soon as it sees that one is dead, often before they can say why.
    """
    lines = folder / "jobs.jsonl"
    lines.write_text(json.dumps(job, default=str) + "\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    members = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(lines)],
            env={**os.environ, **shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    stderrs = [member.communicate(timeout=400)[1] for member in members]
    return [(member.returncode, stderr) for member, stderr in zip(members, stderrs, strict=True)]


def told(study: Path, rank: int) -> dict[str, Any]:
    return json.loads(Path(f"{study}-{rank}.json").read_text())


def weights_file(study: Path) -> Path:
    (found,) = study.glob("runs/*/best.safetensors")
    return found


def weights(study: Path) -> dict[str, torch.Tensor]:
    return load_file(weights_file(study))


def farthest(one: Path, other: Path) -> float:
    """How far two runs' weights are apart at most."""
    left, right = weights(one), weights(other)
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def alone(table: Path, study: Path, strategy: str, **options: Any) -> frostline.Run:
    return frostline.train(
        steady_backbone(), images_of(table), strategy, study=study, **{**OPTIONS, **options}
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "images", train=12, val=5)


def assert_alike(study: Path) -> None:
    """Two processes came to the same weights, and returned the same result."""
    first, second = (told(study, rank) for rank in (0, 1))
    assert first["weights"] == second["weights"], "the processes drifted apart"
    assert first["result"] == second["result"]
    assert first["result"]["world_size"] == 2


def assert_the_bits_of_one_in_pieces(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes do what one does that learns from each batch in two pieces."""
    study = Path(f"{job['study']} by one in pieces")
    monkeypatch.setattr(trainer.Trainer, "_backward", trainer.Trainer._backward)  # put back at the end
    exhaust(0)
    with pytest.warns(RunWarning, match="learned from 6 at a time"):
        alone(job["table"], study, job["strategy"], **job.get("options", {}))
    assert farthest(study, job["study"]) == 0.0, "not the same bits"


@pytest.mark.slow
def test_two_processes_end_where_one_does(
    tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {"table": table, "study": tmp_path / "stages", "strategy": STAGES}
    pieces = {**stages, "study": tmp_path / "pieces", "exhaust": [1, 3]}
    statistics = {**stages, "study": tmp_path / "statistics", "strategy": "top_k(2, bn=train, epochs=3)"}
    rows = {**stages, "study": tmp_path / "rows", "strategy": "head(epochs=3)", "options": {"cache": "keep"}}
    done = launch(2, tmp_path, rows, stages, pieces, statistics)
    assert done.returncode == 0, done.stderr
    for job in (stages, pieces, statistics, rows):
        assert_alike(job["study"])

    first, second = (told(rows["study"], rank) for rank in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(tmp_path / "another cache"))
        one = alone(table, tmp_path / "one with rows", rows["strategy"], cache="keep")
    assert first["rows"] + second["rows"] == one.features["computed"], "a row was computed twice"
    assert min(first["rows"], second["rows"]) > 0, "one process did it all"
    assert first["result"]["features"]["computed"] == one.features["computed"]
    assert farthest(tmp_path / "one with rows", rows["study"]) < CLOSE

    assert_the_bits_of_one_in_pieces(stages, monkeypatch)
    one = alone(table, tmp_path / "one", STAGES)
    for job in (stages, pieces):
        assert farthest(tmp_path / "one", job["study"]) < CLOSE
        result = told(job["study"], 0)["result"]
        for name in ("val_accuracy", "steps", "best_epoch", "trainable_parameters"):
            assert result[name] == one.result[name], name
        assert result["log_loss"] == pytest.approx(one.log_loss, abs=CLOSE)
    (note,) = told(pieces["study"], 1)["result"]["notes"]
    assert "Memory ran out with 6 images a step: they are now learned from 3 at a time" in note
    assert "RunWarning" in done.stderr
    assert done.stderr.count("Memory ran out") == 1, "said by more than one process"


@pytest.mark.slow
def test_two_processes_solve_the_head_that_one_does(tmp_path: Path, table: Path) -> None:
    """A head on several stages: of a frozen network, with and without kept rows, and after training."""
    strategies = {
        "probe": ("linear_probe", {}),
        "kept": ("linear_probe(layers=auto)", {"cache": "keep"}),
        "refitted": ("lp_ft(epochs=2, refit_layers=4)", {}),
    }
    jobs = [
        {"table": table, "study": tmp_path / name, "strategy": strategy, "options": options}
        for name, (strategy, options) in strategies.items()
    ]
    done = launch(2, tmp_path, *jobs)
    assert done.returncode == 0, done.stderr
    for job in jobs:
        assert_alike(job["study"])
        name = Path(job["study"]).name
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FROSTLINE_CACHE_DIR", str(tmp_path / "another cache"))
            one = alone(table, tmp_path / f"{name} by one", job["strategy"], **job["options"])
        result = told(job["study"], 1)["result"]
        assert result["layers"] == one.layers == 4
        apart = farthest(tmp_path / f"{name} by one", job["study"])
        if name == "refitted":
            # The network is as close as after any training. Its head is solved again with next to no L2 on
            # features that tell the images apart (a log loss of 0.0008), so their difference is magnified:
            # 2.6e-3 of weights up to 7.7 was measured.
            assert apart < 1e-3 * max(float(value.abs().max()) for value in weights(job["study"]).values())
        else:
            assert apart == 0.0, name
        assert result["log_loss"] == pytest.approx(one.log_loss, abs=1e-4)


@pytest.mark.slow
def test_what_goes_wrong_or_ends_in_one_process_does_in_all(
    tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {"table": table, "study": tmp_path / "stages", "strategy": STAGES}
    halves = {
        **stages,
        "study": tmp_path / "halves",
        "options": {"deterministic": False, "precision": "bfloat16"},
    }
    spoilt = {**stages, "study": tmp_path / "spoilt", "spoil": [1, 4]}
    late = {
        **stages,
        "study": tmp_path / "late",
        "strategy": "full(epochs=9999)",
        "options": {"minutes": 0.15},
    }
    done = launch(2, tmp_path, halves, spoilt, late)
    assert done.returncode == 0, done.stderr
    for job in (halves, spoilt, late):
        assert_alike(job["study"])
    assert_the_bits_of_one_in_pieces(halves, monkeypatch)
    (note,) = told(spoilt["study"], 0)["result"]["notes"]
    assert "The loss became nan in epoch 1 of phase 2" in note
    result = told(late["study"], 1)["result"]
    assert result["stopped"] == "minutes"
    assert 0 < result["steps"] < result["steps_planned"]
    assert result["seconds"] < 2 * 9  # generous: other work may share the machine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "processes"),
    [
        (STAGES, 1),
        (STAGES, 3),
        ("top_k(2, bn=train)", 2),
        ("top_k(2, bn=train, optimizer=lamb, ema=0.9, mixup=0.4)", 2),
    ],
)
def test_a_killed_process_ends_the_job_and_any_number_goes_on(
    strategy: str, processes: int, tmp_path: Path, table: Path
) -> None:
    job = {"table": table, "study": tmp_path / "study", "strategy": strategy}
    whole = {**job, "study": tmp_path / "whole"}
    assert launch(2, tmp_path, whole).returncode == 0
    (survivor, stderr), (killed, _) = start_each(2, tmp_path, {**job, "kill": [1, 8], "each_step_kept": True})
    assert killed == -signal.SIGKILL
    assert survivor > 0
    assert "Another of the 2 processes of this job has ended or can't be reached" in stderr
    assert "the same command resumes, also with another number of processes" in stderr
    (state,) = job["study"].glob("runs/*/state.safetensors")
    with safe_open(state, framework="pt") as file:
        assert 5 <= json.loads(file.metadata()["progress"])["steps"] <= 8
    assert not list(job["study"].glob("runs/*/result.json"))
    done = launch(processes, tmp_path, job)
    assert done.returncode == 0, done.stderr
    result = told(job["study"], 0)["result"]
    assert result["world_size"] == processes
    assert result["steps"] == told(whole["study"], 0)["result"]["steps"]
    apart = farthest(whole["study"], job["study"])
    assert apart == 0.0 if processes == 2 else apart < CLOSE
    assert not list(job["study"].glob("runs/*/state*"))


@pytest.mark.slow
def test_the_same_command_under_torchrun_prints_once_and_says_how_many(
    tmp_path: Path, warm_cache: Path
) -> None:
    photos = write_folder(tmp_path / "photos")
    given = [str(photos), "--size", "32", "--deterministic", "--strategy", "top_k(1, epochs=2)", "--json"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    lines = []
    for number, start in ((1, [sys.executable]), (2, torchrun)):
        command = [*start, "-m", "frostline", "train", *given, "--study", str(tmp_path / f"{number}")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        lines.append(json.loads(done.stdout))
        assert done.stderr.count("60 images in 3 classes") == 1
        assert lines[-1]["world_size"] == number
    assert lines[1]["log_loss"] == pytest.approx(lines[0]["log_loss"], abs=1e-4)
    assert farthest(tmp_path / "1", tmp_path / "2") < 1e-3
    wrong = subprocess.run(
        [*torchrun, "-m", "frostline", "train", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert wrong.returncode != 0
    assert wrong.stderr.count("none does not exist") == 1


@pytest.mark.ecosystem
def test_accelerate_starts_it_too(tmp_path: Path, table: Path) -> None:
    """As it would start it on GPUs, of which none is seen here; its `--cpu` wants MPI."""
    pytest.importorskip("accelerate", reason="needs pip install -e '.[ecosystem]'")
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(json.dumps({"table": str(table), "study": str(tmp_path / "study"), "strategy": STAGES}))
    start = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    start += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run([*start, str(SCRIPT), str(jobs)], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    first, second = (told(tmp_path / "study", rank) for rank in (0, 1))
    assert first["weights"] == second["weights"]
    assert first["result"]["world_size"] == 2
    alone(table, tmp_path / "one", STAGES)
    assert farthest(tmp_path / "one", tmp_path / "study") < CLOSE


def test_what_a_launcher_says_is_read_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == Launch(0, 1, 0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched() == Launch(), "some other program's variable"
    for name, value in {"RANK": "3", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == Launch(3, 4, 3, 4)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert launched() == Launch(3, 4, 1, 2)
    for wrong in ("4", "-1", "first"):
        monkeypatch.setenv("RANK", wrong)
        with pytest.raises(UsageError, match=f"RANK={wrong}, WORLD_SIZE=4.*expected what torchrun sets"):
            launched()


@pytest.fixture
def one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torchrun had started this process and another."""
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("device", "local_size", "backend"),
    [("cuda", 2, "cpu:gloo,cuda:nccl"), ("cuda:0", 1, "cpu:gloo,cuda:nccl"), ("cuda:0", 2, "gloo")],
)
def test_a_gpu_that_is_named_is_shared_by_gloo(
    device: str, local_size: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda name, **_: begun.append(name))
    monkeypatch.setattr(devices, "current", lambda: torch.device(device))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(atexit, "register", lambda call: None)
    process_group._begin(Launch(0, 2, 0, local_size))
    assert begun == [backend]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    if (device, local_size) == ("cuda", 2):
        with pytest.raises(UsageError, match=r"NCCL takes no two processes on one GPU; .*--device cuda:0"):
            process_group._begin(Launch(1, 2, 1, local_size))


def test_without_nccl_sums_of_a_gpus_tensors_go_through_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    summed: list[str] = []

    def all_reduce(values: torch.Tensor, group: object = None) -> None:
        summed.append(values.device.type)
        values.mul_(2)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cpu:gloo,cuda:gloo")
    monkeypatch.setattr(process_group, "_joined", [process_group._Group(0, 2, None)])
    with pretended():
        gradient = torch.ones(3).to(CARD)
        process_group.add_up([gradient])
        assert gradient.device.type == torch.device(CARD).type
        assert gradient.tolist() == [2.0, 2.0, 2.0]
    assert summed == ["cpu"]


@pytest.mark.parametrize("verb", ["compare", "fit", "measure", "plan", "demo"])
def test_other_verbs_are_refused(verb: str, one_of_two: None, tmp_path: Path) -> None:
    given = [] if verb == "demo" else [str(write_folder(tmp_path / "photos"))]
    done = CliRunner().invoke(cli, [verb, *given])
    assert done.exit_code == 2
    assert f"frostline {verb} was started 2 times by torchrun" in done.output
    assert "give them --ray" in done.output


def test_other_calls_are_refused(one_of_two: None, table: Path, tmp_path: Path) -> None:
    data, backbone = images_of(table), steady_backbone()
    for call in (frostline.compare, frostline.fill_cache, lambda *_: frostline.fit(table)):
        with pytest.raises(UsageError, match="started 2 times by torchrun"):
            call(backbone, data)
    assert not list(tmp_path.glob("frostline-study"))


def test_batches_must_be_large_enough_for_all(
    monkeypatch: pytest.MonkeyPatch, table: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(process_group, "size", lambda: 8)
    for strategy, least, most in (("full", 1, 6), ("full(bn=train)", 2, 3)):
        with pytest.raises(
            UsageError, match=f"8 processes share batches of 6; .* {least} or more: start at most {most}"
        ):
            TrainRequest(steady_backbone(), images_of(table), parse(strategy), Config(batch_size=6)).check()


def test_shares_cover_all_and_differ_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, count in ((1, 5), (2, 7), (3, 3), (5, 17), (4, 2)):
        monkeypatch.setattr(process_group, "size", lambda size=size: size)
        parts = []
        for rank in range(size):
            monkeypatch.setattr(process_group, "rank", lambda rank=rank: rank)
            parts.append(list(range(count))[process_group.share(count)])
        assert [place for part in parts for place in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
