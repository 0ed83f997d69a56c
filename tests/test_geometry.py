"""How pictures become square: what is cut away, and that training, prediction and export agree on it."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.model_selection import KFold
from timm.data import create_transform, resolve_data_config
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as tv

import frostline
from frostline.cli.main import cli
from frostline.cli.output import run_text
from frostline.data import Manifest, cut_away
from frostline.data.pixels import cropping, decoding, random_rotation
from frostline.errors import UsageError
from frostline.exports import onnx_and_torch
from frostline.exports.exported_model import load_exported_model
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import ForwardConfig, Frozen
from frostline.feature_extraction.augmentation import Policy, SeededView, Transform
from frostline.feature_extraction.image_batches import MIRRORED, TURNED, Images
from frostline.integrations.sklearn import FrostlineClassifier
from frostline.models import RESIZES, Preprocessing
from frostline.studies.predicting_runs import SAME, setting_difference, trained_runs
from frostline.studies.study_folder import Study
from frostline.system import numerics
from frostline.system.seeds import derive
from frostline.training import Run
from frostline.training.techniques import flip_safety
from test_dataset_digest_cache import settled
from tiny import tiny_backbone, write_folder


@pytest.mark.parametrize(
    ("size", "resize", "crop_pct", "lost"),
    [
        ((200, 200), "crop", 1.0, 0.0),
        ((200, 200), "center", 0.875, 1 - 0.875**2),
        ((300, 100), "crop", 1.0, 2 / 3),
        ((100, 300), "floor", 0.5, 1 - 0.25 / 3),
        ((300, 100), "squash", 1.0, 0.0),
        ((300, 100), "squash", 0.875, 1 - 0.875**2),
        ((300, 100), "pad", 1.0, 0.0),
        ((300, 100), "border", 0.9, 0.1),  # the ends of the long side alone
        ((110, 100), "border", 0.9, 1 - 0.9 * 0.99),
    ],
)
def test_the_share_that_is_cut_away(size: tuple[int, int], resize: str, crop_pct: float, lost: float) -> None:
    assert cropping.share_cut_away(size, resize, crop_pct) == pytest.approx(lost)
    seen = cut_away([size], resize, crop_pct)
    assert seen.mean == seen.most == pytest.approx(lost)


def test_a_note_says_how_many_how_much_and_what_to_do() -> None:
    sizes = {"a": (640, 426), "b": (300, 100), "c": (100, 200), "d": (100, 100), "e": (0, 0)}
    seen = cut_away(sizes)
    assert (seen.images, seen.long, seen.worst) == (4, 2, "b")
    assert seen.mean_long == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert "2 of 4 image(s)" in seen.note
    assert "removes 58.3 % of their area or more, of b 66.7 %" in seen.note
    assert "--resize squash or pad" in seen.note
    assert "or more" not in cut_away(sizes, "center", 0.9).note
    assert cut_away(sizes, "squash").note == cut_away(sizes, "pad").note == ""
    assert cut_away([(640, 426), (3000, 2000)]).note == ""  # what cameras give
    assert cut_away([]).note == ""
    with pytest.raises(UsageError, match="Did you mean 'squash'"):
        cut_away([(1, 1)], "sqash")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_header_gives_the_size_that_the_upright_picture_has(kind: str, orientation: int) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    Image.new("RGB", (30, 20)).save(file, kind, exif=exif)
    picture = decoding.picture(file.getvalue())
    assert picture.image is not None
    assert decoding.header(file).size == picture.image.size


def wide_folder(root: Path, *, per_class: int = 12, seed: int = 0) -> Path:
    """Write noisy pictures of 60 × 20 pixels, good ones and ones with a bright defect at their right edge."""
    rng = np.random.default_rng(seed)
    for label in ("defect", "good"):
        (root / label).mkdir(parents=True)
        for index in range(per_class):
            pixels = rng.integers(0, 80, size=(20, 60, 3))
            if label == "defect":
                pixels[:, 48:58] += 160
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{index:03}.png")
    return root


def test_sizes_come_with_the_images_and_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = frostline.load_data(settled(wide_folder(tmp_path / "photos")))
    assert set(data.sizes.values()) == {(60, 20)}
    assert len(data.sizes) == len(data.samples)
    assert sum("24 of 24 image(s) are wider or taller than 1.5:1" in note for note in data.notes) == 1
    assert not any("1.5:1" in note for note in data.framed("pad").notes)
    deterministic = data.framed("center", 0.5)
    assert sum("removes 91.7 %" in note for note in deterministic.notes) == 1
    assert sum("1.5:1" in note for note in deterministic.framed("center", 0.5).notes) == 1

    def no_second_look(*_: object) -> None:
        raise AssertionError("A header was read again.")

    monkeypatch.setattr(decoding, "header", no_second_look)
    monkeypatch.setattr(decoding, "picture_small", no_second_look)
    names = {sample.digest for sample in data.samples}
    again = frostline.load_data(tmp_path / "photos")
    assert again.sizes == data.sizes
    assert set(again.sizes) == names


# --- one geometry: pixels --------------------------------------------------------------------------------

CHECKPOINT = Preprocessing(
    size=32,
    crop_pct=0.875,
    interpolation="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def across(width: int, height: int) -> Image.Image:
    """A picture whose red says how far right a pixel lies, and whose green how far down: 0 to 255."""
    red = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    pixels = np.stack([red, green, np.full((height, width), 200.0)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def view(image: Image.Image, policy: Policy, seen: Preprocessing, number: int = 1) -> torch.Tensor:
    return SeededView(Transform(policy, seen), 0)(image, "digest", number)


def test_a_crop_is_what_it_was_to_the_bit_and_by_name(tmp_path: Path) -> None:
    """Rows that an earlier frostline kept are found, and hold what would be computed today."""
    seen, image = CHECKPOINT.with_resize("crop"), across(90, 30)
    assert seen is CHECKPOINT is CHECKPOINT.with_resize(None)
    assert set(seen.as_dict()) == {"size", "crop_pct", "interpolation", "mean", "std", "crop_mode"}
    timms = create_transform((3, 32, 32), mean=seen.mean, std=seen.std, crop_pct=0.875, use_prefetcher=True)
    assert torch.equal(seen.crop(image), torch.as_tensor(timms(image)))
    plain = tv.Compose(
        [
            tv.RandomResizedCrop(32, scale=(0.35, 1.0), interpolation=InterpolationMode.BILINEAR),
            tv.RandomHorizontalFlip(),
            tv.PILToTensor(),
        ]
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive(0, "view", "digest", 1))
        assert torch.equal(view(image, Policy("standard", "horizontal"), seen), plain(image))
    data = frostline.load_data(write_folder(tmp_path, classes=2, per_class=5))
    images = Images(data, data.subset("train"), seen, policy=Policy("standard", "horizontal"), seed=7)
    assert images.pixels_name((0, 1)) == "standard 1 crop 0.35 flip horizontal  seed 7 view 1"
    assert images.pixels_name((0, 0)) == "0"
    assert images.pixels_name((0, MIRRORED)) == "mirrored"


def test_every_other_geometry_has_rows_of_its_own(tmp_path: Path) -> None:
    data = frostline.load_data(write_folder(tmp_path, classes=2, per_class=5))
    names, shelves = set(), set()
    policies = [
        Policy("standard"),
        Policy("standard", min_crop=0.5),
        Policy("standard", rotate="90"),
        Policy("standard", rotate="any"),
    ]
    for resize in RESIZES:
        seen = CHECKPOINT.with_resize(resize)
        shelves.add(seen.digest())
        for policy in policies:
            names.add(f"{Images(data, data.samples, seen, policy=policy).view_name(1)} {seen.digest()}")
    assert (len(shelves), len(names)) == (3, 12)
    # A checkpoint that squashes by itself: its augmented views were crops of the unsquashed picture once.
    own = replace(CHECKPOINT, crop_mode="squash")
    assert "framed" in Images(data, data.samples, own, policy=Policy("standard")).view_name(1)
    assert Policy("standard", min_crop=0.35).describe(CHECKPOINT) == Policy("standard").describe(CHECKPOINT)


@pytest.mark.parametrize("size", [(90, 30), (30, 90), (64, 64), (1000, 2), (3, 400)])
@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_squash_and_pad_show_every_picture_whole(resize: str, size: tuple[int, int]) -> None:
    seen = CHECKPOINT.with_resize(resize)
    pixels = seen.crop(across(*size))
    assert pixels.shape == (3, 32, 32)
    wide, tall = seen.frame(*size)
    left, top = (32 - wide) // 2, (32 - tall) // 2
    inside = pixels[:, top : top + tall, left : left + wide]
    if wide > 2:
        assert inside[0].min() < 30
        assert inside[0].max() > 225
    if tall > 2:
        assert inside[1].min() < 30
        assert inside[1].max() > 225
    filled = pixels.clone()
    filled[:, top : top + tall, left : left + wide] = torch.tensor(seen.fill).view(3, 1, 1)
    assert (filled == torch.tensor(seen.fill).view(3, 1, 1)).all()  # the mean, and nothing else
    assert seen.normalise(filled).abs().max() < 0.5 / 255 / 0.224 + 1e-6  # neutral: less than half a level


def test_a_crop_named_where_the_checkpoint_squashes_is_one() -> None:
    own = replace(CHECKPOINT, crop_mode="squash", crop_pct=1.0)
    assert own.with_resize("squash") == own
    assert own.with_resize("crop").crop_mode == "center"
    assert replace(CHECKPOINT, crop_mode="squash").with_resize("squash").crop_pct == 1.0
    with pytest.raises(UsageError, match=r"resize must be one of crop, squash, pad.*Did you mean 'squash'"):
        own.with_resize("squahs")


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_training_views_stretch_things_as_the_evaluation_does(resize: str) -> None:
    """Of a 3:1 picture, a view shows width and height in the evaluation's proportion, within the jitter."""
    image, seen = across(600, 200), CHECKPOINT.with_resize(resize)
    wide, tall = seen.frame(600, 200)
    left, top = (32 - wide) // 2, (32 - tall) // 2
    policy = Policy("standard", min_crop=0.3)
    for number in range(1, 25):
        pixels = view(image, policy, seen, number).float()
        part = pixels[:, top : top + tall, left : left + wide]
        spread = [float(part[axis].max() - part[axis].min()) / 255 for axis in (0, 1)]  # of width, of height
        assert 0.25 < spread[0] * spread[1] * wide * tall / ((wide - 1) * (tall - 1)) < 1.1
        assert 0.7 < spread[0] / spread[1] < 1.45
        outside = pixels.clone()
        outside[:, top : top + tall, left : left + wide] = torch.tensor(seen.fill).view(3, 1, 1)
        assert (outside == torch.tensor(seen.fill).view(3, 1, 1)).all()  # no crop is spent on padding
    whole = view(image, Policy("light", min_crop=1.0), seen)
    assert (whole.float() - seen.crop(image).float()).abs().mean() < 4


