"""infer.py decodes, resizes and normalises to the pixels of training."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deep_examples import dicom, png, ppm, tiff
from frostline.data import Rendering, open_image
from frostline.errors import DamagedImage
from frostline.exports import infer
from frostline.models import Preprocessing

# --- the same pixels -------------------------------------------------------------------------------------


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def turned_jpeg(orientation: int, file_format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo(31, 22), file_format, exif=exif)


def photo(width: int, height: int, seed: int = 0, channels: int = 3) -> Image.Image:
    """Return a picture with edges, so that another resize or another crop shows."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, channels), dtype=np.uint8))


def palette(transparent: bool) -> bytes:
    image = photo(20, 15).quantize(16)
    return encoded(image, "PNG", **({"transparency": 3} if transparent else {}))


def oriented_png(values: np.ndarray[Any, Any], orientation: int) -> bytes:
    """Return a PNG of 16 bits with an EXIF chunk."""
    import struct
    import zlib

    data = png(values)
    exif = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    at = data.index(b"IDAT") - 4
    return data[:at] + chunk + data[at:]


DEEP = np.random.default_rng(1).integers(0, 5000, (18, 23, 4)).astype(np.uint16)
FILES: dict[str, bytes] = {
    "jpeg": encoded(photo(40, 30), "JPEG"),
    "grey jpeg": encoded(photo(40, 30).convert("L"), "JPEG"),
    "cmyk": encoded(photo(40, 30).convert("CMYK"), "JPEG"),
    **{f"jpeg turned {way}": turned_jpeg(way) for way in range(2, 9)},
    "webp turned": turned_jpeg(6, "WEBP"),
    "tiff turned": turned_jpeg(8, "TIFF"),
    "webp": encoded(photo(20, 15, channels=4), "WEBP", lossless=True),
    "gif": encoded(photo(20, 15), "GIF", save_all=True, append_images=[photo(20, 15, 1)]),
    "bmp": encoded(photo(20, 15), "BMP"),
    "one bit": encoded(photo(20, 15).convert("1"), "PNG"),
    "palette": palette(False),
    "palette, transparent": palette(True),
    "rgba": encoded(photo(20, 15, channels=4), "PNG"),
    "la": encoded(photo(20, 15, channels=4).convert("LA"), "PNG"),
    "jpeg 2000": encoded(photo(20, 15), "JPEG2000"),
    "uint16": png(DEEP[..., 0]),
    "uint16 with alpha": png(DEEP[..., :2] * 13),
    "uint16 RGB": png(DEEP[..., :3]),
    "uint16 RGBA": png(DEEP * 13),
    **{f"uint16 turned {way}": oriented_png(DEEP[..., 0], way) for way in range(2, 9)},
    "uint16 RGB turned": oriented_png(DEEP[..., :3], 7),
    "uint16 tiff": tiff(DEEP[..., 0], ">"),
    "uint16 RGB tiff": tiff(DEEP[..., :3]),
    "uint16 RGBA tiff": tiff(DEEP * 13, ">"),
    "uint16 inverted": tiff(DEEP[..., 0], photometric=0),
    "int16": tiff((DEEP[..., 0] // 2).astype(np.int16), ">"),
    "int32": tiff(DEEP[..., 0].astype(np.int32) - 2000),
    "uint32": tiff(DEEP[..., 0].astype(np.uint32) << 16),
    "float32": tiff(np.where(DEEP[..., 0] < 50, np.nan, DEEP[..., 0] / 7).astype(np.float32)),
    "ppm": ppm(DEEP[..., :3]),
    "pgm": ppm(DEEP[..., 0], 4095),
    "flat uint16": png(np.full((5, 6), 700, dtype=np.uint16)),
}
RANGES = (("uint16", 290.0, 3900.5), ("uint16 RGB", 12.0, 4095.0), ("float32", -3.25, 600.1))
RENDERINGS = {
    "own ranges": Rendering(),
    "chosen ranges": Rendering(ranges=RANGES, ground=(128, 128, 128)),
    "given range": Rendering(intensity_range="100,3000", ground=(7, 200, 31)),
    "per image": Rendering(intensity_range="per-image", ranges=RANGES),
}


@pytest.mark.parametrize("rendering", RENDERINGS.values(), ids=RENDERINGS)
@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_the_script_decodes_as_training_does(content: bytes, rendering: Rendering) -> None:
    expected = open_image(content, rendering)
    decoded = infer.decoded(content, rendering.as_dict())
    assert decoded.mode == expected.mode == "RGB"
    assert decoded.size == expected.size
    assert decoded.tobytes() == expected.tobytes()


def test_the_script_halves_what_training_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    from frostline.data.pixels import decoding

    monkeypatch.setattr(decoding, "MAX_HELD_PIXELS", 300)
    monkeypatch.setattr(infer, "MAX_HELD_PIXELS", 300)
    for name, content in FILES.items():
        expected = open_image(content, RENDERINGS["chosen ranges"])
        decoded = infer.decoded(content, RENDERINGS["chosen ranges"].as_dict())
        assert (decoded.size, decoded.tobytes()) == (expected.size, expected.tobytes()), name


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>", "not an image"),
        (FILES["jpeg"][:-400], "truncated|cannot be decoded"),
        (encoded(photo(1, 9), "PNG"), "has only 1×9"),
        (tiff(np.full((4, 4), np.nan, dtype=np.float32)), "no finite"),
        (ppm(DEEP[..., :3])[:-9], "truncated"),
    ],
)
def test_what_training_refuses_the_script_refuses(content: bytes, reason: str) -> None:
    with pytest.raises(DamagedImage):
        open_image(content)
    with pytest.raises(infer.UnreadableImage, match=reason):
        infer.decoded(content, Rendering().as_dict())


