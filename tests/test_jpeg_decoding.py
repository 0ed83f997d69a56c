"""torchcodec in Pillow's place: the same bits of plain JPEGs, and Pillow for all others."""

from __future__ import annotations

import io
import itertools
import struct
import sys
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

import frostline
from frostline.data import Manifest
from frostline.data.pixels import decode_limit, decoding, jpeg_digests, pixel_digest
from frostline.data.pixels.jpeg_segments import plain_jpeg
from frostline.errors import DamagedImage
from frostline.feature_extraction import image_batches, jpeg_decoding
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images
from tiny import PREPROCESSING, picture, tiny_backbone


def noisy(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (max(2, height // 7), max(2, width // 7), 3), dtype=np.uint8)
    smooth = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)
    grain = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return Image.blend(smooth, grain, 0.3)


def encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def by_torchcodec(data: bytes) -> NDArray[np.uint8]:
    found = decoding.picture_by(jpeg_decoding.decoded, data)
    assert found is not None, "it is a plain JPEG"
    assert found.pixels is not None
    return found.pixels


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decoding.picture(data).rgb())


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (17, 33), (101, 99), (250, 187)])
def test_torchcodec_decodes_to_pillows_bits(size: tuple[int, int]) -> None:
    image = noisy(*size)
    for quality, colour, progressive, restarts in itertools.product((20, 75, 95), (0, 1, 2), (0, 1), (0, 1)):
        options: dict[str, Any] = {
            "quality": quality,
            "subsampling": colour,
            "progressive": bool(progressive),
        }
        data = encoded(image, **options, **({"restart_marker_rows": 1} if restarts else {}))
        np.testing.assert_array_equal(by_torchcodec(data), by_pillow(data))
    for data in (encoded(image.convert("L")), encoded(image, keep_rgb=True), encoded(image, optimize=True)):
        np.testing.assert_array_equal(by_torchcodec(data), by_pillow(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_what_is_cut_off_anywhere_or_damaged_is_answered_as_pillow_answers(
    progressive: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = encoded(noisy(40, 30), progressive=progressive)
    rng = np.random.default_rng(1)
    damaged = [whole[:length] for length in range(2, len(whole), 7)]
    for _ in range(300):
        data = bytearray(whole)
        data[int(rng.integers(2, len(data)))] = int(rng.integers(0, 256))
        damaged.append(bytes(data))
    answered = 0
    for data in damaged:
        found = decoding.picture_by(jpeg_decoding.decoded, data)
        if found is not None:
            answered += 1
            assert found.pixels is not None
            np.testing.assert_array_equal(found.pixels, by_pillow(data))
    assert answered > 100
    capfd.readouterr()  # libjpeg's lines


def _oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(noisy(40, 30), exif=exif)


def _with_xmp(text: bytes) -> bytes:
    return encoded(noisy(40, 30), xmp=b"<x:xmpmeta>" + text + b"</x:xmpmeta>")


NOT_PLAIN = {
    "turned by EXIF": _oriented(6),
    "mirrored by EXIF": _oriented(2),
    "turned by XMP": _with_xmp(b'<rdf:Description tiff:Orientation="6"/>'),
    "CMYK": encoded(noisy(40, 30).convert("CMYK")),
    "no JPEG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "nothing": b"",
    "cut off before the scan": encoded(noisy(40, 30))[:150],
    "one pixel wide": encoded(noisy(40, 30).resize((1, 30))),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_only_pillow_reads_rightly_is_left_to_it(name: str) -> None:
    assert decoding.picture_by(jpeg_decoding.decoded, NOT_PLAIN[name]) is None


def test_upright_photographs_with_exif_are_plain() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    for data in (_oriented(1), encoded(noisy(40, 30), exif=exif), _with_xmp(b"<dc:title/>")):
        np.testing.assert_array_equal(by_torchcodec(data), by_pillow(data))


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    rng = np.random.default_rng(0)
    for index in range(12):
        image = picture(index % 2, rng).resize((50 + index, 40))
        folder = tmp_path / "ab"[index % 2]
        folder.mkdir(exist_ok=True)
        image.save(folder / f"{index}.jpg", exif=image.getexif())
    (tmp_path / "a" / "turned.jpg").write_bytes(NOT_PLAIN["turned by EXIF"])
    (tmp_path / "b" / "ink.jpg").write_bytes(NOT_PLAIN["CMYK"])
    return frostline.load_data(tmp_path, near_copies=False)


@pytest.mark.parametrize("policy", ["none", "light", "standard", "strong", "randaugment"])
def test_views_are_the_same_whichever_library_decodes(
    policy: str, data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images() -> Images:
        return Images(data, data.samples, PREPROCESSING, policy=Policy(policy, flip="both"), fast=True)

    items = [(place, view) for place in range(len(data.samples)) for view in (0, 1, 2)]
    ours = [images()[item] for item in items]
    assert jpeg_decoding.torchcodecs_decoder() is not None, "torchcodec is a dependency"
    monkeypatch.setattr(image_batches, "torchcodecs_decoder", lambda: None)
    assert all((pixels == images()[item]).all() for pixels, item in zip(ours, items, strict=True))


def test_what_pixels_are_noted_does_not_depend_on_the_decoder(
    data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: dict[str, bytes] = {}

    def note(digest: str, picture: decoding.Picture) -> None:
        noted[digest] = pixel_digest.digest_of(picture)

    monkeypatch.setattr(pixel_digest, "note", note)
    for sample in data.samples:
        data.read_pixels(sample, decoder=jpeg_decoding.decoded)
    assert noted == {sample.digest: data.pixel_digest(sample) for sample in data.samples}


def test_without_torchcodec_pillow_decodes_and_the_run_says_so(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_torchcodec(name: str, **options: Any) -> int:
        run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / name, **options)
        count: int = run.decoding["by_torchcodec"]
        return count

    train = [sample.path for sample in data.subset("train")]
    assert by_torchcodec("with") == len({*train} - {"a/turned.jpg", "b/ink.jpg"}) > 5
    assert by_torchcodec("reference", pixels="reference") == 0
    for module in (None, types.ModuleType("torchcodec.decoders")):  # not to be loaded; too old
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
        jpeg_decoding.torchcodecs_decoder.cache_clear()
        try:
            monkeypatch.setenv("FROSTLINE_CACHE_DIR", str(tmp_path / f"cache {module}"))
            assert by_torchcodec(f"without {module}") == 0
        finally:
            jpeg_decoding.torchcodecs_decoder.cache_clear()


def test_a_file_that_torchcodec_refuses_waits_for_no_room_that_it_holds_itself(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its room is given back before Pillow takes some: else a thread would wait for itself, for ever."""
    room = decode_limit.InFlight(1)  # so that one picture is decoded at a time
    monkeypatch.setattr(decoding, "IN_FLIGHT", room)

    def refuses(_: bytearray) -> NDArray[np.uint8]:
        raise RuntimeError("no")

    monkeypatch.setattr(image_batches, "decoded", refuses)
    images = Images(data, data.samples, PREPROCESSING, fast=True)
    done = threading.Event()

    def passing() -> None:
        for _ in images.batches([[(place, 0) for place in range(len(images))]], 2):
            done.set()

    thread = threading.Thread(target=passing, daemon=True)
    thread.start()
    assert done.wait(30)


def test_a_damaged_file_is_named_in_pillows_words(tmp_path: Path) -> None:
    for label, place in itertools.product("ab", range(4)):
        (tmp_path / label).mkdir(exist_ok=True)
        noisy(60, 50, place + 10 * ord(label)).save(tmp_path / label / f"{place}.jpg")
    data = frostline.load_data(tmp_path, near_copies=False)
    sample = data.samples[0]
    whole = (tmp_path / sample.path).read_bytes()
    (tmp_path / sample.path).write_bytes(whole[: len(whole) // 2])
    data = frostline.load_data(tmp_path, near_copies=False)
    images = Images(data, data.samples, PREPROCESSING, fast=True)
    with ThreadPoolExecutor(1) as pool, pytest.raises(DamagedImage, match=f"{sample.path} is truncated"):
        pool.submit(images.__getitem__, (0, 0)).result()


def test_digests_of_arrays_are_those_of_images_whatever_the_size() -> None:
    rng = np.random.default_rng(5)
    for width, height in [(256, 256), (255, 257), (2, 900), *rng.integers(2, 1500, (60, 2)).tolist()]:
        array = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        arrays = decoding.Picture("", pixels=array)
        images = decoding.Picture("", Image.fromarray(array))
        assert arrays.size == images.size == (width, height)
        assert pixel_digest.digest_of(arrays) == pixel_digest.digest_of(images)
        assert jpeg_digests.candidates(arrays) == jpeg_digests.candidates(images)


def _segment(body: bytes) -> bytes:
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


def _tiff(kind: int, count: int, value: int = 6) -> bytes:
    """Return a TIFF with one entry, orientation."""
    entry = struct.pack("<HHII", 0x0112, kind, count, value)
    return b"II*\x00\x08\x00\x00\x00\x01\x00" + entry + bytes(4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", [b"Exif\x00\x00", b"Exif\x00\xff", b"EXIF\x00\x00", b"maker\x00"])
@pytest.mark.parametrize(("kind", "count"), [(3, 1), (0, 1), (14, 1), (3, 0), (3, 3), (4, 1)])
def test_only_what_pillow_takes_for_an_orientation_turns_a_picture(
    start: bytes, kind: int, count: int
) -> None:
    """torchcodec reads two bytes of the first APP1 of any kind: it is not shown one."""
    whole = encoded(noisy(40, 30))
    data = whole[:2] + _segment(start + _tiff(kind, count)) + whole[2:]
    found = decoding.picture_by(jpeg_decoding.decoded, data)
    if found is None:
        return
    assert found.pixels is not None
    np.testing.assert_array_equal(found.pixels, by_pillow(data))


def test_a_decoder_that_answers_another_size_is_not_believed() -> None:
    data = encoded(noisy(40, 30))
    assert decoding.picture_by(lambda _: np.zeros((40, 30, 3), np.uint8), data) is None
    assert decoding.picture_by(lambda _: np.zeros((30, 40, 3), np.uint8), data) is not None


def test_decoding_leaves_the_filters_of_warnings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchcodec changes them where it is given bytes: threads don't bear it, and warnings come again."""
    monkeypatch.setattr(warnings, "catch_warnings", lambda *_, **__: pytest.fail("filters were changed"))
    assert by_torchcodec(encoded(noisy(40, 30))).shape == (30, 40, 3)


def test_exif_is_looked_at_once(data: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bool] = []
    plain = plain_jpeg

    def counting(content: bytes, *, upright: bool = False) -> Any:
        looks.append(upright)
        return plain(content, upright=upright)

    monkeypatch.setattr(decoding, "plain_jpeg", counting)
    for _ in range(2):
        data.read_pixels(data.samples[0], decoder=jpeg_decoding.decoded)
    assert looks == [False, True]