def test_min_crop_is_the_least_that_a_view_shows() -> None:
    image, least = across(100, 100), []
    for share in (None, 0.9):
        shown = []
        for number in range(1, 40):
            pixels = view(image, Policy("standard", min_crop=share), CHECKPOINT, number).float()
            sides = [float(pixels[axis].max() - pixels[axis].min()) / 255 for axis in (0, 1)]
            shown.append(sides[0] * sides[1])
        least.append(min(shown))
    assert least[0] < 0.5
    assert least[1] > 0.8
    for wrong in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(UsageError, match="expected a share of a picture's area"):
            Policy("standard", min_crop=wrong)
    with pytest.raises(UsageError, match="The augmentation none takes no random crops"):
        Policy("none", min_crop=0.5)


# --- rotation --------------------------------------------------------------------------------------------


def test_quarter_turns_are_the_four_and_lose_no_pixel() -> None:
    image = across(32, 32)
    original = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    turned = [torch.rot90(original, k, dims=(1, 2)) for k in range(4)]
    seen = replace(CHECKPOINT, crop_pct=1.0)
    drawn = [view(image, Policy("none", rotate="90"), seen, number) for number in range(1, 30)]
    which = {next(k for k in range(4) if torch.equal(one, turned[k])) for one in drawn}
    assert which == {0, 1, 2, 3}
    own = Transform(Policy("custom", rotate="90"), seen, lambda image: image)  # after a person's own, too
    mine = [SeededView(own, 0)(image, "digest", number) for number in range(1, 9)]
    assert all(torch.equal(one, two) for one, two in zip(mine, drawn, strict=False))


