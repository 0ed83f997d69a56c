"""Images a step by a rule, how the learning rate follows, and that a run keeps to what was chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import frostline
from frostline import strategies as fs
from frostline.advice import Budget, Case, advise
from frostline.cli.output.run_text import _notes
from frostline.config import Config
from frostline.data import Manifest
from frostline.errors import UsageError
from frostline.models import Backbone
from frostline.strategies import BatchSize, batch_rule, batch_size, halved, parse
from frostline.studies.study_folder import digest_of
from frostline.training import train_request
from frostline.training.train_request import TrainRequest
from test_advice import case, constantly, trials_of
from test_cost import DEAR
from tiny import write_table

FAST: dict[str, Any] = {"deterministic": True, "augment": "none", "flip": "none", "threads": 1}


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", val=4), near_copies=False)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rule believe in a GPU, and few steps be enough for it."""
    monkeypatch.setattr(batch_rule, "LEAST_STEPS", 8)
    monkeypatch.setattr(train_request, "batch_size", lambda *a, **k: batch_size(*a, **{**k, "kind": "cuda"}))


# --- the rule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "images", "expected"),
    [
        ("cpu", 20, 32),
        ("cpu", 1_000_000, 32),
        ("mps", 10_000, 32),
        ("cuda", 1, 32),
        ("cuda", 400, 32),
        ("cuda", 2_000, 64),
        ("cuda", 4_000, 128),
        ("cuda", 10_000, 256),
        ("cuda", 1_000_000, 256),
    ],
)
def test_batches_by_images_and_device(kind: str, images: int, expected: int) -> None:
    batch = batch_size("auto", parse("full"), images=images, kind=kind)
    assert (batch.images, batch.auto) == (expected, True)
    assert batch.lr_factor == pytest.approx((expected / 32) ** 0.5)
    if expected > 32:  # the largest power of two that leaves enough steps
        steps = fs.epochs_for(images) * images
        assert steps / expected >= batch_rule.LEAST_STEPS
        assert expected == batch_rule.MOST_ON_GPU or steps / (2 * expected) < batch_rule.LEAST_STEPS


@pytest.mark.parametrize(
    ("strategy", "images", "factor"),
    [
        ("full", 256, 8**0.5),
        ("lp_ft(optimizer=nadamw)", 256, 8**0.5),
        ("full(optimizer=sgd)", 256, 8.0),
        ("full(optimizer=lion)", 32, 1.0),
        ("full(lr=0.002)", 256, 1.0),
        ("full(optimizer=sgd, lr=0.02)", 256, 1.0),
        ("phases(0@3, all@10*0.0005)", 256, 1.0),
        ("linear_probe", 32, 1.0),
    ],
)
def test_the_rate_follows_by_optimizer_unless_it_was_given(strategy: str, images: int, factor: float) -> None:
    batch = batch_size("auto", parse(strategy), images=50_000, kind="cuda")
    assert (batch.images, batch.lr_factor) == (images, pytest.approx(factor))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_number_is_taken_as_it_is(kind: str) -> None:
    assert batch_size(64, parse("full"), images=50_000, kind=kind) == BatchSize(64)
    assert halved(BatchSize(64), parse("full")) is None


def test_a_rate_from_elsewhere_stays() -> None:
    batch = batch_size("auto", parse("full"), images=50_000, kind="cuda", lr_given=True)
    assert (batch.images, batch.lr_factor) == (256, 1.0)
    assert "was given" in batch.reason


def test_short_memory_halves_what_the_rule_chose() -> None:
    batch: BatchSize | None = batch_size("auto", parse("full"), images=50, kind="cpu")
    seen = []
    while batch is not None:
        seen.append((batch.images, round(batch.lr_factor, 3)))
        batch = halved(batch, parse("full"))
    assert seen == [(32, 1.0), (16, 0.707), (8, 0.5)]
    given = halved(BatchSize(32, auto=True), parse("full(lr=0.01)"))
    assert given is not None
    assert (given.images, given.lr_factor) == (16, 1.0)


def test_the_schedule_has_the_rate_that_follows() -> None:
    plain, larger = (
        fs.schedule(parse("gradual_unfreeze"), stages=4, images=400, batch=32, lr_factor=factor)
        for factor in (1.0, 2.0)
    )
    assert [2.0 * phase.lr for phase in plain] == [phase.lr for phase in larger]


# --- a run ----------------------------------------------------------------------------------------------


def test_on_a_processor_the_default_is_the_run_of_32(backbone: Backbone, data: Manifest) -> None:
    made = partial(TrainRequest, backbone, data, parse("full"))
    assert digest_of(made(Config()).identity()) == digest_of(made(Config(batch_size=32)).identity())
    assert made(Config()).phases() == made(Config(batch_size=32)).phases()


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "many"])
def test_a_batch_size_that_is_none(backbone: Backbone, data: Manifest, value: Any) -> None:
    request = TrainRequest(backbone, data, parse("full"), Config(batch_size=value))
    with pytest.raises(UsageError, match="batch_size must be"):
        request.check()


