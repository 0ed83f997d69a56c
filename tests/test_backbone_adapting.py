"""`adapt` answers a plain copy with a new head; the preprocessing is the checkpoint's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torch import nn

from backbone_examples import FAMILIES, PLAIN, Odd, example, images
from frostline.errors import ModelError
from frostline.models import Preprocessing, assemble, weights_digest


@pytest.mark.parametrize("family", FAMILIES)
def test_the_copy_answers_as_many_classes_and_keeps_its_keys(family: str) -> None:
    backbone = example(family)
    digest, state = weights_digest(backbone.model), torch.random.get_rng_state()
    model, again = backbone.adapt(11, seed=4), backbone.adapt(11, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model(images(2)).shape == (2, 11)
    own = backbone.classifier.owns
    keys = [key for key in model.state_dict() if not own(key)]
    assert keys == [key for key in backbone.model.state_dict() if not own(key)]
    assert all(torch.equal(backbone.model.state_dict()[key], model.state_dict()[key]) for key in keys)
    assert weights_digest(model) == weights_digest(again) != weights_digest(backbone.adapt(11, seed=5))
    assert weights_digest(backbone.model) == digest == backbone.digest


def test_logits_are_linear_in_the_features_also_where_the_head_pools() -> None:
    backbone = example("squeezenet")
    assert backbone.head == "classifier"
    assert backbone.feature_width == 512
    layer = nn.Linear(512, 3)
    model = backbone.adapt(3, head=layer)
    with torch.no_grad():
        pooled = backbone.model.features(images(2)).mean((2, 3))  # type: ignore[operator]
        torch.testing.assert_close(model(images(2)), layer(pooled))


def test_fresh_weights_differ_and_are_refused_where_they_cannot_be_made() -> None:
    backbone = example("sequential")
    fresh, again = (backbone.adapt(4, pretrained=False, seed=1) for _ in range(2))
    assert weights_digest(fresh) == weights_digest(again)
    assert not torch.equal(fresh.state_dict()["0.weight"], backbone.model.state_dict()["0.weight"])
    with pytest.raises(ModelError, match=r"the model itself \(Odd\)"):
        example("odd").adapt(4, pretrained=False)


def test_models_without_a_classifier_are_refused() -> None:
    for model in (nn.Conv2d(3, 4, 3), nn.Sequential(nn.Flatten(), nn.ReLU())):
        with pytest.raises(ModelError, match="classifier"):
            assemble(model, PLAIN, name="none", source={})
    with pytest.raises(ModelError, match="96 × 96"):
        assemble(example("distilled").model, PLAIN.with_size(96), name="vit", source={})


def test_loading_leaves_the_users_model_as_it_was() -> None:
    model = Odd()
    model.entry.weight.requires_grad_(False)
    digest = weights_digest(model)
    assemble(model, PLAIN, name="odd", source={})
    assert weights_digest(model) == digest
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["entry.weight"]


@given(
    st.integers(20, 90),
    st.integers(20, 90),
    st.sampled_from(("bicubic", "bilinear", "lanczos")),
    st.sampled_from((0.875, 0.882, 0.95, 1.0)),
    st.sampled_from(("center", "squash", "border")),
)
@settings(max_examples=40, deadline=None)
def test_preprocessing_is_timms_own(wide: int, high: int, how: str, share: float, mode: str) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = np.random.default_rng(wide * high).integers(0, 256, (high, wide, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    own = Preprocessing(32, share, how, mean, std, mode)
    theirs = create_transform(
        (3, 32, 32), is_training=False, interpolation=how, crop_pct=share, crop_mode=mode, mean=mean, std=std
    )
    own_pixels = own.evaluation()(picture)
    assert own_pixels.dtype == torch.float32
    assert torch.equal(own_pixels, theirs(picture))
    assert own.crop(picture).dtype == torch.uint8
    assert torch.equal(own.normalise(own.crop(picture)[None])[0], own_pixels)


def test_preprocessing_is_plain_data() -> None:
    own = Preprocessing(224, 0.875, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert Preprocessing.from_dict(own.as_dict()) == own
    assert own.with_size(96).digest() != own.digest() == own.with_size(96).with_size(224).digest()
    with pytest.raises(ModelError, match=r"size is 0.*crop_pct is 2.*'nearby'"):
        Preprocessing(0, 2, "nearby", (0.5,) * 3, (0.5,) * 3)
