"""Classifiers of the transformers library, made from configurations: cut, trained and saved as their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import frostline
from frostline.errors import ModelError
from frostline.models import prefix, suffix
from frostline.models.zoo.hugging_face import processor_settings
from tiny import write_folder

pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SIDE = 32
VIT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
PATCHES = {"image_size": SIDE, "patch_size": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "ViT": {**VIT, **PATCHES},
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 8, 16], "depths": [1, 1, 1], "layer_type": "basic"},
    "ConvNext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "Swin": {"image_size": SIDE, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2]},
    "Dinov2": {**VIT, **PATCHES},
    "DeiT": {**VIT, **PATCHES},
    "MobileNetV2": {"depth_multiplier": 0.25},
}
BIT = {"size": {"shortest_edge": 37}, "crop_size": {"height": SIDE, "width": SIDE}}


def save(folder: Path, kind: str = "ViT", processor: str = "ViT", **settings: Any) -> Path:
    """Write a small model with random weights and its image processor, as `save_pretrained` does."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config = getattr(transformers, f"{kind}Config")(
        **CONFIGS[kind], num_labels=5, architectures=[f"{kind}ForImageClassification"]
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = transformers.AutoModelForImageClassification.from_config(config)
    model.save_pretrained(folder)
    settings = settings or {"size": {"height": SIDE, "width": SIDE}}
    getattr(transformers, f"{processor}ImageProcessor")(**settings).save_pretrained(folder)
    return folder


