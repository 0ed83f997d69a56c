"""Label images with the model in this folder. Needs Pillow, and ONNX Runtime or torch alone.

    python infer.py image.jpg …    one line an image: path, class, probability, separated by tabs
    python infer.py --check        recompute the golden images, and tell if they agree

    from infer import predict
    for row in predict(["image.jpg"]):
        print(row.path, row.label, row.probability)

`config.json` beside this file says how an image becomes the model's input. Formats: AVIF, BMP, GIF, JPEG,
JPEG 2000, PNG, PPM, TIFF and WebP; HEIC where pillow-heif is installed. With torch, images of more than
8 bits need numpy as well.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import math
import os
import struct
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError, features

FOLDER = Path(__file__).resolve().parent
GOLDEN, TENSORS, EXPECTED = "golden", "tensors.npz", "expected.json"
BATCH = 32  # images that go through the network at once, as in frostline's predictions
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Larger images are refused, and those above MAX_HELD_PIXELS halved, as they were for training.
MAX_PIXELS, MAX_HELD_PIXELS = 200_000_000, 1024 * 1024 * 1024 // 4 // 3
MIN_SIDE_PIXELS = 2
DECODERS = ("jpg", "libjpeg_turbo", "jpg_2000", "zlib", "webp", "avif", "libtiff")  # libraries in Pillow
# Mean difference from the golden tensors, in 1/255, that another version of a decoder may make: IEEE
# 1180-1990 allows an inverse DCT to be off by one level at a pixel, and by far less in the mean.
MAX_LEVELS = 1.0
# TIFF 6.0 and DNG 1.4: a page that is a smaller copy of another, white stored as zero, a camera's raw file.
SMALLER_COPY, PHOTOMETRIC, WHITE_IS_ZERO, DNG_VERSION = 254, 262, 0, 50706
ORIENTATION = 0x0112  # EXIF 2.3; 1 is upright
INTEGERS = {"I;16S": "int16", "I;16BS": "int16", "I;16NS": "int16", "I;32N": "uint32", "I;32": "uint32"}
# Of a range of an image's own, this share of the pixels lies outside at either end; and the places a side at
# which pixels are looked at for it.
TAIL, SIDE = 0.001, 256
STRIP_PIXELS = 1_000_000  # scaled at once: a few megabytes

_pillows_limit = threading.Lock()


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the message says why."""


class Prediction(NamedTuple):
    """The class of an image, its probability, and the probabilities of all classes, 0–1."""

    path: str
    label: str
    probability: float
    probabilities: Mapping[str, float]


def predict(paths: Iterable[str | Path]) -> list[Prediction]:
    """Return a prediction for each image file. Raises `UnreadableImage` for one that cannot be decoded."""
    return model(FOLDER).predict(paths)


@lru_cache(maxsize=2)
def model(folder: Path) -> Model:
    """Return the model in a folder; it is loaded once."""
    return Model(folder)


class Model:
    """A network, and what becomes of an image before and after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.classes: list[str] = self.config["label_names"]
        self.network: Network = NETWORKS[self.config["program"]["runtime"]](folder, self.config)

    def predict(self, paths: Iterable[str | Path]) -> list[Prediction]:
        """Return a prediction for each image file."""
        names = [os.fspath(path) for path in paths]
        rows: list[Prediction] = []
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            rows += self.rows(batch, [self.tensor(name) for name in batch])
        return rows

    def rows(self, names: Sequence[str], tensors: Sequence[Any]) -> list[Prediction]:
        """Return a prediction for each of the network's inputs."""
        probabilities = self.network.probabilities(tensors)
        return [self._row(name, values) for name, values in zip(names, probabilities, strict=True)]

    def _row(self, name: str, values: Sequence[float]) -> Prediction:
        by_label = dict(zip(self.classes, values, strict=True))
        label = max(by_label, key=by_label.__getitem__)
        threshold = self.config.get("threshold")
        if threshold is not None:  # of one class, which it decides for or against
            others = {name: value for name, value in by_label.items() if name != threshold["label"]}
            above = by_label[threshold["label"]] >= threshold["probability"]
            label = threshold["label"] if above else max(others, key=others.__getitem__)
        costs = self.config.get("costs")
        if costs is not None:  # costs[label][predicted]: the least expected one is predicted
            expected = {
                name: sum(by_label[true] * costs[true][name] for true in self.classes)
                for name in self.classes
            }
            label = min(expected, key=expected.__getitem__)
        return Prediction(name, label, by_label[label], by_label)

    def tensor(self, path: str | Path) -> Any:
        """Return the network's input for an image file. Raises `UnreadableImage`."""
        try:
            image = decoded(file_bytes(Path(path)), self.config["rendering"])
        except UnreadableImage as error:
            raise UnreadableImage(f"{os.fspath(path)} {error}") from error
        return self.network.tensor(squared(image, self.config["preprocessing"]))


