"""A head that starts from a probe scores what the probe scored, and survives the mode training runs in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import frostline
from frostline import metrics, probe
from frostline import models as bb
from frostline.config import Config
from frostline.data import Manifest
from frostline.feature_extraction import ForwardConfig, Frozen, features
from frostline.feature_extraction.augmentation import Policy
from frostline.models.heads import build_head, linear_head
from frostline.pipelines import write_digits
from frostline.strategies import hyperparameters
from frostline.system import numerics
from frostline.training.loop.learner import starting_model
from frostline.training.techniques.class_imbalance import Balance
from frostline.training.train_request import TrainRequest
from tiny import live_logits, tiny_backbone, write_table

pytestmark = pytest.mark.usefixtures("warm_cache")


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=16, val=12), near_copies=False)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    table = write_digits(tmp_path_factory.mktemp("digits"), 0)
    rows = table.read_text().splitlines()
    chosen_rows = rows[:1] + [row for i, row in enumerate(rows[1:]) if row.endswith("train") or i % 8 == 0]
    table.write_text("\n".join(chosen_rows) + "\n")
    return frostline.load_data(table, near_copies=False)


def request_for(data: Manifest, strategy: str) -> TrainRequest:
    return TrainRequest(
        backbone=frostline.load_backbone("lite0", size=64),
        data=data,
        strategy=frostline.parse(strategy),
        config=Config(flip="none", deterministic=True, threads=1),
    )


@pytest.mark.parametrize("strategy", ["lp_ft", "top_k(1)", "full(head_init=probe)"])
@pytest.mark.usefixtures("on_processor")
def test_step_zero_scores_what_the_probe_scored(strategy: str, digits: Manifest) -> None:
    request, plan = request_for(digits, strategy), numerics.exact_plan(1)
    known = hyperparameters(request.strategy)
    train, held = request.images("train", Policy("standard")), request.images("test")
    head = Frozen(
        request.backbone, request.backbone.model, request.backbone.cuts[-1], ForwardConfig(plan, 64)
    )
    model = starting_model(request, head, train, Balance("none", train.targets, 10))
    seen = features(head, train)
    solved = probe.logistic(
        seen, train.targets, 10, l2=known.head_init_l2, label_smoothing=known.label_smoothing
    )
    expected = solved.logits(features(head, held))
    assert live_logits(model, held) == pytest.approx(expected, abs=1e-3)

    # And in the mode, and on the pixels, that training uses.
    cut = request.backbone.cut(min(s.cut for s in request.phases()))
    bb.freeze(request.backbone, model, cut, known.bn)
    bb.set_training(request.backbone, model, cut, known.bn)
    pixels = next(train.batches([[(position, 1) for position in range(len(train))]]))
    with torch.no_grad():
        out = model(plan.batch(pixels, train.preprocessing.normalise)).numpy()
    still = metrics.score("accuracy", train.targets, metrics.softmax(solved.logits(seen)))
    awake = metrics.score("accuracy", train.targets, metrics.softmax(out))
    assert awake > still - 0.3
    assert np.abs(out).max() < 3 * np.abs(solved.logits(seen)).max()


def test_features_that_wake_up_under_augmentation_do_not_blow_up_the_logits() -> None:
    """The fault this guards against: folding a per-feature standardisation back into the head."""
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(4), 8)
    seen = rng.normal(size=(32, 40)) + 3 * rng.normal(size=(4, 40))[targets]
    asleep = np.concatenate([seen, 1e-6 * rng.normal(size=(32, 10))], axis=1)
    awake = np.concatenate([seen, rng.normal(size=(32, 10))], axis=1)
    safe = probe.logistic(asleep, targets, 4, l2=1e-2, label_smoothing=0.1)
    assert np.abs(safe.logits(awake) - safe.logits(asleep)).max() < 0.1
    spread = asleep.std(axis=0)
    standardised = probe.logistic(asleep / spread, targets, 4, l2=1e-2, label_smoothing=0.1)
    unsafe = standardised.weight / spread
    assert np.abs((awake - asleep) @ unsafe.T).max() > 100


def test_the_first_epochs_do_not_fall_off_a_cliff(data: Manifest, tmp_path: Path) -> None:
    solved = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "s", deterministic=True)
    run = frostline.train(
        tiny_backbone(), data, "lp_ft", study=tmp_path / "s", deterministic=True, flip="none"
    )
    val = [row["val_accuracy"] for row in run.folder.metrics()]
    assert min(val[:3]) > solved.val_accuracy - 0.25
    assert run.val_accuracy >= solved.val_accuracy - 0.05


def test_the_solution_goes_into_a_linear_layer_unchanged() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(3, 5)), rng.normal(size=3)
    layer = linear_head(torch.from_numpy(weight).float(), torch.from_numpy(bias).float())
    x = rng.normal(size=(4, 5))
    expected = probe.Solution(weight, bias, 1.0).logits(x)
    assert layer(torch.from_numpy(x).float()).detach().numpy() == pytest.approx(expected, abs=1e-5)


def test_a_cosine_head_learns_at_the_rate_of_a_linear_one() -> None:
    """Its vectors had entries of about 1, which steps of 0.003 hardly turn: 25 % right here, not 90 %."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(400) % 10
    features = 2 * torch.randn(1, 1280, generator=generator).abs()  # that all images have in common
    features = features + 0.15 * torch.randn(10, 1280, generator=generator)[targets]
    features = (features + 0.5 * torch.randn(400, 1280, generator=generator)).relu()
    for kind in ("linear", "cosine"):
        head = build_head(kind, 1280, 10, seed=0)
        optimizer = torch.optim.AdamW(head.parameters(), lr=0.003)
        for _ in range(40):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(head(features[:200]), targets[:200]).backward()
            optimizer.step()
        assert (head(features[200:]).argmax(1) == targets[200:]).float().mean() > 0.8, kind
