"""Fast pixels: torch resizes, and decodes large JPEGs at a fraction; what judges sees Pillow's, whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

import frostline
from frostline.config import Config
from frostline.data import Manifest, Sample
from frostline.errors import UsageError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import MIRRORED, Images
from frostline.feature_extraction.random_transforms import resized_crop
from frostline.models import Preprocessing
from frostline.models.preprocessing import CROP_MODES
from frostline.models.resizing import FAST_MODES, fast_name, pixels_of, resized, resized_fast
from frostline.progress import QUIET
from frostline.selection import backbone_screening
from frostline.strategies import parse
from frostline.training.train_request import TrainRequest
from tiny import PREPROCESSING, picture, tiny_backbone

# The tiny network sees 16 px, so 32 are left: of 140 a quarter, of fewer than 64 all.
LARGE, SMALL = 140, 63
ALL = "test train val"  # of which pictures of mistakes are taken
RESIZED = fast_name()  # in a key


def _folder(path: Path, side: int, suffix: str = ".jpg") -> Manifest:
    rng, rows = np.random.default_rng(0), ["path,label,split"]
    path.mkdir()
    for index in range(24):
        name = f"{index}{suffix}"
        picture(index % 2, rng).resize((side + 20, side), Image.Resampling.BICUBIC).save(path / name)
        rows.append(f"{name},{'ab'[index % 2]},{'train' if index < 16 else 'val' if index < 20 else 'test'}")
    (path / "t.csv").write_text("\n".join(rows))
    return frostline.load_data(path / "t.csv", near_copies=False)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return _folder(tmp_path_factory.mktemp("fast") / "large", LARGE)


def _images(data: Manifest, policy: str = "none", fast: bool = True) -> Images:
    return Images(data, data.subset("train"), PREPROCESSING, policy=Policy(policy), fast=fast)


def test_a_fraction_leaves_twice_what_the_network_sees(large: Manifest) -> None:
    plain = 2 * int(PREPROCESSING.size / PREPROCESSING.crop_pct)
    images = _images(large)
    fraction = large.jpeg_fraction(images.samples[0], plain)
    assert fraction == 4
    assert LARGE // fraction >= plain
    assert min(large.read(images.samples[0], plain).size) == -(-LARGE // fraction)
    assert images.pixels_name((0, 0)) == f"0 jpeg 1/{fraction} {RESIZED}"
    assert images.pixels_name((0, MIRRORED)) == f"mirrored jpeg 1/{fraction} {RESIZED}"
    whole = _images(large, fast=False)
    assert (images.pixels, whole.pixels) == ("fast", "reference")
    assert whole.pixels_name((0, 0)) == "0"
    moved = (images[0, 0].float() - whole[0, 0].float()).abs()
    assert 0 < moved.mean() < 4  # of 255


def test_a_small_crop_needs_more_pixels_and_view_zero_stays_what_it_is_elsewhere(large: Manifest) -> None:
    still, strong = _images(large), _images(large, "strong")
    assert strong.pixels_name((0, 1)).startswith("strong")
    assert "jpeg" not in strong.pixels_name((0, 1))  # of a narrow quarter of the area 60 px a side
    assert strong.pixels_name((0, 0)) == still.pixels_name((0, 0))
    whole = _images(large, "strong", fast=False)[0, 1]  # the same draws, resized by Pillow
    assert (strong[0, 1].int() - whole.int()).abs().max() <= 2
    assert torch.equal(strong[0, 0], still[0, 0])
    items = [[(position, view) for position in range(8)] for view in (0, 1, 0)]
    for ours, theirs in zip(still.batches(items), _images(large).batches(items, 3), strict=True):
        assert torch.equal(ours, theirs)


def test_small_images_and_other_formats_are_decoded_whole(tmp_path: Path) -> None:
    for data in (_folder(tmp_path / "small", SMALL), _folder(tmp_path / "png", LARGE, ".png")):
        fast, whole = _images(data), _images(data, fast=False)
        assert fast.pixels == "fast"
        assert (fast.pixels_name((0, 0)), whole.pixels_name((0, 0))) == (f"0 {RESIZED}", "0")
        assert (fast[0, 0].int() - whole[0, 0].int()).abs().max() <= 2


def test_what_torch_would_not_resize_keeps_pixels_and_keys(tmp_path: Path) -> None:
    """Pictures that have the size already, and interpolations that torch has not for 8-bit pixels."""
    rng, names = np.random.default_rng(0), ["path,label"]
    side = int(PREPROCESSING.size / PREPROCESSING.crop_pct)
    for index in range(8):
        picture(index % 2, rng).resize((side + index, side)).save(tmp_path / f"{index}.png")
        names.append(f"{index}.png,{'ab'[index % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(names))
    data = frostline.load_data(tmp_path / "t.csv", near_copies=False)
    exact, resized = _images(data), _images(data, "light")
    assert (exact.pixels, exact.pixels_name((0, 0)), resized.pixels_name((0, 0))) == ("reference", "0", "0")
    assert resized.pixels == "fast"
    assert resized.pixels_name((0, 1)).endswith(RESIZED)
    assert torch.equal(exact[0, 0], _images(data, fast=False)[0, 0])
    lanczos = replace(PREPROCESSING, interpolation="lanczos", size=9)
    fast, whole = (Images(data, data.samples, lanczos, policy=Policy("light"), fast=x) for x in (True, False))
    assert (fast.pixels, fast.pixels_name((0, 1))) == ("reference", whole.pixels_name((0, 1)))
    assert torch.equal(fast[0, 1], whole[0, 1])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_resized_by_torch_a_picture_is_a_level_off_in_a_few_pixels(
    crop_mode: str, interpolation: str
) -> None:
    rng = np.random.default_rng(1)
    preprocessing = Preprocessing(64, 0.875, interpolation, (0.5,) * 3, (0.2,) * 3, crop_mode)
    moved = []
    for width, height in ((75, 50), (200, 190), (73, 73), (40, 160), (300, 100)):
        colours = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        image = colours.resize((width, height), Image.Resampling.BICUBIC)
        fast, reference = preprocessing.crop(image, fast=True), preprocessing.crop(image)
        assert fast.shape == reference.shape == (3, 64, 64)
        assert (width, height) != (73, 73) or torch.equal(fast, reference)  # nothing to resize
        moved.append((fast.int() - reference.int()).abs())
    assert torch.stack(moved).max() <= 2
    assert 0 < (torch.stack(moved) > 0).float().mean() < 0.03


@pytest.mark.parametrize("mode", FAST_MODES)
@pytest.mark.parametrize("source", [(100, 190), (100, 200), (100, 201), (100, 210), (60, 400), (400, 60)])
@pytest.mark.parametrize("target", [(60, 70), (96, 96), (250, 120), (300, 50)])
def test_sharp_edges_move_by_no_more_than_two_levels_whatever_the_shape(
    mode: str, source: tuple[int, int], target: tuple[int, int]
) -> None:
    """Pillow and torch round to bytes between two passes: where Pillow begins with columns, so do we."""
    blocks = np.random.default_rng(2).integers(0, 2, (source[1] // 5 + 1, source[0] // 5 + 1, 3), np.uint8)
    image = Image.fromarray(255 * blocks).resize(source, Image.Resampling.NEAREST)
    reference = pixels_of(resized(image, target, InterpolationMode(mode))).int()
    pixels = pixels_of(image)
    for laid_out in (pixels, pixels.contiguous()):  # as Pillow's copies lie, and as torchcodec's tensors
        moved = (resized_fast(laid_out, target, InterpolationMode(mode)).int() - reference).abs()
        assert moved.max() <= 2
        assert (moved > 0).float().mean() < 0.05


@pytest.mark.parametrize("mode", FAST_MODES)
def test_pieces_of_any_shape_are_resized_as_pillow_does(mode: str) -> None:
    """torch takes the layout of what is one pixel wide for another, and answered nonsense, or not at all."""
    interpolation, rng = InterpolationMode(mode), np.random.default_rng(3)
    for _ in range(500):
        height, width = rng.integers(2, 40, 2).tolist()
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        top, left = int(rng.integers(height)), int(rng.integers(width))
        box = (top, left, int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1)))
        size = (int(rng.integers(1, 30)), int(rng.integers(1, 30)))
        reference = pixels_of(resized_crop(image, box, size, interpolation, fast=False)).int()
        for pixels in (pixels_of(image), pixels_of(image).contiguous()):
            fast = pixels_of(resized_crop(pixels, box, size, interpolation, fast=True)).int()
            assert (fast - reference).abs().max() <= 3, (height, width, box, size)


@pytest.mark.parametrize("policy", [Policy(name, "both") for name in ("none", "light", "strong")])
def test_torch_computes_in_the_decoding_threads_alone(
    policy: Policy, large: Manifest, tmp_path: Path
) -> None:
    """Else each of the threads that decode would start as many more as torch computes with."""
    for label, place in itertools.product("ab", range(4)):
        (tmp_path / label).mkdir(exist_ok=True)
        noise = Image.effect_noise((900, 700), 30 + place + 10 * (label == "b")).convert("RGB")
        noise.save(tmp_path / label / f"{place}.jpg")
    data = frostline.load_data(tmp_path, near_copies=False)
    images = Images(data, data.samples, PREPROCESSING.with_size(600), policy=policy, fast=True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        counts = []
        for _ in images.batches([[(place, view) for place in range(8)] for view in (1, 2, 3)], 2):
            counts.append(psutil.Process().num_threads())
            assert torch.get_num_threads() == 4  # of who takes the batches
        assert len(set(counts)) == 1
        assert images.rates.by_torchcodec > 0
        with ThreadPoolExecutor(2) as pool:
            crops = list(pool.map(lambda _: _images(large)[0, 0], range(4)))
        assert all(torch.equal(crop, crops[0]) for crop in crops)
    finally:
        torch.set_num_threads(before)


def test_a_manifest_that_was_read_back_gives_the_same_fractions(large: Manifest) -> None:
    again = Manifest.from_json(large.to_json())
    assert not again.sizes
    names = [_images(data).pixels_name((3, 0)) for data in (large, again)]
    assert names[0] == names[1] != "0"


def test_only_training_images_are_fast_and_the_configuration_says_so(large: Manifest) -> None:
    def request(**options: object) -> TrainRequest:
        config = Config.of(None, options)
        return TrainRequest(tiny_backbone(), large, parse("linear_probe"), config)

    assert [request().images(subset).pixels for subset in ("train", "val", "test")] == [
        "fast",
        *["reference"] * 2,
    ]
    assert request().identity()["pixels"] == "fast 1"
    for options in ({"pixels": "reference"}, {"deterministic": True}):
        assert request(**options).images("train").pixels == "reference"
        assert "pixels" not in request(**options).identity()
    with pytest.raises(UsageError, match="pixels must be one of auto, reference, found 'quick'"):
        request(pixels="quick").check()


def test_a_run_says_which_pixels_it_learned_from_and_is_judged_on_whole_ones(
    large: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fractions: dict[str, set[bool]] = {}
    for name in ("read", "read_pixels"):
        read = getattr(Manifest, name)

        def reading(
            data: Manifest, sample: Sample, side_pixels: int = 0, *decoder: Any, read: Any = read
        ) -> Any:
            fractions.setdefault(sample.split, set()).add(side_pixels > 0)
            return read(data, sample, side_pixels, *decoder)

        monkeypatch.setattr(Manifest, name, reading)
    runs, judged = [], list[set[bool]]()
    for pixels, in_training in (("auto", {True}), ("reference", {False})):
        fractions.clear()
        runs.append(
            frostline.train(tiny_backbone(), large, "linear_probe", study=tmp_path / "s", pixels=pixels)
        )
        assert fractions.pop("train") == in_training
        judged += list(fractions.values())
    assert judged
    assert judged == [{False}] * len(judged)  # what the second run reads from the cache is not decoded again
    assert [run.decoding["pixels"] for run in runs] == ["fast", "reference"]
    assert runs[0].run != runs[1].run


def test_a_picture_of_another_format_is_no_jpeg_by_its_name(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for place in range(4):
            picture = Image.effect_noise((900, 900), 40 + place).convert("RGB")
            picture.save(tmp_path / label / f"{place}.jpg", format="PNG")
    images = _images(frostline.load_data(tmp_path))
    assert images.pixels_name((0, 0)) == f"0 {RESIZED}"


def test_subsets_share_the_memory_for_decoded_pictures(large: Manifest) -> None:
    request = TrainRequest(tiny_backbone(), large, parse("full"), Config())
    train, val = request.images("train", Policy("light")), request.images("val")
    free = train._room.free
    for images in (train, train.subset(slice(0, 2)), val):
        assert images._room is train._room
        images[0, 0]
    assert train._room.free < free


def _recorded(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, bool]]:
    """Return (subsets of its images, whether pixels may be fast) of each `Images` made from now on."""
    seen: set[tuple[str, bool]] = set()
    init = Images.__init__

    def recording(
        images: Images, data: Manifest, samples: Sequence[Sample], *more: Any, **options: Any
    ) -> None:
        init(images, data, samples, *more, **options)
        splits = " ".join(sorted({sample.split for sample in samples}))
        seen.add((splits, options.get("fast", False)))

    monkeypatch.setattr(Images, "__init__", recording)
    return seen


@pytest.mark.slow
def test_whatever_learns_from_training_images_sees_fast_pixels_and_nothing_else_does(
    large: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flips that are tried, networks that are compared, folds, `measure`: one class, so rows are shared."""
    seen = _recorded(monkeypatch)
    frostline.train(tiny_backbone(), large, "head(epochs=1)", study=tmp_path / "run")
    assert seen == {("train", True), ("val", False), ("test", False)}
    seen.clear()
    frostline.measure(tiny_backbone(), large)
    assert seen == {("train", True)}
    networks = [replace(tiny_backbone(), name=name) for name in ("one", "two")]
    frostline.compare(networks, large, "linear_probe, head(epochs=1)", study=tmp_path / "c", repeats=1)
    assert large.root is not None
    fitted: dict[str, Any] = {"models": networks, "strategies": "linear_probe", "repeats": 1}
    frostline.fit(large.root / "t.csv", study=tmp_path / "f", **fitted)
    assert {splits for splits, fast in seen if fast} == {"train"}
    assert {splits for splits, fast in seen if not fast} <= {"val", "test", "", ALL}


