"""Views are pure functions of image, seed and number; flips are asked of the images; sheets show them."""

from __future__ import annotations

import random
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.model_selection import KFold
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as tv

import frostline
from frostline.cli.output.run_text import _notes
from frostline.config import AUGMENTS
from frostline.data import Manifest, Sample
from frostline.data.pixels import decoding
from frostline.data.pixels.decode_limit import InFlight
from frostline.errors import DamagedImage, RunWarning, UsageError
from frostline.feature_extraction import ForwardConfig, Frozen, image_batches
from frostline.feature_extraction.augmentation import Policy, SeededView, Transform, brightness
from frostline.feature_extraction.image_batches import (
    MIRRORED,
    TURNED,
    Images,
    Room,
    contact_sheet,
    each_decoded,
)
from frostline.models import Preprocessing
from frostline.system import devices, numerics
from frostline.training.techniques import flip_safety
from tiny import PREPROCESSING, picture, tiny_backbone, write_folder, write_table


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images"), near_copies=False)


def images_of(data: Manifest, policy: Policy, **options: object) -> Images:
    return Images(data, data.subset("train"), PREPROCESSING, policy=policy, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", AUGMENTS)
def test_a_view_depends_on_nothing_but_seed_image_and_number(name: str, data: Manifest) -> None:
    policy = Policy(name, "both" if name != "none" else "none")
    one, two = images_of(data, policy, seed=3), images_of(data, policy, seed=3)
    batch = [(position, view) for view in (1, 2, 0) for position in range(6)]
    forwards = next(one.batches([batch]))
    backwards = next(two.batches([batch[::-1]])).flip(0)
    assert torch.equal(forwards, backwards)
    assert forwards.dtype == torch.uint8
    assert forwards.shape == (18, 3, 16, 16)
    if name != "none":
        assert not torch.equal(forwards[:6], forwards[6:12])
        assert not torch.equal(forwards[:6], next(images_of(data, policy, seed=4).batches([batch[:6]])))


@pytest.mark.parametrize(("workers", "own"), [(0, False), (2, False), (2, True)])
def test_past_an_empty_list_nothing_is_read_before_the_rest_is_used(
    workers: int, own: bool, data: Manifest
) -> None:
    """Two processes that fill a cache wait for each other's batches: neither may hold any back."""
    images = images_of(data, Policy("custom" if own else "standard"), custom=_own if own else None)
    used: list[int] = []

    def items() -> Iterator[list[tuple[int, int]]]:
        yield []
        yield [(0, 0)]
        yield [(1, 0), (2, 0)]
        yield []
        assert len(used) == 2
        yield []
        yield [(3, 0)]

    for pixels in images.batches(items(), workers):
        used += [len(pixels)]
    assert used == [1, 2, 1]


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("name", ["standard", "strong", "custom"])
def test_pixels_do_not_depend_on_the_number_of_workers(name: str, workers: int, data: Manifest) -> None:
    policy, own = Policy(name, "horizontal", rotate="any"), _own if name == "custom" else None
    items = [[(position, view) for position in range(8)] for view in (5, 0, MIRRORED, TURNED, 6, 7, 5)]
    expected = list(images_of(data, policy, custom=own, seed=1).batches(items))
    images = images_of(data, policy, custom=own, seed=1)
    for ours, theirs in zip(
        expected, images.batches(iter(items), min(workers, 2 if own else 8)), strict=True
    ):
        assert torch.equal(ours, theirs)
        torch.rand(1)  # a step beside them draws on the global state, and moves nothing
    assert own or len(images._decoded) == 8


def test_an_abandoned_pass_stops_its_threads_and_a_damaged_image_fails_its_own_batch(
    data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, read = images_of(data, Policy("none")), []

    def reading(_: Manifest, sample: Sample) -> Image.Image:
        read.append(sample.path)
        if sample == images.samples[3]:
            raise DamagedImage(f"{sample.path} is truncated")
        return picture(0, np.random.default_rng(0))

    monkeypatch.setattr(Manifest, "read", reading)
    batches = images.batches(([(position, 0)] for position in range(len(images))), 2)
    for _ in range(3):
        next(batches)
    with pytest.raises(DamagedImage, match=f"^{images.samples[3].path} is truncated$"):
        next(batches)
    assert len(read) < len(images)  # nobody reads on
    batches = images.batches(([(position, 0)] for position in range(len(images))), 2)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoding")]


def test_a_picture_holds_its_room_until_it_is_cropped(
    monkeypatch: pytest.MonkeyPatch, data: Manifest
) -> None:
    """Of eight threads one decodes at a time where one picture is all that may be in memory."""
    room, at_once, most = InFlight(1), [], []
    crop = Preprocessing.crop

    def cropping(preprocessing: Preprocessing, image: Image.Image, *, fast: bool) -> torch.Tensor:
        at_once.append(image)
        time.sleep(0.002)
        most.append(len(at_once))
        at_once.remove(image)
        return crop(preprocessing, image, fast=fast)

    monkeypatch.setattr(decoding, "IN_FLIGHT", room)
    monkeypatch.setattr(Preprocessing, "crop", cropping)
    images = images_of(data, Policy("none"))
    (pixels,) = images.batches([[(position, 0) for position in range(12)]], 8)
    assert len(pixels) == 12
    assert max(most) == 1
    assert room.largest > 0
    assert room._bytes == 0


def test_pictures_outside_of_a_run_come_in_order_from_threads_that_hold_one_each(
    data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, begun, names = InFlight(1), list[str](), set[str]()
    at_once = most = 0

    def decode(sample: Sample) -> torch.Tensor:
        nonlocal at_once, most
        image = data.read(sample)
        at_once += 1  # only one thread has room
        most = max(most, at_once)
        names.add(threading.current_thread().name)
        time.sleep(0.001)
        pixels = PREPROCESSING.crop(image)
        at_once -= 1
        return pixels

    def noted() -> Iterator[Sample]:
        for sample in data.samples:
            begun.append(sample.path)
            yield sample

    expected = [PREPROCESSING.crop(data.read(sample)) for sample in data.samples]
    monkeypatch.setattr(decoding, "IN_FLIGHT", room)
    for workers in (0, 1, 4):
        assert all(map(torch.equal, each_decoded(decode, data.samples, workers), expected))
    assert (most, room._bytes) == (1, 0)
    assert any(name.startswith("decoding") for name in names)
    passing = each_decoded(decode, noted(), 2)
    next(passing)
    passing.close()
    assert len(begun) < 8 < len(data.samples)  # a few items ahead are begun, not all


def test_auto_decodes_with_as_many_threads_as_compute_and_runs_nobodys_code_elsewhere(
    data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, own = images_of(data, Policy("light")), images_of(data, Policy("custom"), custom=_own)
    with devices.computing("cpu"), numerics.threads(2):
        assert images.workers("auto") == 2
        assert (own.workers("auto"), own.workers(2)) == (0, 2)
        memory = psutil.virtual_memory()._replace(available=300_000_000)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
        assert images.workers("auto") == 1
    for wrong in (-1, "many", 1.5):
        with pytest.raises(UsageError, match=r'workers must be .*"auto"'):
            frostline.train(tiny_backbone(), data, "head", workers=wrong)  # type: ignore[arg-type]


def test_view_zero_is_the_checkpoints_own_transform(data: Manifest) -> None:
    images = images_of(data, Policy("strong", "both"))
    expected = torch.stack([PREPROCESSING.crop(data.read(sample)) for sample in images.samples])
    assert torch.equal(torch.cat(list(images.evaluation(7))), expected)


@pytest.mark.parametrize("name", ["light", "strong", "randaugment"])
def test_a_seed_gives_the_pixels_that_torchvisions_transforms_give(name: str) -> None:
    """They draw on torch's global state, and these on a generator: one seed, one series of numbers."""
    policy, mode = Policy(name, "both"), InterpolationMode(PREPROCESSING.interpolation)
    assert policy.crop_scale is not None
    theirs = [
        tv.RandomResizedCrop(PREPROCESSING.size, (policy.crop_scale, 1.0), interpolation=mode),
        tv.RandomHorizontalFlip(),
        tv.RandomVerticalFlip(),
        *([tv.TrivialAugmentWide()] if name == "strong" else []),
        *([tv.RandAugment()] if name == "randaugment" else []),
        tv.PILToTensor(),
        *([tv.RandomErasing(p=0.25)] if name == "strong" else []),
    ]
    rng = np.random.default_rng(0)
    shapes = [(20, 24, 3), (12, 90, 3), (90, 12, 3), (1, 7, 3)]  # long ones need the fallback
    images = [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
    ours = Transform(policy, PREPROCESSING)
    for seed in range(200):
        image = images[seed % len(images)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = tv.Compose(theirs)(image)
        assert torch.equal(ours(image, seed), expected)


def test_drawing_a_view_leaves_every_random_state_alone() -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - what a user's code may do
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    for transform in (
        Transform(Policy("strong", "both"), PREPROCESSING),
        Transform(Policy("custom", rotate="any"), PREPROCESSING, _own),
    ):
        SeededView(transform, 0)(picture(0, np.random.default_rng(0)), "digest", 1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002


def _own(image: Image.Image) -> Image.Image:
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    return image.rotate(float(np.random.uniform(-20, 20)) * float(torch.rand(1)))  # noqa: NPY002


def test_a_persons_own_augmentation_is_seeded_too(data: Manifest) -> None:
    items = [[(position, 3) for position in range(10)]]
    random.seed(5)
    first = next(images_of(data, Policy("custom"), custom=_own).batches(items))
    random.seed(6)
    assert torch.equal(first, next(images_of(data, Policy("custom"), custom=_own).batches(items)))
    with pytest.raises(UsageError, match="expected a PIL image"):
        next(images_of(data, Policy("custom"), custom=np.asarray).batches(items))


def test_own_augmentation_trains_and_is_a_configuration_of_its_own(data: Manifest, tmp_path: Path) -> None:
    def mirror(image: Image.Image) -> Image.Image:
        return ImageOps.mirror(image)

    def flip(image: Image.Image) -> Image.Image:
        return ImageOps.flip(image)

    runs = {
        frostline.train(
            tiny_backbone(), data, "head(epochs=1)", study=tmp_path / "s", deterministic=True, augment=own
        ).run
        for own in (mirror, flip, mirror)
    }
    assert len(runs) == 2


def test_what_does_not_fit_in_memory_is_decoded_again_and_equal(data: Manifest) -> None:
    roomy, cramped = (images_of(data, Policy("light")) for _ in range(2))
    cramped._room = Room(0)
    items = [[(position, view) for position in range(5)] for view in (0, 1, 0, 1)]
    for ours, theirs in zip(roomy.batches(items), cramped.batches(items), strict=True):
        assert torch.equal(ours, theirs)
    assert not cramped._decoded
    assert not cramped._still
    assert roomy._decoded


def test_the_contact_sheet_shows_what_the_network_sees(data: Manifest) -> None:
    images = images_of(data, Policy("light"))
    sheet = np.asarray(contact_sheet(images, count=6, columns=3))
    assert sheet.shape == (32, 48, 3)
    assert np.array_equal(sheet[:16, :16], images[0, 1].permute(1, 2, 0).numpy())
    assert np.array_equal(sheet[16:, 32:], images[5, 1].permute(1, 2, 0).numpy())


# --- flips --------------------------------------------------------------------------------------------


def thumbnails(pictures: np.ndarray) -> np.ndarray:
    centred = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    return centred / np.sqrt((centred**2).sum(axis=(1, 2), keepdims=True))


def told(pictures: np.ndarray) -> float:
    return flip_safety.distinguished_from_mirror(thumbnails(pictures), list(KFold(5).split(pictures)))


@pytest.mark.parametrize("seed", range(3))
def test_digits_are_told_from_their_mirror_images(seed: int) -> None:
    chosen = np.random.default_rng(seed).permutation(1797)[:100]
    assert told(load_digits().images[chosen]) > flip_safety.MOST_DISTINGUISHED


def test_a_spectrogram_like_onset_is_told_at_once() -> None:
    rng = np.random.default_rng(0)
    decay = np.exp(-np.arange(8) / 3)[None, None, :] * rng.random((60, 8, 1)) + 0.1 * rng.random((60, 8, 8))
    assert told(decay) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_pictures_without_a_side_are_not_told(seed: int) -> None:
    assert told(np.random.default_rng(seed).random((80, 8, 8))) <= flip_safety.MOST_DISTINGUISHED


def test_flips_stay_off_where_a_mirror_image_means_another_class(tmp_path: Path) -> None:
    """Class by side: a bright bar left or right. The sides are balanced, so only the probe can object."""
    rng, rows = np.random.default_rng(0), ["path,label,split"]
    for side in ("left", "right"):
        for index in range(30):
            pixels = rng.integers(0, 60, size=(20, 20, 3))
            pixels[:, 2:7] += 150
            image = Image.fromarray(pixels.astype(np.uint8))
            image = image if side == "left" else ImageOps.mirror(image)
            image.save(tmp_path / f"{side}{index}.png")
            rows.append(f"{side}{index}.png,{side},{'train' if index < 24 else 'test'}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    data = frostline.load_data(tmp_path / "t.csv", near_copies=False)
    backbone = tiny_backbone()
    # A network that pools over space can't see sides at all; this one keeps them in its features.
    test = flip_safety._probed(
        *(
            np.stack([np.asarray(f(data.read(s)).resize((4, 4))).ravel() for s in data.subset("train")])
            for f in (lambda image: image, ImageOps.mirror)
        ),
        data.targets(data.subset("train")),
        2,
        data.folds(data.subset("train"), 5, 0),
    )
    alone, both = test
    assert alone.mean() > 0.95
    assert both.mean() < 0.8
    head = Frozen(backbone, backbone.model, backbone.cuts[-1], ForwardConfig(numerics.exact_plan(1), 64))
    flip_test = flip_safety.try_flips(head, data, data.subset("train"), 0)
    assert flip_test.images == 48
    assert flip_test.distinguished < 0.7  # balanced sides: the pixels alone can't object


def test_what_too_few_images_say_of_flips_is_null(tmp_path: Path) -> None:
    data = frostline.load_data(write_folder(tmp_path / "few", per_class=1, classes=2), test_size=0)
    run = frostline.train(tiny_backbone(), data, "head(epochs=1)", study=tmp_path / "s", deterministic=True)
    assert run.flip == "none"
    test = run.result["flip_test"]
    assert (test["distinguished"], test["plain"], test["with_flips"], test["images"]) == (None, None, None, 0)
    (line,) = [line for line in _notes(run.result) if "Mirror images" in line]
    assert line == (
        "Mirror images in training are off: too few images can be held out to test them. --flip sets it."
    )


def test_what_a_flip_test_answered_is_remembered_by_all_that_decides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=12), near_copies=False)
    asked = []
    original = flip_safety._asked
    monkeypatch.setattr(flip_safety, "_asked", lambda *args: asked.append(1) or original(*args))

    def answer(backbone: frostline.Backbone, seed: int = 0, view: int = MIRRORED) -> flip_safety.FlipTest:
        head = Frozen(backbone, backbone.model, backbone.cuts[-1], ForwardConfig(numerics.exact_plan(1), 64))
        return flip_safety.try_flips(head, data, data.subset("train"), seed, view=view)

    first = answer(tiny_backbone())
    assert answer(tiny_backbone()) == first
    assert len(asked) == 1
    other = tiny_backbone()
    with torch.no_grad():
        next(other.model.parameters()).add_(0.1)
    answer(other)
    answer(tiny_backbone(), seed=1)
    answer(tiny_backbone(), view=TURNED)
    assert len(asked) == 4
    head = Frozen(other, other.model, other.cuts[-1], ForwardConfig(numerics.exact_plan(1), 64))
    images = Images(data, data.subset("train"), PREPROCESSING)
    folds = data.folds(data.subset("train"), 3, 0)
    keys = {
        flip_safety._remembered_by(head, images, folds[:n], classes, MIRRORED)
        for n, classes in ((3, 2), (3, 3), (2, 2))
    }
    assert len(keys) == 3


def test_too_few_images_to_ask_means_no_flips() -> None:
    assert not flip_safety.FlipTest(None, None, None, False, 0).safe
    assert flip_safety.FlipTest(0.5, 0.9, 0.88, False, 80).safe
    assert not flip_safety.FlipTest(0.5, 0.9, 0.5, True, 80).safe
    assert not flip_safety.FlipTest(0.9, 0.9, 0.9, False, 80).safe


# --- in feature space ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 10), (6, 10, 4, 4), (6, 7, 10)])
def test_brightness_shifts_channels_within_the_images_range(shape: tuple[int, ...]) -> None:
    z = torch.randn(shape).relu()
    torch.manual_seed(0)
    out = brightness(z, 0.3)
    torch.manual_seed(0)
    assert torch.equal(out, brightness(z, 0.3))
    assert out.shape == z.shape
    assert not torch.equal(out, z)
    assert (out.flatten(1).amax(1) <= z.flatten(1).amax(1)).all()
    assert (out.flatten(1).amin(1) >= z.flatten(1).amin(1)).all()
    span = (z.flatten(1).amax(1) - z.flatten(1).amin(1)).view(-1, *[1] * (z.ndim - 1))
    moved = (out - z).abs() / span
    assert moved.max() <= 0.3 + 1e-6
    assert brightness(z, 0.0) is z


def test_feature_augmentation_needs_a_frozen_part() -> None:
    for strategy in (
        "head(feature_augment=0.1)",
        "top_k(1, feature_augment=0.1)",
        "gradual_unfreeze(feature_augment=0.1)",
    ):
        assert str(frostline.parse(strategy)) == strategy
    for strategy in (
        "full(feature_augment=0.1)",
        "lp_ft(feature_augment=0.1)",
        "scratch(feature_augment=0.1)",
    ):
        with pytest.raises(UsageError, match="no setting 'feature_augment'"):
            frostline.parse(strategy)


@pytest.mark.parametrize(("room", "processes"), [(0, 0), (1, 1), (5, 2)])
def test_short_shared_memory_means_fewer_processes_and_the_same_pixels(
    data: Manifest, monkeypatch: pytest.MonkeyPatch, room: int, processes: int
) -> None:
    """A container's 64 MB end in a bus error otherwise; `room` is for how many processes there is memory."""
    items = [[(position, 5) for position in range(2)] for _ in range(3)]
    images = images_of(data, Policy("custom"), custom=_own, seed=1)
    expected = list(images.batches(items))
    free = room * image_batches.SHARED_BATCHES * expected[0].numel()
    started, loader = list[int](), image_batches.DataLoader

    def spy(*arguments: Any, num_workers: int, **options: Any) -> Any:
        started.append(num_workers)
        return loader(*arguments, num_workers=num_workers, **options)

    monkeypatch.setattr(image_batches, "DataLoader", spy)
    monkeypatch.setattr(image_batches.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pixels = list(images.batches(items, 2))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(pixels, expected, strict=True))
    assert started == [processes] * (processes > 0)
    texts = [str(one.message) for one in caught if one.category is RunWarning]
    assert len(texts) == (room < 2)
    assert all(f"{processes} do it now" in text for text in texts)
