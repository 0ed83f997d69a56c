"""The decoder: what is handled right, and the words for what is not."""

from __future__ import annotations

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.data import find_images, load_data, open_image
from frostline.data.pixels import decoding
from frostline.data.pixels.decode_limit import InFlight
from frostline.data.pixels.decoding import MAX_HELD_PIXELS
from frostline.errors import DamagedImage, DataError
from test_dataset_sources import by_class, save


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return an image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(side: int = 32, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def first_pixel(data: bytes) -> tuple[int, ...]:
    image = open_image(data)
    assert image.mode == "RGB"
    return tuple(np.asarray(image)[0, 0].tolist())


def bomb(width: int, height: int) -> bytes:
    """Return a PNG that says it is huge and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bits_are_scaled() -> None:
    ramp = np.array([[0, 257 * 128, 65535]] * 2, dtype=np.uint16)
    assert np.asarray(open_image(encoded(Image.fromarray(ramp))))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(open_image(encoded(Image.fromarray(ramp), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_wider_integers_and_floats_are_scaled() -> None:
    whole = Image.fromarray(np.array([[0, 65535]] * 2, dtype=np.int32))
    unit = Image.fromarray(np.array([[0.0, 1.0]] * 2, dtype=np.float32))
    for image in (whole, unit):
        assert np.asarray(open_image(encoded(image, "TIFF")))[0, :, 0].tolist() == [0, 255]
    wild = Image.fromarray(np.array([[-3.0, 1e9]] * 2, dtype=np.float32))
    assert np.asarray(open_image(encoded(wild, "TIFF")))[0, :, 0].tolist() == [0, 255]
    empty = Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32))
    with pytest.raises(DamagedImage, match="no finite pixel"):
        open_image(encoded(empty, "TIFF"))


def test_cmyk() -> None:
    assert first_pixel(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF")) == (255, 255, 255)


def test_transparency_is_laid_on_white() -> None:
    assert first_pixel(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))) == (255, 255, 255)
    assert first_pixel(encoded(Image.new("LA", (8, 8), (0, 0)))) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert first_pixel(encoded(palette)) == (0, 0, 255)
    assert first_pixel(encoded(palette, transparency=1)) == (255, 255, 255)
    assert first_pixel(encoded(palette, transparency=b"\xff\x00")) == (255, 255, 255)


def test_animation_gives_its_first_frame() -> None:
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    assert first_pixel(encoded(red, "GIF", save_all=True, append_images=[blue])) == (255, 0, 0)


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (40, 20), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert open_image(encoded(image, "JPEG", exif=exif)).size == (20, 40)


def test_grey_and_black_and_white() -> None:
    assert first_pixel(encoded(Image.new("L", (8, 8), 77))) == (77, 77, 77)
    assert first_pixel(encoded(Image.new("1", (8, 8), 1))) == (255, 255, 255)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"hello, world" * 20, "is not an image in a format known here"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (encoded(noise(64), "JPEG")[:-900], "is truncated"),
        (encoded(noise(64))[:-900], "is truncated"),
        (encoded(noise(1)), "has only 1×1 pixels"),
        (bomb(20_000, 10_001), "has 20000×10001 pixels; more than 200,000,000 are refused as a decomp"),
        (bomb(60_000, 60_000), "decompression bomb"),
    ],
    ids=["empty", "text", "html", "lfs", "jpeg cut", "png cut", "1x1", "bomb", "larger bomb"],
)
def test_damage_has_a_reason_in_words(data: bytes, words: str) -> None:
    with pytest.raises(DamagedImage, match=words):
        open_image(data)


def test_any_bytes_give_an_image_or_a_reason() -> None:
    rng = np.random.default_rng(0)
    whole = [encoded(noise(), kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
    for data in whole:
        for _ in range(40):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 6):
                broken[at] = rng.integers(0, 256)
            assert "0x" not in outcome(bytes(broken[: rng.integers(1, len(data) + 1)]))


def outcome(data: bytes) -> str:
    """Return the mode of the decoded image, or the reason why there is none."""
    try:
        return open_image(data).mode
    except DamagedImage as error:
        return str(error)  # names no addresses of objects, so that the words repeat


def test_a_loose_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DamagedImage, match=r"x\.png is empty"):
        open_image(tmp_path / "x.png")
    with pytest.raises(DamagedImage, match="does not exist"):
        open_image(tmp_path / "y.png")


def test_what_is_held_is_what_pillow_does_not_warn_of() -> None:
    assert MAX_HELD_PIXELS == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "deep"])
def test_large_pictures_are_read_and_halved(kind: str) -> None:
    """A phone's 108 megapixels were a bomb, and Pillow's warning of them leaked."""
    width, height = 12_000, 9_000
    if kind == "deep":
        values = np.full((height, width), 7, np.uint16)
        values[:, width // 2 :] = 9
        large = encoded(Image.fromarray(values), "TIFF")
    else:
        image = Image.new("L", (width, height), 100)
        image.paste(50, (0, 0, width // 2, height))
        large = encoded(image, kind)
    seen = open_image(large)
    assert seen.size == (width // 2, height // 2)
    left, right = (seen.getpixel((x, 5))[0] for x in (5, width // 2 - 5))
    assert (left, right) == (
        (0, 255) if kind == "deep" else (pytest.approx(50, abs=2), pytest.approx(100, abs=2))
    )


@pytest.mark.slow
def test_large_pictures_are_turned_and_laid_on_white(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode, colour in (("L", 9), ("RGBA", (9, 9, 9, 0)), ("P", 9)):
        seen = open_image(encoded(Image.new(mode, (12_000, 9_000), colour), "PNG", exif=exif))
        assert seen.size == (4_500, 6_000)
        assert seen.getpixel((4, 4)) == ((255,) * 3 if mode == "RGBA" else (9, 9, 9)) or mode == "P"


def test_a_large_picture_is_data_like_any_other(tmp_path: Path) -> None:
    for name in "ab":
        by_class(tmp_path, {name: 2})
    Image.new("L", (12_000, 9_000), 77).save(tmp_path / "a" / "phone.jpg")
    assert not load_data(tmp_path).skipped


def test_threads_share_the_room_for_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    room = InFlight(3 * 100 * 100 * 8)
    monkeypatch.setattr(decoding, "IN_FLIGHT", room)
    data = encoded(noise(100), "PNG")
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda _: open_image(data), range(64)))) == 64
    assert 0 < room.largest <= room.most_bytes
    open_image(encoded(noise(400)))  # larger than all that may be: alone
    assert room.largest == 400 * 400 * 8
    with pytest.raises(DamagedImage):
        open_image(data[:-900])
    open_image(encoded(noise(400)))  # and what failed holds nothing any more


def messy(root: Path) -> Path:
    """Write two classes with every kind of bad file in one of them."""
    by_class(root, {"a": 6, "b": 6})
    for name, data in {
        "cut.jpg": encoded(noise(64, 7), "JPEG")[:-900],
        "dot.png": encoded(noise(1)),
        "huge.png": bomb(60_000, 60_000),
        "nothing.jpg": b"",
        "page.jpg": b"<html>404</html>",
        "words.txt": b"read me",
    }.items():
        (root / "a" / name).write_bytes(data)
    return root


BAD = ["a/cut.jpg", "a/dot.png", "a/huge.png", "a/nothing.jpg", "a/page.jpg", "a/words.txt"]


def test_bad_files_are_set_aside_and_strict_refuses(tmp_path: Path) -> None:
    data = load_data(messy(tmp_path))
    assert sorted(gone.path for gone in data.skipped) == BAD
    assert all(gone.reason and gone.label == "a" for gone in data.skipped)
    assert len(data.samples) == 12
    with pytest.raises(DataError, match=r"6 image\(s\) would be skipped, and strict=True was given"):
        load_data(tmp_path, strict=True)


def test_damage_found_at_the_first_decode_is_remembered(tmp_path: Path) -> None:
    first = load_data(messy(tmp_path), near_copies=False)
    assert "a/cut.jpg" in [sample.path for sample in first.samples]
    seen: list[tuple[str, int, int]] = []
    checked = first.checked(lambda *step: seen.append(step))
    assert sorted(gone.path for gone in checked.skipped) == BAD
    assert seen == [("decoding", 13, 13)]
    assert checked.checked() is checked
    again = load_data(tmp_path, near_copies=False)
    assert sorted(gone.path for gone in again.skipped) == BAD
    assert again.split_digest == checked.split_digest


def test_reading_a_damaged_image_remembers_it(tmp_path: Path) -> None:
    data = load_data(messy(tmp_path), near_copies=False)
    (cut,) = [sample for sample in data.samples if sample.path == "a/cut.jpg"]
    with pytest.raises(DamagedImage, match=r"a/cut\.jpg is truncated"):
        data.read(cut)
    assert "a/cut.jpg" in [gone.path for gone in load_data(tmp_path, near_copies=False).skipped]


def test_a_class_that_loses_every_training_image_is_named(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 3, "b": 3})
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="No training image for 'b'"):
        load_data(tmp_path, near_copies=False).checked()
    with pytest.raises(DataError, match="Found one class, 'a'"):
        load_data(tmp_path)


def test_a_file_that_changed_is_not_read_for_another(tmp_path: Path) -> None:
    data = load_data(by_class(tmp_path, {"a": 3, "b": 3}))
    save(tmp_path / data.samples[0].path, 77)
    with pytest.raises(DataError, match="has changed since it was indexed"):
        data.read(data.samples[0])
    os.unlink(tmp_path / data.samples[1].path)
    with pytest.raises(DataError, match="does not exist, but existed"):
        data.read(data.samples[1])


def test_find_images(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 1, "b": 1})
    save(tmp_path / "flat.JPG", 5)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(b"")
    names = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert names == ["a/000.png", "b/000.png", "flat.JPG"]
    assert find_images(tmp_path / "flat.JPG") == [tmp_path / "flat.JPG"]
    with pytest.raises(DataError, match="does not exist"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no image files"):
        find_images(tmp_path / "none")
