"""A run's figures in TensorBoard and MLflow: all of them, once, and without a trace in the result."""

from __future__ import annotations

import json
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import frostline
from frostline import loggers
from frostline.cli.main import cli
from frostline.data import Manifest
from frostline.errors import LoggerWarning, UsageError
from frostline.loggers import factory, logger, tensorboard
from frostline.models import Backbone

pytestmark = pytest.mark.usefixtures("tiny_store")

STRATEGY = "top_k(1, epochs=4)"
FAST: dict[str, Any] = {"deterministic": True, "augment": "light", "flip": "none", "threads": 1}
# What a clock or a meter says, which no two runs share.
MEASURED = ("ended", "seconds", "peak_memory_bytes", "study", "features", "decoding", "pace")


class Fake:
    """A logger in memory; `told` outlives it, by run."""

    told: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - cleared by the fixture
    fails_at: int | None = None
    opened = 0

    def __init__(self, run: logger.Tracked) -> None:
        type(self).opened += 1
        self.mine = self.told.setdefault(
            run.name, {"epochs": {}, "result": None, "closed": [], "parameters": run.parameters}
        )
        self.epochs_logged = max(self.mine["epochs"], default=0)
        self.finished = self.mine["result"] is not None

    def rewind(self, done: int) -> None:
        self.mine["epochs"] = {s: f for s, f in self.mine["epochs"].items() if s <= done}
        self.epochs_logged = done

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        if step == self.fails_at:
            raise OSError("no space left")
        assert step not in self.mine["epochs"]
        self.mine["epochs"][step] = dict(figures)
        self.epochs_logged = step

    def end(self, figures: Mapping[str, float]) -> None:
        assert self.mine["result"] is None
        self.mine["result"] = dict(figures)
        self.finished = True

    def close(self, failed: bool | None) -> None:
        self.mine["closed"].append(failed)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Fake]]:
    """Put the fake in both loggers' places."""
    Fake.told.clear()
    Fake.fails_at, Fake.opened = None, 0
    monkeypatch.setattr(factory, "_MAKERS", dict.fromkeys(loggers.NAMES, Fake))
    monkeypatch.setattr(factory, "_MODULES", dict.fromkeys(loggers.NAMES, ("json",)))
    yield Fake
    Fake.told.clear()


class Killed(Exception):
    """Stands for a process that is gone."""


def killed_in_epoch(number: int, monkeypatch: pytest.MonkeyPatch, *, checkpoints: bool) -> None:
    """Let the next run die when it has done so many epochs."""
    from frostline.training.loop import trainer

    real, seen = trainer.Trainer._mean_loss, []

    def stopped(*arguments: Any) -> float:
        seen.append(1)
        if len(seen) == number:
            monkeypatch.setattr(trainer.Trainer, "_mean_loss", real)
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(trainer.Trainer, "_mean_loss", stopped)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 1e9 if checkpoints else 0.0)


def scalars(run: frostline.Run) -> dict[str, float]:
    return logger.figures(run.folder.read("result.json"), logger.RESULT)


# --- what a logger is told -----------------------------------------------------------------------------