@pytest.mark.usefixtures("on_gpu")
def test_a_run_keeps_to_what_was_chosen(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = partial(frostline.train, backbone, data, "full(epochs=2)", study=tmp_path / "s", **FAST)
    run = train()
    chosen = run.result["numeric_plan"]["batch"]
    assert chosen["auto"]
    assert chosen["images"] > 32
    assert chosen["lr_factor"] == pytest.approx((chosen["images"] / 32) ** 0.5)
    assert json.loads((run.folder.path / "plan.json").read_text())["batch"] == chosen
    config = json.loads((run.folder.path / "config.json").read_text())
    assert (config["batch_size"], config["lr_factor"]) == (chosen["images"], chosen["lr_factor"])
    assert "batch_size" not in (run.folder.path / "config.yaml").read_text()  # the same call again
    assert [row["peak_lr"] for row in run.folder.metrics()] == [pytest.approx(5e-4 * chosen["lr_factor"])] * 2
    assert any(
        f"Batches of {chosen['images']} images, learning rate × " in line for line in _notes(run.result)
    )
    assert not train(batch_size=chosen["images"]).reused  # its rate is not scaled
    monkeypatch.undo()  # no GPU any more
    assert train().folder.path == run.folder.path
    assert train().reused
    assert train(batch_size=32).folder.path != run.folder.path


@pytest.mark.usefixtures("on_gpu")
def test_an_interrupted_run_goes_on_with_its_batches(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = partial(frostline.train, backbone, data, "full(epochs=2)", study=tmp_path / "s", **FAST)

    def stop(what: str, done: int, total: int) -> None:
        if done and "train" in str(what):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(progress=stop)
    (begun,) = (tmp_path / "s" / "runs").glob("*/plan.json")
    chosen = json.loads(begun.read_text())["batch"]
    monkeypatch.undo()
    run = train()
    assert run.folder.path == begun.parent
    assert run.result["numeric_plan"]["batch"] == chosen
    assert run.folder.metrics()[0]["peak_lr"] == pytest.approx(5e-4 * chosen["lr_factor"])


@pytest.mark.usefixtures("on_gpu")
def test_a_run_that_continues_has_the_batches_of_its_parent(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    parent = frostline.train(backbone, data, "full(epochs=1)", study=tmp_path / "s", **FAST)
    child = frostline.train(
        backbone, data, continue_from=parent, extra_epochs=1, study=tmp_path / "s", threads=1
    )
    images = parent.result["numeric_plan"]["batch"]["images"]
    batch = BatchSize(**child.result["numeric_plan"]["batch"])
    assert (batch.images, batch.lr_factor, batch.auto) == (images, 1.0, False)
    assert child.folder.metrics()[0]["peak_lr"] == pytest.approx(
        parent.folder.metrics()[0]["peak_lr"] / 2, rel=1e-2
    )


# --- advice ---------------------------------------------------------------------------------------------


def test_advice_lowers_batches_that_do_not_fit_the_memory() -> None:
    trials, own = trials_of(constantly), case(kind="cpu")
    free = advise(own, DEAR, Budget(), trials).option("lp_ft")
    assert (free.hyperparameters["batch"], free.hyperparameters["batch_lowered"]) == (32, False)
    budget = Budget(memory_bytes=free.cost.peak_memory_upper_bytes - 1)
    smaller = advise(own, DEAR, budget, trials).option("lp_ft")
    assert smaller.fits
    assert (smaller.hyperparameters["batch"], smaller.hyperparameters["batch_lowered"]) == (16, True)
    assert smaller.hyperparameters["lr"] == pytest.approx(free.hyperparameters["lr"] * 0.5**0.5)
    given = advise(replace(own, kind=None), DEAR, budget, trials).option("lp_ft")
    assert not given.fits
    assert given.hyperparameters["batch"] == 32


def test_a_case_names_its_batches() -> None:
    own = case(train=10_000, kind="cuda")
    assert isinstance(own, Case)
    assert own.batch_size(parse("full")).images == 256
    assert replace(own, kind=None).batch_size(parse("full")) == BatchSize(32)


def test_a_batch_of_more_images_than_there_are_says_so() -> None:
    batch = batch_size(1_000_000, parse("head"), images=96, kind="cpu")
    assert (batch.images, batch.lr_factor) == (1_000_000, 1.0)
    assert "each step learns from all 96 training images" in str(batch)
    assert batch_size(96, parse("head"), images=96, kind="cpu").reason == "as given"
