"""Pixels deeper than 8 bits: exact values, one range for a study, kept; and what is said of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deep_examples import png, ppm, tiff
from frostline.data import Manifest, Rendering, load_data, open_image
from frostline.data.pixels.decoding import picture
from frostline.data.pixels.deep_pixels import Deep
from frostline.data.pixels.image_traits import Traits
from frostline.data.pixels.rendering import Levels, ranges_of
from frostline.data.pixels.rendering_choice import findings
from frostline.data.splits.near_duplicates import mark_of
from frostline.errors import DamagedImage, DataError, UsageError

Array = np.ndarray[Any, Any]


def twelve_bits(low: int, side: int = 48, seed: int = 0) -> Array:
    """Return blobs of 12-bit values around `low`, 90 levels apart, as a faint stain is recorded."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 90, (6, 6)).astype(np.float64)
    return (low + np.kron(coarse, np.ones((side // 6, side // 6)))).astype(np.uint16)


def folder_of(place: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return place


def cells(place: Path, encode: Any, count: int = 12) -> Path:
    """Write two classes of 12-bit images."""
    return folder_of(
        place,
        {
            f"{label}/{n}.img": encode(twelve_bits(290 if label == "a" else 300, seed=2 * n + (label == "a")))
            for label in "ab"
            for n in range(count)
        },
    )


def grey_levels(data: Manifest) -> int:
    return min(len(np.unique(np.asarray(data.read(sample))[..., 0])) for sample in data.samples)


@pytest.mark.parametrize("encode", [tiff, lambda v: tiff(v, ">"), png, ppm], ids=["II", "MM", "png", "pgm"])
def test_twelve_bits_in_sixteen_keep_their_levels(encode: Any, tmp_path: Path) -> None:
    """The high byte alone made one grey of values from 290 to 390."""
    data = load_data(cells(tmp_path, encode))
    assert grey_levels(data) > 20
    assert any("uint16 values: 29" in note for note in data.notes)


def test_byte_order_makes_no_difference(tmp_path: Path) -> None:
    made = [load_data(cells(tmp_path / order, lambda v, o=order: tiff(v, o))) for order in "<>"]
    assert made[0].rendering == made[1].rendering
    for one, other in zip(*(data.samples for data in made), strict=True):
        assert np.array_equal(np.asarray(made[0].read(one)), np.asarray(made[1].read(other)))
    values = np.arange(48, dtype=np.uint16).reshape(4, 4, 3) * 1300
    assert np.array_equal(picture(tiff(values)).deep.values, picture(tiff(values, ">")).deep.values)


VALUES = np.random.default_rng(0).integers(0, 65536, (7, 5, 4)).astype(np.uint16)


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (png(VALUES[..., 0]), VALUES[..., 0]),
        (png(VALUES[..., :2]), VALUES[..., 0]),
        (png(VALUES[..., :3]), VALUES[..., :3]),
        (png(VALUES), VALUES[..., :3]),
        (tiff(VALUES[..., :3]), VALUES[..., :3]),
        (tiff(VALUES[..., :3], ">"), VALUES[..., :3]),
        (tiff(VALUES), VALUES[..., :3]),
        (tiff(VALUES, ">"), VALUES[..., :3]),
        (ppm(VALUES[..., :3]), VALUES[..., :3]),
        (tiff(VALUES[..., 0], photometric=0), 65535 - VALUES[..., 0]),
        (tiff(VALUES[..., 0].astype(np.int32) - 30000), VALUES[..., 0].astype(np.int32) - 30000),
        (tiff(VALUES[..., 0].astype(np.uint32) << 16), VALUES[..., 0].astype(np.uint32) << 16),
        (tiff((VALUES[..., 0] // 2).astype(np.int16), ">"), (VALUES[..., 0] // 2).astype(np.int16)),
        (tiff(VALUES[..., 0].astype(np.float32), ">"), VALUES[..., 0].astype(np.float32)),
    ],
    ids=[
        "grey",
        "grey+alpha",
        "rgb",
        "rgba",
        "tiff",
        "tiff MM",
        "rgba tiff",
        "rgba MM",
        "ppm",
        "inverse",
        "int32",
        "uint32",
        "int16",
        "float",
    ],
)
def test_every_value_is_read_exactly(data: bytes, values: Array) -> None:
    """Colours of 16 bits lost their low byte, silently."""
    deep = picture(data).deep
    assert deep is not None
    assert deep.values.dtype == values.dtype
    assert np.array_equal(deep.values, values)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("order", "<>")
def test_compressed_tiffs_are_read_as_exactly(compression: str, order: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(VALUES[..., 0].astype(f"{order}u2")).save(buffer, "TIFF", compression=compression)
    assert np.array_equal(picture(buffer.getvalue()).deep.values, VALUES[..., 0])


def test_a_hot_pixel_blackens_nothing(tmp_path: Path) -> None:
    """A range by the maximum did: and one picture's by its own."""

    def hot(values: Array) -> bytes:
        spoilt = values.astype(np.int32)
        spoilt[5, 5] = 2_000_000
        return tiff(spoilt)

    data = load_data(cells(tmp_path, hot))
    assert grey_levels(data) > 20
    (row,) = data.rendering.ranges
    assert row[0] == "int32"
    assert row[2] < 400


def test_one_broken_picture_does_not_set_the_range(tmp_path: Path) -> None:
    place = cells(tmp_path, png, count=20)
    folder_of(place, {"a/dead.img": png(np.full((48, 48), 65535, np.uint16) - twelve_bits(0))})
    data = load_data(place, test_size=0.0, val_size=0.0)
    assert data.rendering.ranges[0][2] < 400
    assert any("over 1 % of the pixels lie outside it: a/dead.img" in note for note in data.notes)


def test_the_range_is_the_training_images(tmp_path: Path) -> None:
    files = {
        f"{subset}/{label}/{n}.png": png(
            twelve_bits(300 if subset == "train" else 3000, seed=n + 10 * (label == "a"))
        )
        for subset in ("train", "test")
        for label in "ab"
        for n in range(3)
    }
    data = load_data(folder_of(tmp_path, files))
    assert data.rendering.range_of("uint16")[1] < 400


def test_floats_and_eight_bits_have_ranges_of_their_own(tmp_path: Path) -> None:
    float_file = tiff(twelve_bits(290, seed=1).astype(np.float32) / 1e6)
    files = {f"a/{n}.tif": tiff(twelve_bits(290, seed=n).astype(np.float32) / 1e6, ">") for n in range(4)}
    files |= {f"b/{n}.png": png(twelve_bits(290, seed=9 + n)) for n in range(4)}
    data = load_data(folder_of(tmp_path, files), test_size=0.0, val_size=0.0)
    assert [kind for kind, *_ in data.rendering.ranges] == ["float32", "uint16"]
    assert grey_levels(data) > 20
    assert len(np.unique(np.asarray(open_image(float_file, data.rendering)))) > 20


def test_what_was_asked_for_is_done(tmp_path: Path) -> None:
    place = cells(tmp_path, png)
    fixed = load_data(place, intensity_range=(0, 4095))
    sample = fixed.samples[0]
    values = picture((place / sample.path).read_bytes()).deep.values
    expected = np.round(values.astype(np.float64) * 255 / 4095)
    assert np.array_equal(np.asarray(fixed.read(sample))[..., 0], expected)
    single = load_data(place, intensity_range="per-image")
    assert all(np.asarray(single.read(sample)).max() == 255 for sample in single.samples)
    assert any("its own range, as requested" in note for note in single.notes)
    for wrong in ("0", "9,1", "a,b", "nan,1", "0,inf", "1,1"):
        with pytest.raises(UsageError, match="expected auto, per-image, or LOW,HIGH"):
            load_data(place, intensity_range=wrong)


def test_a_study_keeps_its_range_for_later_versions(tmp_path: Path) -> None:
    place, study = cells(tmp_path / "images", png), tmp_path / "study"
    first = load_data(place)
    (study / "runs").mkdir(parents=True)
    (study / "study.json").write_text("{}")
    first.keep_in(study)
    assert Manifest.load(study / "manifest.jsonl").rendering == first.rendering
    folder_of(place, {f"a/new{n}.img": png(twelve_bits(3000, seed=90 + n)) for n in range(30)})
    later = load_data(place, study=study)
    assert later.rendering == first.rendering
    assert any("over 1 % of the pixels lie outside" in note for note in later.notes)
    assert load_data(place).rendering != first.rendering
    (study / "manifest.jsonl").write_text('{"rendering": {"ranges": [3]}}\n')
    with pytest.raises(DataError, match="how pixels were rendered"):
        load_data(place, study=study)


def test_the_range_is_part_of_what_data_are_and_of_each_row(tmp_path: Path) -> None:
    from frostline.feature_extraction.image_batches import Images
    from frostline.models import Preprocessing

    place = cells(tmp_path, png)
    rng = np.random.default_rng(0)
    for n in range(2):
        made = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        made.save(place / "a" / f"plain{n}.png")
    one, other = load_data(place), load_data(place, intensity_range="0,65535")
    assert one.digest != other.digest
    assert one.split_digest != other.split_digest
    same = Preprocessing(32, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
    names = [
        {s.path: images.pixels_name((at, 0)) for at, s in enumerate(images.samples)}
        for images in (Images(data, data.samples, same) for data in (one, other))
    ]
    assert {path for path, name in names[0].items() if name == "0"} == {"a/plain0.png", "a/plain1.png"}
    assert all(names[0][path] != names[1][path] for path in names[0] if "plain" not in path)
    assert names[1]["a/plain0.png"] == "0"


def test_eight_bit_data_are_what_they_were(tmp_path: Path) -> None:
    """No range, no key and no digest changes for plain images."""
    rng = np.random.default_rng(0)
    for n in range(6):
        path = tmp_path / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    data = load_data(tmp_path)
    assert data.rendering == Rendering()
    assert not data.kinds
    assert '"rendering"' not in data.to_json()


def test_copies_are_found_whatever_the_range(tmp_path: Path) -> None:
    """Marks are of ranks: an image of half the exposure is the same picture, at any range."""
    values = twelve_bits(290, seed=3)
    marks = {mark_of(picture(data)) for data in (png(values), tiff(values, ">"), png(values * 5 - 100))}
    assert len(marks) == 1
    place = cells(tmp_path, png)
    folder_of(place, {"a/copy.img": tiff(twelve_bits(290, seed=1) * 3)})
    for limits in ("auto", "0,65535"):
        data = load_data(place, intensity_range=limits)
        assert {"a/0.img", "a/copy.img"} in map(set, data.near_copies)


def test_pixel_digests_do_not_depend_on_the_range(tmp_path: Path) -> None:
    place = cells(tmp_path, png)
    one, other = load_data(place), load_data(place, intensity_range="0,65535")
    assert one.pixel_digest(one.samples[0]) == other.pixel_digest(other.samples[0])
    assert one.pixel_digest(one.samples[0]) != one.pixel_digest(one.samples[1])


def test_what_is_remembered_gives_the_same_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from frostline.data import digest_cache

    place = cells(tmp_path, png)
    first = load_data(place)
    assert load_data(place).to_json() == first.to_json()
    assert load_data(place, near_copies=False).rendering == first.rendering
    monkeypatch.setattr(digest_cache, "DECODER", "another")
    assert load_data(place, near_copies=False).rendering == first.rendering
    assert load_data(place).checked().rendering == first.rendering


def test_a_range_needs_two_ends() -> None:
    flat = [("uint16", Levels.of(Deep("uint16", np.full((8, 8), 7, np.uint16))))]
    ((_, low, high),) = ranges_of(flat)
    assert low == 7 < high


def test_damaged_words_on_pixels_are_refused() -> None:
    good = Rendering("auto", (("uint16", 1.0, 2.0),)).as_dict()
    assert Rendering.from_dict(good).ranges == (("uint16", 1.0, 2.0),)
    for change in (
        {"ranges": {"uint16": [2, 1]}},
        {"ranges": {"uint16": [1]}},
        {"ranges": {"uint16": [float("nan"), 1]}},
        {"ground": [1, 2]},
        {"ground": [1, 2, 900]},
        {"intensity_range": 3},
    ):
        with pytest.raises(DataError, match="how pixels were rendered"):
            Rendering.from_dict({**good, **change})


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_sixteen_bits_that_pillow_opened(channels: int, tmp_path: Path) -> None:
    """What is not loaded yet holds them; handed over twice, it is the same twice."""
    values = np.random.default_rng(0).integers(0, 65536, (7, 5, channels)).astype(np.uint16)
    data = png(values)
    (tmp_path / "a.png").write_bytes(data)
    expected = picture(data).deep
    with Image.open(tmp_path / "a.png") as named, Image.open(io.BytesIO(data)) as unnamed:
        for image in (named, unnamed, named):
            deep = picture(image).deep
            assert deep.kind == expected.kind
            assert np.array_equal(deep.values, expected.values)


def test_colours_whose_file_is_closed(tmp_path: Path) -> None:
    data = png(np.random.default_rng(0).integers(0, 65536, (7, 5, 3)).astype(np.uint16))
    (tmp_path / "a.png").write_bytes(data)
    with Image.open(tmp_path / "a.png") as closed:
        pass
    assert np.array_equal(picture(closed).deep.values, picture(data).deep.values)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DamagedImage, match="Pass the file's path or bytes instead"):
        picture(closed)


def test_pixels_nobody_sees_saturate_nothing() -> None:
    values = np.full((64, 64), 500, np.uint16)
    values[32:] = 60000
    alpha = np.where(values == 60000, 0, 255).astype(np.uint8)
    rendering = Rendering("0,4095")
    assert not rendering.saturates(Deep("uint16", values, alpha))
    assert rendering.saturates(Deep("uint16", values))
    assert not Rendering().saturates(Deep("uint16", values))  # an image's own range holds it


@pytest.mark.parametrize(
    ("below", "above", "much"), [(7, 7, True), (11, 0, True), (4, 4, False), (0, 9, False)]
)
def test_both_ends_together_saturate_for_check_and_predict_alike(
    below: int, above: int, much: bool, tmp_path: Path
) -> None:
    """In thousandths of the pixels; each end alone was held against the threshold by `check`."""
    values = np.full(250 * 240, 2000, np.uint16)
    values[: below * 60], values[len(values) - above * 60 :] = 5, 65000
    deep = Deep("uint16", np.random.default_rng(0).permutation(values).reshape(250, 240))
    assert Rendering("1000,3000").saturates(deep) is much
    one = Traits(kind="uint16", levels=Levels.of(deep))
    assert Traits.read(one.text()) == one
    notes = findings([("a.png", one)], Rendering("1000,3000"))
    assert any(finding.kind == "saturated" for finding in notes) is much