def pixels(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_cut_equals_the_whole_and_the_whole_equals_their_model(tmp_path: Path, kind: str) -> None:
    import transformers

    folder = save(tmp_path / "m", kind)
    backbone = frostline.load_backbone(str(folder))
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    assert list(backbone.model.state_dict()) == list(theirs.state_dict())
    assert len(backbone.cuts) >= 4
    with torch.no_grad():
        expected = theirs(pixel_values=pixels()).logits
        assert torch.equal(backbone.model(pixels()), expected)
        for cut in backbone.cuts:
            z = prefix(backbone, backbone.model, cut)(pixels())
            with suffix(backbone, backbone.model, cut) as run:
                assert torch.allclose(run(z), expected, atol=1e-6), cut


@pytest.mark.parametrize(
    ("processor", "settings"),
    [
        ("ViT", {"size": {"height": SIDE, "width": SIDE}}),
        ("ConvNext", {"size": {"shortest_edge": SIDE}, "crop_pct": 0.875}),
        ("ConvNext", {"size": {"shortest_edge": 384}}),
        ("Bit", BIT),
        ("Bit", {**BIT, "do_normalize": False}),
        ("DeiT", {"size": {"height": 36, "width": 36}, "crop_size": {"height": SIDE, "width": SIDE}}),
    ],
)
def test_preprocessing_is_the_image_processors_own(
    tmp_path: Path, processor: str, settings: dict[str, Any]
) -> None:
    import transformers

    folder = save(tmp_path, "ResNet", processor, **settings)
    backbone = frostline.load_backbone(str(folder))
    theirs = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    rng = np.random.default_rng(0)
    for height, width in ((61, 88), (90, 47), (33, 33)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        expected = theirs(image, return_tensors="pt")["pixel_values"][0]
        pixels = backbone.preprocessing.evaluation()(image)
        assert torch.allclose(pixels, torch.as_tensor(expected), atol=1e-5)


def test_a_processor_is_written_where_one_makes_the_same_pixels(tmp_path: Path) -> None:
    """transformers can crop and squash; nothing of theirs pads after resizing, with the mean."""
    seen = frostline.load_backbone(str(save(tmp_path, "ResNet", "Bit", **BIT))).preprocessing
    crop, squash, pad = (processor_settings(seen.with_resize(one)) for one in ("crop", "squash", "pad"))
    assert crop is not None
    assert crop["image_processor_type"] == "BitImageProcessor"
    assert squash is not None
    assert (squash["image_processor_type"], squash["do_center_crop"]) == ("ViTImageProcessor", False)
    assert pad is None


@pytest.mark.parametrize(
    ("processor", "settings", "words"),
    [
        ("EfficientNet", {"size": {"height": SIDE, "width": SIDE}}, "other pixels"),
        ("ViT", {"size": {"height": SIDE, "width": 40}}, "not square"),
        ("ViT", {"do_resize": False}, "does not resize"),
        ("Bit", {**BIT, "crop_size": {"height": 48, "width": 48}}, "out of fewer"),
    ],
)
def test_a_processor_that_cannot_be_repeated_is_refused(
    tmp_path: Path, processor: str, settings: dict[str, Any], words: str
) -> None:
    folder = save(tmp_path, "ResNet", processor, **settings)
    with pytest.raises(ModelError, match=words) as refusal:
        frostline.load_backbone(str(folder))
    assert "preprocessing=Preprocessing" in str(refusal.value)


def test_trained_predicted_and_saved_as_their_own(tmp_path: Path) -> None:
    import transformers

    folder = save(tmp_path / "vit")
    data = frostline.load_data(write_folder(tmp_path / "data", per_class=12))
    backbone = frostline.load_backbone(str(folder))
    run = frostline.train(backbone, data, "top_k(1)", study=tmp_path / "study")
    frozen = [name for name, stage in backbone.stage_of(backbone.model).items() if stage < 3]
    model = frostline.load_model(tmp_path / "study", run=run.run)
    before, after = backbone.model.state_dict(), model.state_dict()
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert len(frostline.predict(tmp_path / "study", tmp_path / "data")) == 36

    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"]
    reloaded = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "saved", num_labels=3
    ).eval()
    with torch.no_grad():
        assert torch.equal(reloaded(pixels()).logits, model(pixels()))


def test_rows_are_found_again_and_do_not_depend_on_the_folders_name(tmp_path: Path) -> None:
    from frostline.models import prefix_digest

    digests = set()
    for name in ("one", "other"):
        backbone = frostline.load_backbone(str(save(tmp_path / name)))
        cut = backbone.cuts[-1]
        digests.add(prefix_digest(backbone, backbone.adapt(3), cut))
    assert len(digests) == 1


def test_random_weights_are_the_same_each_time_and_others_by_seed(tmp_path: Path) -> None:
    folder = str(save(tmp_path))
    one, other = (frostline.load_backbone(folder, random=True) for _ in range(2))
    assert one.digest == other.digest
    assert one.digest != frostline.load_backbone(folder).digest
    key = "vit.embeddings.cls_token"
    fresh = [one.adapt(3, seed=seed, pretrained=False).state_dict()[key] for seed in (0, 1)]
    assert not torch.equal(*fresh)


def test_a_checkpoint_without_a_classifier_gets_a_seeded_one_and_a_torn_one_is_refused(
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path)
    file = folder / "model.safetensors"
    weights = load_file(file)
    body = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    save_file(body, file, {"format": "pt"})
    assert frostline.load_backbone(str(folder)).digest == frostline.load_backbone(str(folder)).digest
    save_file({name: v for name, v in body.items() if "layernorm" not in name}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack \d+ tensor"):
        frostline.load_backbone(str(folder))


def test_nothing_is_unpickled_and_no_code_of_a_repository_runs(tmp_path: Path) -> None:
    folder = save(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        frostline.load_backbone(str(folder))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('this ran')\n")
    with pytest.raises(ModelError, match="cannot be loaded"):
        frostline.load_backbone(str(folder))


def test_a_name_is_found_in_the_hubs_cache_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    commit = "0" * 40
    cache = tmp_path / "models--someone--tiny"
    save(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    backbone = frostline.load_backbone("hf/someone/tiny")
    assert backbone.name == "hf/someone/tiny"
    with pytest.raises(ModelError, match="no hub is contacted, since HF_HUB_OFFLINE is set"):
        frostline.load_backbone("hf/someone/other")


def test_a_folder_for_timm_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    with pytest.raises(ModelError, match="no model_type"):
        frostline.load_backbone(str(tmp_path))
