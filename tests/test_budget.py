"""A limit on time is hard: a run stops in time, with a model that answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

import frostline
from frostline.data import Manifest
from frostline.errors import RunWarning, UsageError
from frostline.system import numerics
from frostline.system.timing import Stopwatch
from frostline.training.loop import trainer
from frostline.training.resilience import time_limit as budget_of
from frostline.training.resilience.time_limit import OutOfTime, TimeLimit
from tiny import tiny_backbone, tiny_model, write_table

FAST = {"deterministic": True, "threads": 1, "flip": "none"}
LONG = "full(epochs=5000)"  # minutes, if nothing stopped it


@pytest.fixture(params=[0, 4], ids=["no val", "val"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Manifest:
    table = write_table(tmp_path / "images", train=12, val=request.param)
    return frostline.load_data(table, near_copies=False, val_size=0.0)


def test_a_run_stops_in_time_with_a_model_that_answers(data: Manifest, tmp_path: Path) -> None:
    run = frostline.train(tiny_backbone(), data, LONG, study=tmp_path / "study", minutes=4 / 60, **FAST)
    assert run.stopped == "minutes"
    assert 0 < run.steps < run.steps_planned
    assert run.seconds < 2 * 4  # generous: other work may share the machine
    assert (run.best_epoch is None) == (not data.subset("val"))
    assert run.accuracy > 0.5 or run.steps < 300  # of three kinds; other work may leave time for a few steps
    model = frostline.load_model(tmp_path / "study", module=tiny_model())
    assert not model.training
    predictions = frostline.predict(tmp_path / "study", tmp_path / "images", module=tiny_model())
    assert len(predictions.rows) == len(data.samples)


def test_too_little_time_for_one_step_still_gives_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=12), near_copies=False)
    monkeypatch.setattr(TimeLimit, "late", lambda self, kind: kind == "step")
    run = frostline.train(tiny_backbone(), data, "top_k(1)", study=tmp_path / "a", minutes=1, **FAST)
    assert (run.stopped, run.steps) == ("minutes", 0)
    assert run.accuracy is not None


def test_enough_time_changes_nothing(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=12, val=4), near_copies=False)
    free = frostline.train(tiny_backbone(), data, "top_k(1, epochs=2)", study=tmp_path / "a", **FAST)
    limited = frostline.train(
        tiny_backbone(), data, "top_k(1, epochs=2)", study=tmp_path / "a", minutes=10, **FAST
    )
    assert limited.folder.path != free.folder.path  # another question
    assert limited.folder.weights.read_bytes() == free.folder.weights.read_bytes()
    assert limited.stopped is None
    assert limited.steps == limited.steps_planned == free.steps


def test_time_spent_before_a_kill_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=12, val=4), near_copies=False)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 1e9)

    def kill(what: str, done: int, total: int) -> None:
        if what == "train" and done == 40:
            raise KeyboardInterrupt

    arguments = {"study": tmp_path / "study", "minutes": 10 / 60, **FAST}
    with pytest.raises(KeyboardInterrupt):
        frostline.train(tiny_backbone(), data, LONG, progress=kill, **arguments)
    real = trainer.checkpoint.read

    def as_if_long_ago(*given: object) -> object:
        progress = real(*given)  # type: ignore[arg-type]
        assert progress is not None
        progress.seconds = 9.9
        return progress

    monkeypatch.setattr(trainer.checkpoint, "read", as_if_long_ago)
    run = frostline.train(tiny_backbone(), data, LONG, **arguments)
    assert run.stopped == "minutes"
    assert 30 < run.steps <= 40


def test_what_takes_long_is_not_begun_when_little_is_left() -> None:
    watch = Stopwatch()
    budget = TimeLimit(1000.0, 10.0, watch)
    budget.check("step")
    budget.note("step", -1e6)  # one took very long
    budget.check("validation")
    with pytest.raises(OutOfTime):
        budget.check("step")
    TimeLimit(None, 0.0, watch).check("step")


@pytest.mark.filterwarnings("ignore:Little time was left")  # a second a batch, as this test has it
def test_a_network_too_slow_to_be_tried_in_the_time_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timings of ways of computing come before the first step: on a large network they took minutes."""
    data = frostline.load_data(write_table(tmp_path / "images", train=12), near_copies=False)
    real, timed = numerics.seconds, []

    def seconds(run: Callable[[], object], **_: object) -> float:
        real(run)
        timed.append(run)
        return 1.0  # a batch of four

    monkeypatch.setattr(numerics, "seconds", seconds)
    options = {"threads": 1, "flip": "none", "study": tmp_path / "study"}
    run = frostline.train(tiny_backbone(), data, "top_k(1, epochs=1)", minutes=2, **options)
    assert len(timed) == 1
    assert "too short" in run.numeric_plan["reason"]
    assert not run.numeric_plan["frozen"]["timed"]
    plenty = frostline.train(tiny_backbone(), data, "top_k(1, epochs=1)", minutes=60, **options)
    assert len(timed) > 5
    assert plenty.numeric_plan["frozen"]["timed"]
    timed.clear()
    again = frostline.train(tiny_backbone(), data, "top_k(1, epochs=2)", minutes=2, **options)
    assert again.numeric_plan["frozen"]["timed"]  # what is remembered costs no time
    assert len(timed) == 1  # but how slow the network is now, which decides what is kept for the end


def test_a_limit_below_the_floor_is_refused_with_what_would_do(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=12), near_copies=False)
    with pytest.raises(
        UsageError, match=r"--minutes 0.001 is less than the .* s that .* give at least 0\.[1-9]"
    ):
        frostline.train(tiny_backbone(), data, "top_k(1)", study=tmp_path / "a", minutes=0.001, **FAST)


def test_the_minutes_begin_when_the_watch_does(tmp_path: Path) -> None:
    """Imports and loading count: a limit that they have used up is refused, and one step less is made."""
    data = frostline.load_data(write_table(tmp_path / "images", train=12), near_copies=False)
    given = {"study": tmp_path / "a", "minutes": 1.0, **FAST}
    with pytest.raises(UsageError, match="--minutes 1 is less than"):
        frostline.train(tiny_backbone(), data, "top_k(1)", watch=Stopwatch(59.9), **given)
    run = frostline.train(tiny_backbone(), data, LONG, watch=Stopwatch(56.0), **given)
    assert run.stopped == "minutes"
    assert run.seconds < 4.0


def test_what_follows_training_is_kept_free_and_shortened_where_time_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features to doubt by pass a thousand training images: with little time fewer, and that is said."""
    data = frostline.load_data(write_table(tmp_path / "images", train=12, val=4), near_copies=False)
    monkeypatch.setattr(budget_of, "pass_s", lambda *_: 0.05)
    given = {"study": tmp_path / "a", **FAST}
    with pytest.warns(RunWarning, match=r"told by 2\d training images"):
        run = frostline.train(tiny_backbone(), data, "full(epochs=1)", minutes=0.3, **given)
    features = load_file(run.folder.path / "familiar.safetensors")["features"]
    assert 20 <= len(features) < 36
    whole = frostline.train(tiny_backbone(), data, "full(epochs=1)", minutes=5, **given)
    assert len(load_file(whole.folder.path / "familiar.safetensors")["features"]) == 36


def test_a_limit_must_be_above_zero(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images"), near_copies=False)
    with pytest.raises(UsageError, match="minutes must be above 0"):
        frostline.train(tiny_backbone(), data, "head", study=tmp_path / "study", minutes=0)