@pytest.mark.parametrize("size", [(40, 40), (90, 30), (7, 50), (2, 300)])
def test_no_angle_shows_an_empty_corner(size: tuple[int, int]) -> None:
    """A picture of one colour stays that, and no other one takes a value that it has not."""
    flat = Image.new("RGB", size, (180, 60, 20))
    for angle in (0.0, 1.0, 30.0, 45.0, 89.9, 137.0, 300.0):
        after = random_rotation.turned(flat, angle)
        assert after.size == size
        assert (np.asarray(after) == (180, 60, 20)).all()
    assert np.array_equal(np.asarray(random_rotation.turned(across(*size), 0.0)), np.asarray(across(*size)))


def test_any_angle_turns_about_the_middle_and_shrinks_no_more_than_is_seen() -> None:
    image = across(400, 400)
    middle = np.asarray(random_rotation.turned(image, 45.0))[200, 200]
    assert np.abs(middle.astype(int) - np.asarray(image)[200, 200]).max() <= 2
    half = np.asarray(random_rotation.turned(image, 180.0)).astype(int)
    assert np.abs(half - np.asarray(image)[::-1, ::-1].astype(int)).max() <= 3
    torch.manual_seed(0)
    assert random_rotation.AnyAngle(150.0)(image, torch.Generator()).size == (200, 200)
    assert random_rotation.AnyAngle(201.0)(image, torch.Generator()).size == (400, 400)


