"""torchcodec in Pillow's place: the same bits of plain JPEGs, and Pillow for all others."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Iterator
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
from frostline.data.pixels.jpeg_segments import plain_size
from frostline.errors import DamagedImage
from frostline.feature_extraction import image_batches, jpeg_decoding
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images
from frostline.feature_extraction.jpeg_decoding import decoder_name, jpeg_decoder
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


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decoding.picture(data).rgb())


@pytest.fixture
def decoder() -> Iterator[decoding.JpegDecoder]:
    torchcodecs = jpeg_decoder()
    assert torchcodecs is not None, "torchcodec is a dependency"
    return torchcodecs


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (17, 33), (101, 99), (250, 187)])
def test_torchcodec_decodes_to_pillows_bits(size: tuple[int, int], decoder: decoding.JpegDecoder) -> None:
    image = noisy(*size)
    for quality, colour, progressive, restarts in itertools.product((20, 75, 95), (0, 1, 2), (0, 1), (0, 1)):
        options: dict[str, Any] = {
            "quality": quality,
            "subsampling": colour,
            "progressive": bool(progressive),
        }
        data = encoded(image, **options, **({"restart_marker_rows": 1} if restarts else {}))
        assert plain_size(data) == size
        np.testing.assert_array_equal(decoder(data), by_pillow(data))
    for data in (encoded(image.convert("L")), encoded(image, keep_rgb=True), encoded(image, optimize=True)):
        assert plain_size(data) == size
        np.testing.assert_array_equal(decoder(data), by_pillow(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_what_is_cut_off_anywhere_or_damaged_is_answered_as_pillow_answers(
    progressive: bool, decoder: decoding.JpegDecoder, capfd: pytest.CaptureFixture[str]
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
        found = decoding.picture_by(decoder, data)
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
def test_what_only_pillow_reads_rightly_is_left_to_it(name: str, decoder: decoding.JpegDecoder) -> None:
    assert decoding.picture_by(decoder, NOT_PLAIN[name]) is None


def test_upright_photographs_with_exif_are_plain(decoder: decoding.JpegDecoder) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    for data in (_oriented(1), encoded(noisy(40, 30), exif=exif), _with_xmp(b"<dc:title/>")):
        assert plain_size(data) == (40, 30)
        np.testing.assert_array_equal(decoder(data), by_pillow(data))


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
    assert decoder_name().startswith("torchcodec")
    monkeypatch.setattr(image_batches, "jpeg_decoder", lambda: None)
    assert all((pixels == images()[item]).all() for pixels, item in zip(ours, items, strict=True))


def test_what_pixels_are_noted_does_not_depend_on_the_decoder(
    data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: dict[str, bytes] = {}

    def note(digest: str, picture: decoding.Picture) -> None:
        noted[digest] = pixel_digest.digest_of(picture)

    monkeypatch.setattr(pixel_digest, "note", note)
    for sample in data.samples:
        data.read_pixels(sample, decoder=jpeg_decoder())
    assert noted == {sample.digest: data.pixel_digest(sample) for sample in data.samples}


def test_without_torchcodec_pillow_decodes_and_the_run_says_so(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(name: str) -> frostline.Run:
        return frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / name)

    assert train("with").decoding["jpeg_decoder"].startswith("torchcodec ")
    monkeypatch.setitem(
        __import__("sys").modules, "torchcodec.decoders", None
    )  # as if it could not be loaded
    jpeg_decoding._torchcodec.cache_clear()
    try:
        run = train("without")
    finally:
        jpeg_decoding._torchcodec.cache_clear()
    assert run.decoding["jpeg_decoder"].startswith("pillow ")
    reference = frostline.train(
        tiny_backbone(), data, "linear_probe", study=tmp_path / "r", pixels="reference"
    )
    assert reference.decoding["jpeg_decoder"].startswith("pillow ")


def test_a_file_that_torchcodec_refuses_waits_for_no_room_that_it_holds_itself(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its room is given back before Pillow takes some: else a thread would wait for itself, for ever."""
    room = decode_limit.InFlight(1)  # so that one picture is decoded at a time
    monkeypatch.setattr(decoding, "IN_FLIGHT", room)

    def refuses(_: bytes) -> NDArray[np.uint8]:
        raise RuntimeError("no")

    monkeypatch.setattr(image_batches, "jpeg_decoder", lambda: refuses)
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
