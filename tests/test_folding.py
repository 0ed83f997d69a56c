"""BatchNorm folded into the convolution before it answers the same, or is not folded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

import frostline
from frostline import models as bb
from frostline.data import Manifest
from frostline.feature_extraction import ForwardConfig, Frozen, features
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone, same_padding
from frostline.models.batchnorm_folding import pairs
from frostline.system import numerics
from tiny import PREPROCESSING, tiny_backbone, tiny_model, write_table

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
FAST = {"threads": 1, "flip": "none"}


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images"), near_copies=False)


def test_it_is_the_same_function_at_every_cut() -> None:
    backbone = tiny_backbone()
    names = bb.foldable(backbone)
    assert names == [("stem.conv", "stem.bn")] + [(f"blocks.{i}.conv", f"blocks.{i}.bn") for i in range(3)]
    folded = bb.Folded(backbone.model, names)
    for cut in backbone.cuts[1:]:
        expected = bb.prefix(backbone, backbone.model, cut)(IMAGES)
        with torch.no_grad(), folded.skipping():
            outputs = bb.prefix(backbone, folded.model, cut)(IMAGES)
        assert torch.allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    unskipped = bb.prefix(backbone, folded.model, backbone.cuts[-1])(IMAGES)
    assert not torch.allclose(unskipped, expected, rtol=1e-2, atol=1e-2)  # the layers are still there


def test_the_model_that_is_folded_stays_as_it_was() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bb.Folded(model, bb.foldable(tiny_backbone()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.stem.conv.bias is None


class _Reused(nn.Module):
    """The convolution's own output is used beside the normalised one: folding would change it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        return self.head((self.bn(z) + z).mean((2, 3)))


class _Twice(nn.Module):
    """One BatchNorm layer serves two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.two(self.bn(self.one(x)))).mean((2, 3)))


def loaded(model: nn.Module) -> Backbone:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.running_mean)
    return frostline.load_backbone(model.eval(), preprocessing=PREPROCESSING)


@pytest.mark.parametrize("network", [_Reused, _Twice])
def test_what_cannot_be_folded_is_not(network: type[nn.Module]) -> None:
    assert bb.foldable(loaded(network())) == []


class _Padded(nn.Module):
    """Two convolutions that pad as TensorFlow does, the larger one first, and one that needs no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.large = Conv2dSame(3, 8, 5, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.small = Conv2dSame(8, 8, 3, stride=2, groups=8)
        self.whole = Conv2dSame(8, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.whole(self.small(self.norm(self.large(x)).relu()))
        return output


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_in_memory_used_again_gives_the_same_bytes(
    layout: torch.memory_format, dtype: torch.dtype
) -> None:
    model = _Padded().eval().to(memory_format=layout)
    folded = bb.Folded(model, []).model  # nothing to fold, so that only the padding differs
    batches = torch.randn(3, 4, 3, 18, 22, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for images in (*batches, batches[0, :, :, :10, :14], batches[0]):
            x = images.contiguous(memory_format=layout)
            expected, outputs = model(x), folded(x)
            assert torch.equal(outputs, expected)
            assert outputs.stride() == expected.stride()
    assert len(folded.large.memory._free) == 1  # one piece of memory for all of them
    assert folded.large.memory is folded.small.memory


def test_who_comes_while_padding_memory_is_lent_gets_other_memory() -> None:
    memory = same_padding._Memory()
    with memory.lent(16) as first, memory.lent(16) as second:
        assert first.data_ptr() != second.data_ptr()
    with memory.lent(8) as again:
        assert again.data_ptr() in (first.data_ptr(), second.data_ptr())


def test_a_network_that_may_learn_pads_as_ever() -> None:
    model = bb.Folded(_Padded(), []).model
    x = torch.randn(2, 3, 18, 22, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None
    assert not model.large.memory._free


def test_only_what_feeds_a_norm_directly_is_a_pair() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
    )
    assert pairs(model.eval(), IMAGES) == [("3", "4")]


def test_folded_rows_are_rows_of_their_own(data: Manifest) -> None:
    backbone = tiny_backbone()
    images = Images(data, data.subset("train"), PREPROCESSING)
    plan = numerics.exact_plan(1)
    plain = Frozen(backbone, backbone.model, backbone.cuts[-1], ForwardConfig(plan, 8))
    way = ForwardConfig(plan, 8, tuple(bb.foldable(backbone)))
    folded = Frozen(backbone, backbone.model, backbone.cuts[-1], way)
    assert np.allclose(features(folded, images), features(plain, images), rtol=1e-3, atol=1e-4)
    assert way.describe() != ForwardConfig(plan, 8).describe()


def test_a_run_that_folds_is_planned_once_and_resumed_so(data: Manifest, tmp_path: Path) -> None:
    first = frostline.train(tiny_backbone(), data, "top_k(1)", study=tmp_path / "a", **FAST)
    frozen = first.numeric_plan["frozen"]
    assert frozen["folded"] in ([], [list(pair) for pair in bb.foldable(tiny_backbone())])
    again = frostline.train(tiny_backbone(), data, "top_k(1)", study=tmp_path / "b", **FAST)
    assert again.numeric_plan["frozen"]["folded"] == frozen["folded"]
    assert first.folder.weights.read_bytes() == again.folder.weights.read_bytes()
    assert (
        frostline.train(
            tiny_backbone(), data, "top_k(1)", study=tmp_path / "c", deterministic=True, **FAST
        ).numeric_plan["frozen"]["folded"]
        == []
    )