@pytest.mark.parametrize("size", [(90, 60), (40, 40), (200, 9), (3, 130), (33, 77)])
def test_pieces_make_the_same_picture(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    for angle in (0.5, 30.0, 45.0, 91.0, 137.0, 200.0, 300.0, 359.0):
        monkeypatch.undo()
        whole = np.asarray(random_rotation.turned(image, angle)).astype(int)
        monkeypatch.setattr(random_rotation, "MOST_CANVAS_PIXELS", 0)
        monkeypatch.setattr(random_rotation, "PIECE_PIXELS", 32)
        assert np.abs(np.asarray(random_rotation.turned(image, angle)).astype(int) - whole).max() <= 1


def test_a_long_strip_is_turned_in_little_memory() -> None:
    """The padded canvas of 8,000 × 40 pixels took 200 MB, and several copies of that."""
    strip = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 8000, 3), dtype=np.uint8))
    tracemalloc.start()
    try:
        after = random_rotation.turned(strip, 67.0)
        most_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert after.size == strip.size
    assert most_bytes < 16_000_000


def test_who_has_an_up_is_told() -> None:
    rng = np.random.default_rng(0)
    folds = list(KFold(5).split(np.zeros(100)))
    noise = rng.random((100, 8, 8))
    sky = noise + np.linspace(3, 0, 8)[None, :, None]  # bright above
    sky -= sky.mean(axis=(1, 2), keepdims=True)
    assert (
        flip_safety.distinguished_from_mirror(sky, folds) <= flip_safety.MOST_DISTINGUISHED
    )  # no left and right
    assert flip_safety.distinguished_from_mirror(sky, folds, TURNED) > 0.9
    assert flip_safety.distinguished_from_mirror(noise, folds, TURNED) <= flip_safety.MOST_DISTINGUISHED


def test_rotate_auto_asks_and_the_result_says_so(tmp_path: Path) -> None:
    """Pictures of noise with a class by colour have no up; with a bright top they have one."""
    rng = np.random.default_rng(0)
    for name in ("cells", "skies"):
        for label, colour in (("blue", 2), ("red", 0)):
            (tmp_path / name / label).mkdir(parents=True)
            for index in range(20):
                pixels = rng.integers(0, 90, size=(20, 20, 3))
                pixels[:, :, colour] += 60
                if name == "skies":
                    pixels[:8] += 100
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / label / f"{index}.png")
    options: dict[str, Any] = {"deterministic": True, "threads": 1, "flip": "none", "rotate": "auto"}
    results = {}
    for name in ("cells", "skies"):
        data = frostline.load_data(tmp_path / name, near_copies=False, test_size=0.0, val_size=0.0)
        results[name] = frostline.train(
            tiny_backbone(), data, "head(epochs=1)", study=tmp_path / f"{name} study", **options
        )
    assert (results["cells"].rotate, results["cells"].rotate_test["safe"]) == ("90", True)
    assert (results["skies"].rotate, results["skies"].rotate_test["safe"]) == ("none", False)
    assert results["skies"].rotate_test["distinguished"] > flip_safety.MOST_DISTINGUISHED
    assert any(
        "Quarter turns in training are on" in line for line in run_text._notes(results["cells"].result)
    )
    assert any(
        "Quarter turns in training are off" in line for line in run_text._notes(results["skies"].result)
    )
    with pytest.raises(UsageError, match="rotate must be one of"):
        frostline.train(tiny_backbone(), data, "head", study=tmp_path / "x", rotate="180")
    with pytest.raises(UsageError, match="The augmentation none takes no random crops"):
        frostline.train(tiny_backbone(), data, "head", study=tmp_path / "x", augment="none", min_crop=0.5)


# --- from training to prediction, export, and on -----------------------------------------------------------