@pytest.mark.slow
def test_folds_are_judged_on_the_pixels_that_other_folds_learn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an image would be of two classes in one comparison: where it learns, and where it judges."""
    rng = np.random.default_rng(0)
    for index in range(30):
        (tmp_path / "ab"[index % 2]).mkdir(exist_ok=True)
        picture(index % 2, rng).resize((40, 30)).save(tmp_path / "ab"[index % 2] / f"{index}.png")
    data = frostline.load_data(tmp_path, near_copies=False)
    seen = _recorded(monkeypatch)
    options: dict[str, Any] = {"study": tmp_path / "s", "flip": "none", "repeats": 1}
    frostline.compare(tiny_backbone(), data, "linear_probe, linear_probe(layers=last)", **options)
    assert ("val", True) in seen
    assert ("val", False) not in seen
    seen.clear()
    frostline.compare(tiny_backbone(), data, "linear_probe, head(epochs=1)", pixels="reference", **options)
    assert {fast for _, fast in seen} == {False}


def test_a_persons_own_augmentation_of_pictures_of_the_right_size_is_another_run_on_reference_pixels(
    tmp_path: Path,
) -> None:
    rng, names = np.random.default_rng(0), ["path,label,split"]
    side = int(PREPROCESSING.size / PREPROCESSING.crop_pct)
    for index in range(12):
        picture(index % 2, rng).resize((side, side)).save(tmp_path / f"{index}.png")
        names.append(f"{index}.png,{'ab'[index % 2]},{'train' if index < 8 else 'test'}")
    (tmp_path / "t.csv").write_text("\n".join(names))
    data = frostline.load_data(tmp_path / "t.csv", near_copies=False)

    def corner(image: Image.Image) -> Image.Image:
        return image.crop((0, 0, image.width // 2, image.height // 2))

    fast, reference = (
        TrainRequest(tiny_backbone(), data, parse("full"), Config(augment=corner, pixels=pixels))
        for pixels in ("auto", "reference")
    )
    assert (fast.pixels, reference.pixels) == ("fast", "reference")
    assert fast.identity() != reference.identity()


def test_screenings_features_stand_in_the_order_of_the_images(large: Manifest, tmp_path: Path) -> None:
    """Images of a given val set, which lie between the others, pass apart from them."""
    splits = [sample.split for sample in large.samples]
    assert splits != sorted(splits)
    together = replace(large, predefined=())
    apart, whole = (
        backbone_screening._features(
            *(tiny_backbone(), data, FeatureCache(tmp_path / name), True, "float32", False, 1, 0, False),
            QUIET,
        )
        for name, data in (("a", large), ("b", together))
    )
    np.testing.assert_allclose(apart, whole, rtol=1e-5, atol=1e-6)