@pytest.mark.ecosystem
def test_dicom_is_refused_in_words() -> None:
    content = dicom(DEEP[..., 0])
    with pytest.raises(infer.UnreadableImage, match="DICOM image, which frostline reads"):
        infer.decoded(content, Rendering().as_dict())


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border", "floor"])
@pytest.mark.parametrize(("size", "crop_pct"), [(32, 1.0), (33, 0.875), (24, 0.95), (17, 0.3)])
def test_the_script_resizes_and_crops_as_training_does(crop_mode: str, size: int, crop_pct: float) -> None:
    for interpolation in ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"):
        mean = (0.481, 0.458, 0.408)
        preprocessing = Preprocessing(size, crop_pct, interpolation, mean, (0.3, 0.3, 0.3), crop_mode)
        config = {
            **preprocessing.as_dict(),
            "resize": int(size / crop_pct),
            "fill": list(preprocessing.fill),
        }
        for width, height in ((40, 30), (30, 41), (32, 32), (33, 34), (7, 5), (2, 60), (300, 9)):
            image = photo(width, height)
            expected = preprocessing.crop(image).permute(1, 2, 0).numpy()
            squared = np.asarray(infer.squared(image, config))
            assert np.array_equal(squared, expected), (interpolation, width, height)


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_the_script_normalises_to_the_same_bits(runtime: str) -> None:
    """All 256 levels, with constants whose division by 255 in another order shows."""
    image = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3))
    for mean, std in (
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.5, 0.481, 1 / 3), (0.26, 0.1, 0.7)),
    ):
        preprocessing = Preprocessing(16, 1.0, "bicubic", mean, std)
        network = SimpleNamespace(np=np, torch=torch, takes_bytes=False, mean=mean, std=std)
        network.stored = lambda *arguments, own=network: infer.TorchNetwork.stored(own, *arguments)  # type: ignore[arg-type]
        kind: Any = infer.TorchNetwork if runtime == "torch" else infer.OnnxNetwork
        expected = preprocessing.evaluation()(image).numpy()
        assert np.asarray(kind.tensor(network, image)).tobytes() == expected.tobytes()
