"""Similarity to what a network was trained on: bounded, ordered, steady, and honest about what it knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import frostline
from frostline.data import Manifest
from frostline.diagnostics import Similarity, similarity
from frostline.diagnostics.activation_statistics import blocks_of
from frostline.diagnostics.pretraining_similarity import _jackknife
from frostline.errors import DataError
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone
from frostline.system import numerics
from tiny import PREPROCESSING, tiny_backbone, tiny_model, write_table

PLAN = numerics.exact_plan(1)


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=40), near_copies=False, val_size=0.0)


def images_of(data: Manifest, count: int | None = None) -> Images:
    return Images(data, data.subset("train")[:count], PREPROCESSING)


def trained_on(images: Images) -> Backbone:
    """A network whose BatchNorm layers keep exactly what these images make of it."""
    model = tiny_model()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    pixels = torch.stack([images[(position, 0)] for position in range(len(images))])
    for norm in norms:  # from the input up: what a layer sees follows from the layers below
        for other in norms:
            other.training = other is norm
        norm.momentum = 1.0
        with torch.no_grad():
            model(images.preprocessing.normalise(pixels))
        norm.momentum = 0.1
    return frostline.load_backbone(model.eval(), preprocessing=PREPROCESSING)


class Inverted(Images):
    """The same images as their negatives."""

    def _pixels(self, item: tuple[int, int], keep: bool) -> Tensor:
        return 255 - super()._pixels(item, keep)


def test_what_it_was_trained_on_is_nearest(data: Manifest) -> None:
    images = images_of(data)
    backbone = trained_on(images)
    own = similarity(backbone, images, PLAN)
    other = similarity(backbone, Inverted(data, data.subset("train"), PREPROCESSING), PLAN)
    assert own.value > 0.97
    assert own.low <= own.value <= own.high <= 1.0
    assert 0.0 <= other.value < own.value - 0.1
    assert other.high < own.low
    assert own.basis == "batch statistics"
    assert own.proven
    assert list(own.by_stage) == [stage.name for stage in backbone.stages[:-1]]
    assert all(0.0 <= value <= 1.0 for value in own.by_stage.values())


def test_few_images_agree_with_many(data: Manifest) -> None:
    backbone = tiny_backbone()
    whole = similarity(backbone, images_of(data), PLAN)
    order = np.random.default_rng(0).permutation(len(data.subset("train")))
    samples = [data.subset("train")[i] for i in order[:30]]
    few = similarity(backbone, Images(data, samples, PREPROCESSING), PLAN)
    assert few.low <= whole.value <= few.high
    assert few.high - few.low > whole.high - whole.low
    assert few.n_images == 30


def test_it_is_a_function_of_the_images_alone(data: Manifest) -> None:
    backbone = tiny_backbone()
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    once = similarity(backbone, images_of(data), PLAN)
    torch.manual_seed(7)
    assert similarity(backbone, images_of(data), PLAN) == once
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in backbone.model.modules())


class Plain(nn.Module):
    """Convolutions and ReLU, no norm."""

    def __init__(self, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        layers = [layer for c in ((3, 12), (12, 24), (24, 24)) for layer in (nn.Conv2d(*c, 3, 1, 1), act())]
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(x)).flatten(1))


@pytest.mark.parametrize(("act", "proven"), [(nn.ReLU, True), (nn.GELU, False)])
def test_a_network_without_batchnorm_is_asked_for_its_channels(
    act: type[nn.Module], proven: bool, data: Manifest
) -> None:
    torch.manual_seed(0)
    backbone = frostline.load_backbone(Plain(act).eval(), preprocessing=PREPROCESSING)
    score = similarity(backbone, images_of(data), PLAN)
    assert score.basis == "use of channels"
    assert score.proven is proven
    assert 0.0 < score.low <= score.value <= score.high <= 1.0


def test_idle_channels_make_images_foreign(data: Manifest) -> None:
    torch.manual_seed(0)
    model = Plain().eval()
    scores: list[Similarity] = []
    for idle in (0, 8):
        with torch.no_grad():
            model.blocks[2].bias[:idle] = -100.0
        backbone = frostline.load_backbone(model, preprocessing=PREPROCESSING)
        scores.append(similarity(backbone, images_of(data), PLAN))
    assert scores[1].high < scores[0].low


def test_a_network_that_says_nothing_is_told_so(data: Manifest) -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).mean((2, 3)))

    backbone = frostline.load_backbone(Bare().eval(), preprocessing=PREPROCESSING)
    with pytest.raises(DataError, match="neither BatchNorm layers nor activation modules"):
        similarity(backbone, images_of(data), PLAN)


def test_too_few_images_are_told_so(data: Manifest) -> None:
    with pytest.raises(DataError, match="8 images or more, found 5"):
        similarity(tiny_backbone(), images_of(data, 5), PLAN)


def test_units_stay_in_one_block() -> None:
    units = np.repeat(np.arange(30), 4)
    blocks = blocks_of(120, units.tolist())
    assert all(len(set(blocks[units == unit])) == 1 for unit in range(30))
    assert set(np.bincount(blocks)) == {4, 8}
    assert len(set(blocks_of(50, None))) == 20
    assert len(set(blocks_of(12, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]))) == 4
    assert len(set(blocks_of(12, [5] * 12))) == 1


def test_the_jackknife_takes_off_the_bias_of_few() -> None:
    """The plain variance of n numbers is too small by its nth part; the corrected one is right."""
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(400):
        x = rng.normal(scale=0.5, size=20)
        parts = np.array([np.delete(x, i).var() for i in range(20)])
        estimates.append(_jackknife(x.var(), parts, 20))
    values, lows, highs = map(np.array, zip(*estimates, strict=True))
    assert values.mean() == pytest.approx(0.25, abs=0.01)
    assert ((lows <= 0.25) & (highs >= 0.25)).mean() > 0.85