class Network:
    """A program that takes images and returns logits; of ONNX Runtime or of torch."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.file = folder / config["program"]["file"]
        self.input, self.output = config["input"], config["output"]
        self.mean, self.std = config["preprocessing"]["mean"], config["preprocessing"]["std"]
        self.takes_bytes = config["input"]["dtype"] == "uint8"

    def tensor(self, image: Image.Image) -> Any:
        """Return an RGB image of the right size as the program takes it."""
        raise NotImplementedError

    def stored(self, raw: bytes, shape: tuple[int, ...]) -> Any:
        """Return a stored input."""
        raise NotImplementedError

    def probabilities(self, tensors: Sequence[Any]) -> list[list[float]]:
        """Return the softmax of the logits; the temperature is part of the program."""
        raise NotImplementedError

    def levels_apart(self, ours: Any, stored: Any) -> float:
        """Return the mean difference of two inputs in levels of 1/255; 0 only where all values are equal."""
        raise NotImplementedError

    @property
    def level(self) -> float:
        """One of 255 levels, as it is in the program's input."""
        return 1.0 if self.takes_bytes else 1 / (255 * max(self.std))


class OnnxNetwork(Network):
    """A program of ONNX Runtime, on the processor."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        import numpy as np
        import onnxruntime

        super().__init__(folder, config)
        self.np: Any = np
        self.session = onnxruntime.InferenceSession(str(self.file), providers=["CPUExecutionProvider"])

    def tensor(self, image: Image.Image) -> Any:
        """Return an array: uint8 (size, size, 3), or float32 (3, size, size)."""
        np = self.np
        pixels = np.asarray(image)
        if self.takes_bytes:
            return pixels
        mean, std = (
            np.asarray(values, dtype=np.float32).reshape(3, 1, 1) for values in (self.mean, self.std)
        )
        return (pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255) - mean) / std

    def stored(self, raw: bytes, shape: tuple[int, ...]) -> Any:
        """Return the array that `raw` holds."""
        return self.np.frombuffer(raw, dtype=self.input["dtype"]).reshape(shape)

    def probabilities(self, tensors: Sequence[Any]) -> list[list[float]]:
        """Return the softmax in double precision."""
        np = self.np
        batch = np.ascontiguousarray(np.stack(tensors))
        logits = self.session.run([self.output["name"]], {self.input["name"]: batch})[0].astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        rows: list[list[float]] = (powers / powers.sum(axis=1, keepdims=True)).tolist()
        return rows

    def levels_apart(self, ours: Any, stored: Any) -> float:
        """Return the mean difference."""
        np = self.np
        return float(np.abs(ours.astype(np.float64) - stored.astype(np.float64)).mean()) / self.level


class TorchNetwork(Network):
    """A program of torch.export, on the processor."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        import torch

        super().__init__(folder, config)
        self.torch: Any = torch
        self.module = torch.export.load(self.file).module()

    def tensor(self, image: Image.Image) -> Any:
        """Return a tensor: uint8 (size, size, 3), or float32 (3, size, size)."""
        torch = self.torch
        pixels = self.stored(image.tobytes(), (image.height, image.width, 3), torch.uint8)
        if self.takes_bytes:
            return pixels
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return pixels.permute(2, 0, 1).to(torch.float32).div_(255).sub_(mean).div_(std)

    def stored(self, raw: bytes, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Return the tensor that `raw` holds."""
        dtype = dtype or getattr(self.torch, self.input["dtype"])
        return self.torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)

    def probabilities(self, tensors: Sequence[Any]) -> list[list[float]]:
        """Return the softmax in double precision."""
        with self.torch.inference_mode():
            logits = self.module(self.torch.stack(list(tensors)))
            rows: list[list[float]] = logits.double().softmax(dim=1).tolist()
        return rows

    def levels_apart(self, ours: Any, stored: Any) -> float:
        """Return the mean difference."""
        return float((ours.double() - stored.double()).abs().mean()) / self.level


NETWORKS: dict[str, type[Network]] = {"onnxruntime": OnnxNetwork, "torch": TorchNetwork}


# From a file to an upright RGB image of 8 bits.


def file_bytes(path: Path) -> bytes:
    """Return a file's bytes. Raises `UnreadableImage` with the reason alone."""
    if path.is_dir():
        raise UnreadableImage("is a folder, not a file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"cannot be read ({error.strerror or error})") from error


def decoded(content: bytes, rendering: Mapping[str, Any]) -> Image.Image:
    """Return an image file's content as upright RGB of 8 bits. Raises `UnreadableImage`."""
    try:
        with opened(content) as image:
            large = image.width * image.height > MAX_HELD_PIXELS
            with limit_raised() if large else contextlib.nullcontext():
                kind = kind_of(image)
                if kind:
                    return deep_picture(image, kind, large, lambda: opened(content), rendering)
                return picture(image, large, rendering["ground"])
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        reason = f"is not an image in a format known here ({', '.join(FORMATS)})" if content else "is empty"
        raise UnreadableImage(reason) from None
    except Exception as error:  # decoders raise whatever they stumble over
        first_line = (str(error).splitlines() or [""])[0]
        raise UnreadableImage(f"cannot be decoded ({type(error).__name__}: {first_line})") from error


@lru_cache(maxsize=1)
def formats() -> tuple[str, ...]:
    """Return the formats that can be decoded here."""
    Image.init()
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except ImportError:
        pass
    return tuple(name for name in FORMATS if name in Image.OPEN)


def opened(content: bytes) -> Image.Image:
    """Open an image's header, without Pillow's own limit of pixels, which is lower."""
    if content[128:132] == b"DICM":
        raise UnreadableImage("is a DICOM image, which frostline reads and this script does not")
    for name in formats():
        factory, accepts = Image.OPEN[name]
        verdict = accepts is None or accepts(content[:16])
        if not verdict or isinstance(verdict, str):  # a string says that a library is missing
            continue
        try:
            image: Image.Image = factory(io.BytesIO(content), "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # it is of another format
            continue
        width, height = image.size
        tags: Any = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
        if width * height > MAX_PIXELS:
            raise UnreadableImage(f"has {width}×{height} pixels; more than {MAX_PIXELS:,} are refused")
        if min(width, height) < MIN_SIDE_PIXELS:
            raise UnreadableImage(f"has only {width}×{height} pixels")
        if int(tags.get(SMALLER_COPY, 0) or 0) & 1 or DNG_VERSION in tags:
            raise UnreadableImage("is a camera's raw file: export it as JPEG, PNG or TIFF")
        if image.width * image.height > MAX_HELD_PIXELS and image.format in ("JPEG", "MPO"):
            image.draft(None, (image.width // 2, image.height // 2))
        return image
    raise UnidentifiedImageError


@contextlib.contextmanager
def limit_raised() -> Iterator[None]:
    """A block in which Pillow neither warns of, nor refuses, an image of `MAX_PIXELS`."""
    with _pillows_limit:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max(MAX_PIXELS, before or 0)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def picture(image: Image.Image, large: bool, ground: Sequence[int]) -> Image.Image:
    """Return an opened image of 8 bits a channel as RGB, upright, its transparency on the background."""
    image.load()
    if large and image.width * image.height > MAX_HELD_PIXELS:
        mode = "RGBA" if image.has_transparency_data else "RGB"
        image = (image if image.mode in ("L", mode) else image.convert(mode)).reduce(2)
    with contextlib.suppress(Exception):  # an EXIF block that cannot be read says nothing
        image = ImageOps.exif_transpose(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    return on_ground(image.convert("RGBA"), ground)


def on_ground(image: Image.Image, ground: Sequence[int]) -> Image.Image:
    """Return an image with transparency composited on a colour."""
    page = Image.new("RGBA", image.size, (ground[0], ground[1], ground[2], 255))
    return Image.alpha_composite(page, image).convert("RGB")


# Images of more than 8 bits a channel.


def unpacking(image: Image.Image) -> tuple[str, int]:
    """Return what Pillow will unpack samples with, and the largest value that a PPM says it has."""
    tiles: Any = getattr(image, "tile", None)
    if not tiles:
        return "", 0
    args = tiles[0][3] if isinstance(tiles[0][3], tuple) else (tiles[0][3],)
    mode = args[0] if args and isinstance(args[0], str) else ""
    return mode, args[1] if len(args) > 1 and isinstance(args[1], int) else 0


def kind_of(image: Image.Image) -> str:
    """Return what an opened image holds ("uint16", "uint16 RGB", "float32" …); "" for 8 bits."""
    unpacked, maximum = unpacking(image)
    if image.mode == "F":
        return "float32"
    if image.mode.startswith("I;16"):
        return "uint16"
    if image.mode == "I":
        return "uint16" if image.format in ("PNG", "PPM") else INTEGERS.get(unpacked, "int32")
    if image.format == "PPM" and maximum > 255:
        return "uint16 RGB"
    if ";16" in unpacked and image.mode in ("LA", "RGB", "RGBA"):
        return "uint16" if unpacked.startswith("LA") else "uint16 RGB"
    return ""


def deep_picture(
    image: Image.Image,
    kind: str,
    large: bool,
    again: Callable[[], Image.Image],
    rendering: Mapping[str, Any],
) -> Image.Image:
    """Return deep pixels as RGB: scaled from their range, and transparency on the background."""
    try:
        import numpy as np
    except ImportError:
        raise UnreadableImage(f"holds {kind} values: images of more than 8 bits need numpy") from None
    values, alpha = deep_values(image, kind, again)
    if values.dtype.kind == "f" and not np.isfinite(values).any():
        raise UnreadableImage("holds no finite pixel value")
    if large:
        values, alpha = halved(values), None if alpha is None else alpha[: len(alpha) // 2 * 2 : 2]
        alpha = None if alpha is None else alpha[:, : alpha.shape[1] // 2 * 2 : 2]
    low, high = range_of(kind, rendering) or own_range(values, alpha)
    result = Image.fromarray(scaled(values, low, high)).convert("RGB")
    if alpha is None:
        return result
    result.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    return on_ground(result, rendering["ground"])


def range_of(kind: str, rendering: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the values that become black and white; `None` where each image has its own range."""
    requested = rendering["intensity_range"]
    if requested in ("auto", "per-image"):
        limits = rendering["ranges"].get(kind)
        return None if limits is None else (float(limits[0]), float(limits[1]))
    low, high = map(float, requested.split(","))
    return low, high


def own_range(values: Any, alpha: Any) -> tuple[float, float]:
    """Return an image's own range, from the pixels that can be seen, without `TAIL` at either end."""
    import numpy as np

    sample = thinned(values)
    if alpha is not None:
        visible = thinned(alpha) > 0
        sample = sample[visible] if visible.any() else sample
    sample = sample[np.isfinite(sample)].astype(np.float64)
    if not len(sample):
        sample = values[np.isfinite(values)].astype(np.float64)
    low = float(np.quantile(sample, TAIL, method="higher"))
    high = float(np.quantile(sample, 1 - TAIL, method="lower"))
    low, high = min(low, high), max(low, high)
    return (low, high) if high > low else (low, low + max(1.0, abs(low) * 1e-6))


def thinned(values: Any) -> Any:
    """Return the values at `SIDE` places a side at most, evenly spread."""
    import numpy as np

    rows, columns = (
        ((np.arange(min(size, SIDE)) + 0.5) * size / min(size, SIDE)).astype(np.int64)
        for size in values.shape[:2]
    )
    return values[rows[:, None], columns[None, :]]


def scaled(values: Any, low: float, high: float) -> Any:
    """Return values as 0–255 between `low` and `high`; values outside are clipped, NaN becomes 0."""
    import numpy as np

    pixels = np.empty(values.shape, dtype=np.uint8)
    wide = np.float64 if values.dtype.itemsize > 2 else np.float32
    rows = max(1, STRIP_PIXELS // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        strip: Any = (values[start : start + rows].astype(wide) - low) * (255 / (high - low))
        pixels[start : start + rows] = np.nan_to_num(strip, nan=0.0).clip(0, 255).round()
    return pixels


def halved(values: Any) -> Any:
    """Return means of two by two values, of the type they were."""
    import numpy as np

    height, width = (size // 2 * 2 for size in values.shape[:2])
    floats = values.dtype.kind == "f"
    pixels = np.empty((height // 2, width // 2, *values.shape[2:]), dtype=values.dtype)
    for row in range(0, height, 2):
        lines = values[row : row + 2, :width].astype(values.dtype if floats else np.int64).sum(axis=0)
        sums = lines[0::2] + lines[1::2]
        pixels[row // 2] = sums / 4 if floats else sums // 4
    return pixels


def deep_values(image: Image.Image, kind: str, again: Callable[[], Image.Image]) -> tuple[Any, Any]:
    """Return the upright values (height, width[, 3]), and transparency (height, width) or `None`."""
    import numpy as np

    unpacked, _ = unpacking(image)
    key, alpha = image.info.get("transparency"), None
    tags: Any = getattr(image, "tag_v2", {})
    photometric = tags.get(PHOTOMETRIC)
    if image.format == "PPM" and kind == "uint16 RGB":
        values = ppm_values(image)
    elif image.format != "PPM" and image.mode in ("LA", "RGB", "RGBA"):
        with again() as reopened:
            values, alpha = colour_values(image, reopened, unpacked)
    else:
        values = np.asarray(image)
        values = values.view(np.uint32) if kind == "uint32" else values  # which Pillow reads as signed
        values = values.astype(np.dtype(kind), copy=False)
    if photometric == WHITE_IS_ZERO:
        values = 65535 - values if kind == "uint16" else -values.astype(np.float64)
    if alpha is None and key is not None and not isinstance(key, bytes):
        clear = values == np.asarray(key)
        alpha = np.where(clear.all(-1) if values.ndim == 3 else clear, 0, 255).astype(np.uint8)
    return turned(values, image), None if alpha is None else turned(alpha, image)


def colour_values(image: Image.Image, reopened: Image.Image, unpacked: str) -> tuple[Any, Any]:
    """Return 16-bit colours and transparency: Pillow keeps one byte of two, so each is decoded in turn."""
    import numpy as np

    if unpacked.startswith("LA"):  # four bytes a pixel, as RGBA has
        reopened._mode = "RGBA"
        both = decoded_as(reopened, "RGBA").astype(np.uint16)
        return both[..., 0] << 8 | both[..., 1], both[..., 2].astype(np.uint8)
    native = ";16L" if sys.byteorder == "little" else ";16B"
    own = unpacked.replace("RGBa", "RGBA").replace(";16N", native)
    swapped = own.replace(";16L", ";16X").replace(";16B", ";16L").replace(";16X", ";16B")
    high, low = decoded_as(image, own).astype(np.uint16), decoded_as(reopened, swapped)
    samples: Any = high << 8 | low
    colours: Any = samples[..., :3]
    alpha = high[..., 3].astype(np.uint8) if samples.shape[-1] == 4 else None
    if "RGBa" in unpacked:  # colours multiplied by the transparency
        share = np.maximum(samples[..., 3:], 1) / 65535
        colours = np.minimum(colours / share, 65535).round().astype(np.uint16)
    return colours, alpha


def decoded_as(image: Image.Image, unpack: str) -> Any:
    """Decode an image with another unpacking than its plug-in chose."""
    import numpy as np

    tiles: list[Any] = getattr(image, "tile", [])
    for position, (*head, args) in enumerate(tiles):
        changed = (unpack, *args[1:]) if isinstance(args, tuple) else unpack
        named = hasattr(tiles[position], "args")
        tiles[position] = type(tiles[position])(*head, changed) if named else (*head, changed)
    return np.asarray(image)


def ppm_values(image: Image.Image) -> Any:
    """Return the binary samples of a PPM of 16 bits: big-endian."""
    import numpy as np

    file: Any = image
    codec, _, offset, _ = file.tile[0]
    file.fp.seek(offset)
    data = file.fp.read(6 * image.width * image.height)
    if codec != "ppm" or len(data) < 6 * image.width * image.height:
        raise UnreadableImage("is truncated, or written as text")
    return np.frombuffer(data, dtype=">u2").reshape(image.height, image.width, 3).astype(np.uint16)


def turned(values: Any, image: Image.Image) -> Any:
    """Return an array turned as the EXIF orientation says; a TIFF is turned while it is decoded."""
    import numpy as np

    try:
        orientation = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # an EXIF block that cannot be read says nothing
        return values
    if orientation in (5, 6, 7, 8):
        values = np.swapaxes(values, 0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


# From an RGB image to a square.


def squared(image: Image.Image, preprocessing: Mapping[str, Any]) -> Image.Image:
    """Return an RGB image resized and cropped to the network's size, as timm and torchvision do."""
    size, side, mode = preprocessing["size"], preprocessing["resize"], preprocessing["crop_mode"]
    width, height = image.size
    if mode == "squash":
        target = (side, side)
    elif mode == "border":
        ratio = max(width, height) / side
        target = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    else:
        long = int(side * max(width, height) / min(width, height))
        target = (side, long) if width <= height else (long, side)
    if target != image.size:
        image = image.resize(target, Image.Resampling[preprocessing["interpolation"].upper()])
    fill = tuple(preprocessing["fill"]) if mode == "border" else (0, 0, 0)
    return cropped(image, size, fill, floor=mode == "floor")


def cropped(image: Image.Image, size: int, fill: tuple[int, ...], floor: bool) -> Image.Image:
    """Return the middle `size` × `size` pixels; what is smaller is centred on a colour."""
    width, height = image.size
    if not floor and min(width, height) < size:
        page = Image.new("RGB", (max(width, size), max(height, size)), fill)
        page.paste(image, (max(0, size - width) // 2, max(0, size - height) // 2))
        image = page
    margins = (image.width - size, image.height - size)
    left, top = (margin // 2 if floor else round(margin / 2) for margin in margins)
    return image.crop((left, top, left + size, top + size))


# The golden images.


class Agreement(NamedTuple):
    """The result of a check: means over a tensor in 1/255, and largest differences of probabilities."""

    images: int
    equal_tensors: int
    levels_apart: float
    apart_from_tensors: float
    apart_from_images: float
    tolerance: float
    tolerance_reason: str
    decoder_differs: tuple[str, ...]
    faults: tuple[str, ...]


def decoder() -> dict[str, str | None]:
    """Return the versions of Pillow and of the libraries in it that decode."""
    return {"pillow": features.version_module("pil"), **{name: _version(name) for name in DECODERS}}


def _version(name: str) -> str | None:
    try:
        return features.version(name)
    except ValueError:  # an older Pillow does not know it
        return None


def arrays(path: Path) -> Iterator[tuple[str, bytes, tuple[int, ...]]]:
    """Yield name, bytes and shape of each array of an .npz file, without numpy."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            # NEP 1: magic, version, the header's length in 2 bytes (version 1) or 4, and a literal
            wide = data[6] > 1
            (length,) = struct.unpack_from("<I" if wide else "<H", data, 8)
            begin = 12 if wide else 10
            header = ast.literal_eval(data[begin : begin + length].decode("latin-1"))
            yield name.removesuffix(".npy"), data[begin + length :], header["shape"]


def check(loaded: Model) -> Agreement:
    """Recompute the golden images: tensors from the files, and probabilities from both."""
    golden = loaded.folder / GOLDEN
    expected = json.loads((golden / EXPECTED).read_text(encoding="utf-8"))
    stored = {name: (raw, shape) for name, raw, shape in arrays(golden / TENSORS)}
    own = decoder()
    differs = tuple(
        f"{name} {own.get(name)}, {version} then"
        for name, version in expected["decoder"].items()
        if own.get(name) != version
    )
    faults: list[str] = []
    levels: list[float] = []
    from_tensors: list[float] = []
    from_images: list[float] = []
    for row in expected["images"]:
        raw, shape = stored[row["file"]]
        golden_tensor = loaded.network.stored(raw, shape)
        try:
            tensor = loaded.tensor(golden / row["file"])
        except UnreadableImage as error:
            faults.append(str(error))
            continue
        levels.append(loaded.network.levels_apart(tensor, golden_tensor))
        probabilities = [row["probabilities"][name] for name in loaded.classes]
        for tensors, apart in ((golden_tensor, from_tensors), (tensor, from_images)):
            values = loaded.network.probabilities([tensors])[0]
            apart.append(_largest(values, probabilities))
    return Agreement(
        images=len(expected["images"]),
        equal_tensors=levels.count(0.0),
        levels_apart=max(levels, default=math.nan),
        apart_from_tensors=max(from_tensors, default=math.nan),
        apart_from_images=max(from_images, default=math.nan),
        tolerance=expected["tolerance"],
        tolerance_reason=expected["tolerance_reason"],
        decoder_differs=differs,
        faults=tuple(faults),
    )


def _largest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    differences = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    return math.nan if any(map(math.isnan, differences)) else max(differences)


def agrees(result: Agreement) -> bool:
    """Return whether tensors and probabilities agree.

    With the decoders of the export, tensors must be equal bit for bit, and probabilities within the tolerance
    from either. With others, pixels of an image may differ by rounding: then the probabilities of the stored
    tensors must be within the tolerance, and the tensors within `MAX_LEVELS` in the mean.
    """
    if result.faults or not result.apart_from_tensors <= result.tolerance:
        return False
    if result.decoder_differs:
        return result.levels_apart <= MAX_LEVELS
    return result.equal_tensors == result.images and result.apart_from_images <= result.tolerance


def report(result: Agreement) -> str:
    """Return the result of a check in sentences."""
    lines = list(result.faults)
    tensors = f"{result.equal_tensors} of {result.images} tensors are equal bit for bit"
    if result.equal_tensors < result.images:
        tensors += f", and the others {result.levels_apart:.2g} of 255 levels apart in the mean"
    lines.append(f"{tensors}.")
    lines.append(
        f"Probabilities are at most {result.apart_from_tensors:.1g} apart from the stored tensors, and "
        f"{result.apart_from_images:.1g} from the image files; {result.tolerance:.1g} is allowed, since "
        f"{result.tolerance_reason}."
    )
    if result.decoder_differs:
        lines.append(
            "Decoders are of other versions than at the export, and may round otherwise, so tensors may "
            f"differ by {MAX_LEVELS:g} level in the mean: {'; '.join(result.decoder_differs)}."
        )
    lines.append("They agree." if agrees(result) else "They do NOT agree.")
    return "\n".join(lines)


# The command line.


def printable(text: str) -> str:
    """Return text with control characters and undecodable bytes as escapes: one line, one column."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0; 1 where an image was not read, or the golden images do not agree."""
    parser = argparse.ArgumentParser(description="Label images with the model in this folder.")
    parser.add_argument("images", nargs="*", help="image files")
    parser.add_argument("--check", action="store_true", help="recompute the golden images, and compare")
    options = parser.parse_args(arguments)
    if options.check == bool(options.images):
        parser.error("name image files, or --check")
    if options.check:
        if not (FOLDER / GOLDEN / EXPECTED).is_file():
            parser.error(f"{FOLDER / GOLDEN} holds no golden images: export without --no-golden")
        result = check(model(FOLDER))
        print(report(result))
        return 0 if agrees(result) else 1
    loaded, unread = model(FOLDER), 0
    for start in range(0, len(options.images), BATCH):
        names, tensors = [], []
        for name in options.images[start : start + BATCH]:
            try:
                tensors.append(loaded.tensor(name))
                names.append(name)
            except UnreadableImage as error:
                unread += 1
                print(printable(str(error)), file=sys.stderr)
        for row in loaded.rows(names, tensors) if names else ():
            print(printable(row.path), printable(row.label), f"{row.probability:.6f}", sep="\t")
    return 1 if unread else 0


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # who reads, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)