def test_every_epoch_the_result_and_the_settings(
    fake: type[Fake], backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    run = frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", logger="mlflow", **FAST)
    [(name, told)] = fake.told.items()
    assert name == f"top_k(1,_epochs=4) {run.folder.name}"
    rows = run.folder.metrics()
    assert len(rows) == 4
    assert told["epochs"] == {step: logger.figures(row) for step, row in enumerate(rows, 1)}
    assert {"loss", "lr", "val_accuracy", "val_loss"} <= set(told["epochs"][1])
    assert told["result"] == scalars(run)
    assert told["result"]["result/accuracy"] == run.accuracy
    assert told["parameters"]["hyperparameters/lr"] == run.folder.read("config.json")["hyperparameters"]["lr"]
    assert told["parameters"]["strategy"] == STRATEGY
    assert told["closed"] == [None]


def test_a_solved_head_has_a_result_and_no_epochs(
    fake: type[Fake], backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    frostline.train(backbone, data, "linear_probe", study=tmp_path / "s", logger="mlflow", **FAST)
    [told] = fake.told.values()
    assert not told["epochs"]
    assert "result/cv_score" in told["result"]


def test_following_changes_neither_the_run_nor_its_result(
    fake: type[Fake], backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    plain = frostline.train(backbone, data, STRATEGY, study=tmp_path / "a", **FAST)
    followed = frostline.train(backbone, data, STRATEGY, study=tmp_path / "b", logger="mlflow", **FAST)
    assert followed.folder.name == plain.folder.name
    assert followed.folder.weights.read_bytes() == plain.folder.weights.read_bytes()
    for name in ("config.json", "predictions-test.csv", "predictions-val.csv"):
        assert (followed.folder.path / name).read_bytes() == (plain.folder.path / name).read_bytes()
    one, two = (
        {key: value for key, value in run.folder.read("result.json").items() if key not in MEASURED}
        for run in (plain, followed)
    )
    assert one == two


def test_a_finished_run_is_handed_over_once(
    fake: type[Fake], backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    run = frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", **FAST)
    for _ in range(2):
        again = frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", logger="mlflow", **FAST)
        assert again.reused
    [told] = fake.told.values()
    assert sorted(told["epochs"]) == [1, 2, 3, 4]
    assert told["result"] == scalars(run)


@pytest.mark.parametrize("checkpoints", [True, False])
def test_an_interrupted_run_goes_on_with_the_same_one(
    checkpoints: bool,
    fake: type[Fake],
    backbone: Backbone,
    data: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed_in_epoch(4, monkeypatch, checkpoints=checkpoints)
    with pytest.raises(Killed):
        frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", logger="mlflow", **FAST)
    assert [sorted(records["epochs"]) for records in fake.told.values()] == [[1, 2, 3]]
    run = frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", logger="mlflow", **FAST)
    [records] = fake.told.values()
    assert records["epochs"] == {
        step: logger.figures(row) for step, row in enumerate(run.folder.metrics(), 1)
    }
    assert records["closed"] == [False, None]


# --- what goes wrong ------------------------------------------------------------------------------------


def test_a_logger_that_fails_costs_one_warning(
    fake: type[Fake], backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    fake.fails_at = 2
    with pytest.warns(LoggerWarning, match="mlflow cannot be written .no space left") as caught:
        run = frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", logger="mlflow", **FAST)
    assert len(caught) == 1
    assert len(run.folder.metrics()) == 4
    [told] = fake.told.values()
    assert sorted(told["epochs"]) == [1]
    fake.fails_at = None
    frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", logger="mlflow", **FAST)
    assert told["result"] == scalars(run)


def test_a_comparison_is_followed_run_by_run_and_warns_once(
    fake: type[Fake], backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    wanted = ["linear_probe", STRATEGY]
    options: dict[str, Any] = {**FAST, "repeats": 1, "logger": ["mlflow"]}
    comparison = frostline.compare(backbone, data, wanted, study=tmp_path / "s", **options)
    runs = list((tmp_path / "s").rglob("result.json"))
    assert len(fake.told) == len(runs) >= 3
    assert comparison.run.folder.name in {name.split()[-1] for name in fake.told}
    fake.fails_at, fake.opened = 1, 0
    with pytest.warns(LoggerWarning) as caught:
        frostline.compare(backbone, data, [*wanted, "head(epochs=2)"], study=tmp_path / "t", **options)
    assert len([w for w in caught if w.category is LoggerWarning]) == 1


def test_an_unknown_logger_and_a_missing_library_are_said_first(
    data: Manifest, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"found 'tensorbord'\. Did you mean 'tensorboard'"):
        frostline.train(backbone, data, "head", study=tmp_path / "s", logger="mlflow,tensorbord")
    monkeypatch.setattr(factory, "_MODULES", {"mlflow": ("no_such_library",)})
    for call in (frostline.train, frostline.compare):
        with pytest.raises(UsageError, match=r"No module named 'no_such_library'.*frostline\[loggers\]"):
            call(backbone, data, "head", study=tmp_path / "s", logger="mlflow")
    with pytest.raises(UsageError, match="no_such_library"):
        frostline.fit(tmp_path / "images", study=tmp_path / "s", logger="mlflow")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("verb", ["train", "compare", "fit"])
def test_the_command_line_refuses_before_anything_is_read(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = CliRunner().invoke(cli, [verb, "nowhere", "--logger", "tensorbord"])
    assert unknown.exit_code == 2
    assert "Did you mean 'tensorboard'" in unknown.output
    monkeypatch.setattr(factory, "_MODULES", {"mlflow": ("no_such_library",)})
    missing = CliRunner().invoke(cli, [verb, "nowhere", "--logger", "mlflow", "--json"])
    assert missing.exit_code == 2
    assert 'pip install "frostline[loggers]"' in json.loads(missing.stdout)["error"]


def test_names_may_be_repeated_or_listed() -> None:
    assert factory.parse_names("tensorboard, mlflow") == factory.parse_names(["tensorboard", "mlflow"])
    assert factory.make_loggers(None, "s").names == ()


# --- the libraries themselves ---------------------------------------------------------------------------


def board(study: Path) -> tuple[dict[str, dict[int, float]], list[str]]:
    """Return every scalar by name and step as TensorBoard reads them, and the runs' folders."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [folder] = (study / "tensorboard").iterdir()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    scalars = {}
    for name in events.Tags()["scalars"]:
        rows = events.Scalars(name)
        assert len({row.step for row in rows}) == len(rows), f"{name} has a step twice"
        scalars[name] = {row.step: row.value for row in rows}
    assert "_hparams_/session_start_info" in events.summary_metadata
    return scalars, [folder.name]


@pytest.mark.ecosystem
@pytest.mark.parametrize("checkpoints", [True, False])
def test_tensorboard_reads_back_what_was_trained(
    checkpoints: bool, backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_in_epoch(4, monkeypatch, checkpoints=checkpoints)
    study = tmp_path / "s"
    with pytest.raises(Killed):
        frostline.train(backbone, data, STRATEGY, study=study, logger="tensorboard", **FAST)
    for _ in range(2):  # the second time it is finished, and nothing is added
        run = frostline.train(backbone, data, STRATEGY, study=study, logger="tensorboard", **FAST)
    found, names = board(study)
    assert names == [f"top_k(1,_epochs=4) {run.folder.name}"]
    for key in ("loss", "val_accuracy", "val_loss", "lr", "seconds"):
        rows = run.folder.metrics()
        assert found[key] == pytest.approx({step: row[key] for step, row in enumerate(rows, 1)})
    for key, value in scalars(run).items():
        assert found[key] == pytest.approx({0: value})


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


# MLflow 3.17 with SQLAlchemy 2.1, on import.
quiet = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@quiet
@pytest.mark.ecosystem
@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("checkpoints", [True, False])
def test_mlflow_reads_back_what_was_trained(
    checkpoints: bool, backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    study = tmp_path / "s"
    killed_in_epoch(4, monkeypatch, checkpoints=checkpoints)
    client = MlflowClient(tracking_uri=f"sqlite:///{study.resolve()}/mlflow.db")
    with pytest.raises(Killed):
        frostline.train(backbone, data, STRATEGY, study=study, logger="mlflow", **FAST)
    for _ in range(2):
        run = frostline.train(backbone, data, STRATEGY, study=study, logger="mlflow", **FAST)
    experiment = client.get_experiment_by_name("frostline")
    [found] = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == f"top_k(1,_epochs=4) {run.folder.name}"
    assert found.info.status == "FINISHED"
    for key in ("loss", "val_accuracy", "val_loss", "lr"):
        history = client.get_metric_history(found.info.run_id, key)
        rows = run.folder.metrics()
        assert [(m.step, m.value) for m in history] == [(s, row[key]) for s, row in enumerate(rows, 1)]
    assert scalars(run).items() <= found.data.metrics.items()
    assert found.data.params["hyperparameters/lr"] == str(
        run.folder.read("config.json")["hyperparameters"]["lr"]
    )
    assert not list(tmp_path.glob("mlruns"))


@quiet
@pytest.mark.ecosystem
@pytest.mark.usefixtures("no_server")
def test_mlflow_writes_where_its_variable_says_and_gives_up_on_a_dead_server(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "my own")
    run = frostline.train(backbone, data, "linear_probe", study=tmp_path / "s", logger="mlflow", **FAST)
    client = MlflowClient(tracking_uri=elsewhere)
    [found] = client.search_runs([client.get_experiment_by_name("my own").experiment_id])
    assert found.data.metrics["result/accuracy"] == run.accuracy
    assert not (tmp_path / "s" / "mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the port "discard": nobody listens
    with pytest.warns(LoggerWarning, match="mlflow cannot be written") as caught:
        run = frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", logger="mlflow", **FAST)
    assert len(caught) == 1
    assert len(run.folder.metrics()) == 4


@pytest.mark.ecosystem
def test_a_full_disk_gives_tensorboard_up_with_one_warning_and_no_traceback(
    backbone: Backbone,
    data: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # put back afterwards
    tensorboard._hear_threads.cache_clear()
    with pytest.warns(LoggerWarning, match="tensorboard cannot be written .*No space left") as caught:
        run = frostline.train(backbone, data, STRATEGY, study=tmp_path, logger="tensorboard", **FAST)
    assert (len(caught), len(run.folder.metrics())) == (1, 4)
    assert "Traceback" not in capfd.readouterr().err


@quiet
@pytest.mark.ecosystem
@pytest.mark.usefixtures("no_server")
def test_both_at_once_change_no_byte(backbone: Backbone, data: Manifest, tmp_path: Path) -> None:
    plain = frostline.train(backbone, data, STRATEGY, study=tmp_path / "a", **FAST)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LoggerWarning)
        both = frostline.train(
            backbone, data, STRATEGY, study=tmp_path / "b", logger="tensorboard,mlflow", **FAST
        )
    assert both.folder.weights.read_bytes() == plain.folder.weights.read_bytes()
    assert (tmp_path / "b" / "mlflow.db").is_file()
    assert both.peak_memory_bytes < plain.peak_memory_bytes + 64 * 2**20


@pytest.mark.ecosystem
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pydantic's, too
@pytest.mark.parametrize("checkpoints", [True, False])
def test_wandb_holds_what_was_trained(
    checkpoints: bool, backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    study = tmp_path / "s"
    killed_in_epoch(4, monkeypatch, checkpoints=checkpoints)
    with pytest.raises(Killed):
        frostline.train(backbone, data, STRATEGY, study=study, logger="wandb", **FAST)
    for _ in range(2):  # the second time it is finished, and nothing is added
        run = frostline.train(backbone, data, STRATEGY, study=study, logger="wandb", **FAST)
    files = sorted((study / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2  # of the process that was killed, and of the next
    assert len({file.name for file in files}) == 1  # one run
    history, summary = wandb_rows(files)
    assert [row["_step"] for row in history] == [1, 2, 3, 4]
    for row, kept in zip(history, run.folder.metrics(), strict=True):
        assert {key: row[key] for key in ("loss", "val_loss", "lr")} == pytest.approx(
            {key: kept[key] for key in ("loss", "val_loss", "lr")}
        )
    assert scalars(run).items() <= summary.items()
    assert not list(Path.cwd().glob("wandb"))


def wandb_rows(files: list[Path]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the history and the last summary that W&B's files hold."""
    from wandb.proto import wandb_internal_pb2

    history, summary = [], {}
    for file in files:
        for rows in wandb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(rows)
            if record.HasField("history"):
                items = record.history.item
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                history.append(row)
            for item in record.summary.update:
                summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return history, summary


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Read LevelDB's log format: blocks of 32 KiB, in them records with checksum, length and kind."""
    place, whole = 7, b""  # after ":W&B", a number and a version
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no room for a record's head: the block is filled up
            place += 32768 - place % 32768
            continue
        size, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


@pytest.mark.ecosystem
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pydantic's, too
def test_wandb_gives_up_where_it_cannot_write(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "no such mode")
    with pytest.warns(LoggerWarning, match="wandb cannot be written") as caught:
        run = frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", logger="wandb", **FAST)
    assert len([w for w in caught if w.category is LoggerWarning]) == 1
    assert len(run.folder.metrics()) == 4