TIMM = "timm/test_efficientnet"
EXACT: dict[str, Any] = {"deterministic": True, "threads": 1}


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run by each geometry on pictures whose classes differ at the right edge alone."""
    place = tmp_path_factory.mktemp("edges")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(place / "cache"))
        data = frostline.load_data(wide_folder(place / "photos", per_class=20), near_copies=False)
        wide_folder(place / "new", per_class=6, seed=1)
        backbone = frostline.load_backbone(TIMM, size=32, random=True)
        return {
            resize: frostline.train(
                backbone, data, "linear_probe(layers=last)", study=place / resize, resize=resize, **EXACT
            )
            for resize in RESIZES
        }


def right(answers: Any) -> float:
    return float(np.mean([row.label == Path(row.path).parent.name for row in answers]))


def test_what_lies_at_the_edge_is_seen_by_squash_and_pad_alone(edges: dict[str, Run]) -> None:
    assert edges["crop"].accuracy < 0.8  # of two classes
    assert edges["squash"].accuracy == edges["pad"].accuracy == 1.0
    new = edges["pad"].study.path.parent / "new"
    for resize in ("squash", "pad"):  # the study alone says how
        assert right(frostline.predict(edges[resize].study.path, new)) == 1.0
    assert right(frostline.predict(edges["crop"].study.path, new)) < 0.8
    assert edges["crop"].run not in (edges["squash"].run, edges["pad"].run)
    assert any("1.5:1" in note for note in Manifest.load(edges["crop"].study.path / "manifest.jsonl").notes)
    assert not any(
        "1.5:1" in note for note in Manifest.load(edges["pad"].study.path / "manifest.jsonl").notes
    )


def test_rows_of_one_geometry_are_never_read_for_another(tmp_path: Path) -> None:
    data = frostline.load_data(
        wide_folder(tmp_path / "photos", per_class=3), near_copies=False, test_size=0, val_size=0
    )
    backbone, way = tiny_backbone(), ForwardConfig(numerics.exact_plan(1), 64)
    items = [(position, number) for number in (0, 1) for position in range(len(data.samples))]

    def filled(resize: str, policy: Policy) -> int:
        """Return how many rows were not there, and fill them in."""
        one = backbone.resized(resize)
        with FeatureCache() as cache:
            head = Frozen(one, one.model, one.cuts[-1], way, cache)
            images = Images(data, data.samples, one.preprocessing, policy=policy)
            missing = head.missing(images, items)
            head.fill(images, items)
            return missing

    for resize in RESIZES:
        assert filled(resize, Policy("standard")) == len(items)
        assert filled(resize, Policy("standard")) == 0
    for other in (Policy("standard", min_crop=0.6), Policy("standard", rotate="any")):
        assert filled("pad", other) == len(items) // 2  # the augmented ones


def test_what_was_asked_for_is_kept_where_it_is_not_the_default(tmp_path: Path) -> None:
    data = frostline.load_data(wide_folder(tmp_path / "photos", per_class=5), near_copies=False)
    options = {**EXACT, "study": tmp_path / "study", "flip": "none"}
    frostline.train(tiny_backbone(), data, "head(epochs=1)", **options)
    frostline.train(tiny_backbone(), data, "head(epochs=1)", min_crop=0.6, rotate="any", **options)
    plain, other = (run.checked_config() for run in Study(tmp_path / "study").runs())
    assert {key: other[key] for key in other if other[key] != plain.get(key)} == {
        "min_crop": 0.6,
        "rotate": "any",
    }
    assert plain.keys() == other.keys() - {"min_crop", "rotate"}


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_an_export_carries_the_geometry(edges: dict[str, Run], resize: str, tmp_path: Path) -> None:
    """timm's own transform, built from what the folder says, sees what `predict` sees."""
    study, new = edges[resize].study.path, edges[resize].study.path.parent / "new"
    frostline.export(study, output=tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    answers = list(frostline.predict(study, new))
    paths = [row.path if Path(row.path).is_absolute() else new / row.path for row in answers]
    with torch.no_grad():
        batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
        theirs = model(batch).softmax(dim=1).max(dim=1).values.tolist()
    assert theirs == pytest.approx([row.probability for row in answers], abs=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    config = onnx_and_torch.program_config(
        load_exported_model(study, None, None), False, onnx_and_torch.TORCH_RUNTIME
    )["preprocessing"]  # of onnx and torch
    assert (config["crop_mode"], config["resize"]) == ("squash" if resize == "squash" else "border", 32)
    assert config.get("fill") == (None if resize == "squash" else [124, 116, 104])
    assert config["words"] in card
    frostline.export(study, "delta", output=tmp_path / "delta")
    delta = frostline.load_backbone(str(tmp_path / "delta"))
    assert delta.preprocessing == edges[resize].backbone.preprocessing
    assert delta.preprocessing.resize == resize
    by_delta = frostline.predict(tmp_path / "delta", new)
    assert [row.probability for row in by_delta] == pytest.approx(
        [row.probability for row in answers], abs=1e-5
    )


@pytest.mark.slow
def test_going_on_from_a_study_keeps_its_geometry_unless_told_otherwise(
    edges: dict[str, Run], tmp_path: Path
) -> None:
    study = str(edges["pad"].study.path)
    wide_folder(tmp_path / "more", per_class=10, seed=2)
    command = [
        "train",
        str(tmp_path / "more"),
        "--model",
        study,
        "--strategy",
        "linear_probe(layers=last)",
        "--deterministic",
    ]
    same = CliRunner().invoke(cli, [*command, "--study", str(tmp_path / "same")])
    assert same.exit_code == 0, same.output
    assert "resized with pad, and so are these" in " ".join(same.output.split())
    assert "1.5:1" not in same.output
    other = CliRunner().invoke(cli, [*command, "--study", str(tmp_path / "other"), "--resize", "crop"])
    assert other.exit_code == 0, other.output
    text = " ".join(other.output.split())
    assert "learned from images resized with pad, and now receives them resized with crop" in text
    assert "20 of 20 image(s) are wider or taller than 1.5:1" in text
    configs = [Study(tmp_path / name).runs()[0].checked_config() for name in ("same", "other")]
    assert [one["preprocessing"]["crop_mode"] for one in configs] == ["border", "center"]
    page = frostline.report(tmp_path / "other")
    assert "--resize crop" in Path(page.path).read_text()


def test_runs_of_another_geometry_join_no_race(edges: dict[str, Run]) -> None:
    runs = {name: trained_runs(run.study)[0] for name, run in edges.items()}
    config = runs["crop"].config
    settings = {"": {key: config.get(key) for key in ("weights", "preprocessing", *SAME)}}
    assert setting_difference(runs["crop"], settings) is None
    assert "resized in another way (crop mode border)" in str(setting_difference(runs["pad"], settings))
    turned = replace(runs["crop"], config={**config, "rotate": "90", "min_crop": 0.5})
    assert setting_difference(turned, settings) is None  # its head is solved for, on images as they are
    turned = replace(turned, strategy="head")
    assert str(setting_difference(turned, settings)) == "trained with min_crop=0.5, rotate=90"


def test_measure_says_what_is_cut_away(edges: dict[str, Run]) -> None:
    data = frostline.load_data(edges["pad"].study.path.parent / "photos", near_copies=False)
    backbone = frostline.load_backbone(TIMM, size=32, random=True)
    options: dict[str, Any] = {"random": False, "rates": False, "threads": 1}
    signals = frostline.measure(backbone, data, **options)
    share = 1 - backbone.preprocessing.crop_pct**2 / 3
    assert signals.cut_away.long == 40
    assert signals.as_dict()["cut_away"]["mean_long"] == pytest.approx(share)
    assert f"removes {100 * share:.1f} %" in signals.notes[0]
    padded = frostline.measure(backbone.resized("pad"), data, **options)
    assert padded.cut_away.most == 0.0
    assert not any("1.5:1" in note for note in padded.notes)


def test_the_estimator_sees_images_by_one_geometry(tmp_path: Path) -> None:
    wide_folder(tmp_path, per_class=12)
    paths = sorted(tmp_path.rglob("*.png"))
    labels = [path.parent.name for path in paths]
    backbone = frostline.load_backbone(TIMM, size=32, random=True)
    fitted = FrostlineClassifier(backbone, resize="squash", **EXACT).fit(paths[::2], labels[::2])
    assert fitted.score(paths[1::2], labels[1::2]) == 1.0
    fitted.save(tmp_path / "saved")
    read = FrostlineClassifier.load(tmp_path / "saved", backbone=backbone)
    assert read.resize == "squash"
    assert np.array_equal(read.predict_proba(paths), fitted.predict_proba(paths))
    blind = FrostlineClassifier(backbone, **EXACT).fit(paths[::2], labels[::2])
    assert blind.score(paths[1::2], labels[1::2]) < 0.8
