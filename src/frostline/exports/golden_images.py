"""Golden images: copies of a few images with tensors and probabilities, and the script that checks them.

The tensors come from frostline's own decoder and preprocessing, the probabilities from the exported program;
`infer.py` makes both anew from the files, without frostline.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags
from torch import Tensor

from frostline import metrics
from frostline.data import Sample, find_images
from frostline.data.pixels import decoding, formats
from frostline.errors import DamagedImage, DataError, ModelError, option
from frostline.exports import infer
from frostline.exports.exported_model import ExportedModel
from frostline.exports.onnx_and_torch import model_input
from frostline.exports.verification import LogitsFunction
from frostline.feature_extraction.image_batches import each_decoded

T = TypeVar("T")

SCRIPT = "infer.py"
IMAGES = 8  # a choice
# Of so many images, those are taken that differ most in format, depth, orientation and class.
CANDIDATES = 64
# Other processors and versions add the same float32 products in another order. What that moves a probability
# by is far less (docs/LOG.md, golden images of ten networks), and what another pixel moves it by far more.
TOLERANCE = 1e-4
REASON = "other processors and versions add float32 numbers in another order, which moves less than that"
INT8_REASON = "other processors round INT8 sums otherwise, which should move no more than quantising did"
SUBSET_NAMES = {"val": "validation images", "train": "training images"}
GIVEN = "given images"


@dataclass(frozen=True)
class GoldenImages:
    """How many golden images there are, and of what; the tolerance of their probabilities, 0–1."""

    images: int
    source: str
    tolerance: float


@dataclass(frozen=True, eq=False)
class _Candidate:
    content: bytes
    suffix: str
    label: str
    traits: tuple[Any, ...]  # format, mode, depth and orientation: what is decoded otherwise
    pixels: Tensor  # resized and cropped: uint8 (3, size, size)


def write(
    exported: ExportedModel,
    folder: Path,
    logits_of: LogitsFunction,
    with_preprocessing: bool,
    images_path: str | Path | None,
    float_logits: LogitsFunction | None = None,
) -> GoldenImages | None:
    """Copy golden images to `golden/`, with tensors and probabilities; `None` where there are no image files.

    Parameters
    ----------
    exported
        The model.
    folder
        The export's folder.
    logits_of
        The exported program.
    with_preprocessing
        Whether the program takes bytes.
    images_path
        Images to take where the study's own cannot be read.
    float_logits
        The program before it was quantised: INT8 may differ from itself on another processor by no more than
        quantising changed it.
    """
    candidates, source = _candidates(exported, images_path)
    chosen = _different(candidates)
    if not chosen:
        return None
    golden = folder / infer.GOLDEN
    golden.mkdir()
    names = [f"image-{number}{candidate.suffix}" for number, candidate in enumerate(chosen, start=1)]
    pixels = torch.stack([candidate.pixels for candidate in chosen])
    probabilities = _probabilities(logits_of, pixels)
    tolerance = TOLERANCE
    if float_logits is not None:
        tolerance = max(tolerance, float(np.abs(_probabilities(float_logits, pixels) - probabilities).max()))
    for name, candidate in zip(names, chosen, strict=True):
        (golden / name).write_bytes(candidate.content)
    inputs = model_input(pixels, exported.preprocessing, with_preprocessing).contiguous().numpy()
    arrays: dict[str, Any] = dict(zip(names, inputs, strict=True))
    np.savez_compressed(golden / infer.TENSORS, **arrays)
    expected = {
        "of": source,
        "decoder": infer.decoder(),
        "tolerance": tolerance,
        "tolerance_reason": INT8_REASON if tolerance > TOLERANCE else REASON,
        "images": [
            {
                "file": name,
                "label": candidate.label,
                "probabilities": dict(zip(exported.classes, map(float, row), strict=True)),
            }
            for name, candidate, row in zip(names, chosen, probabilities, strict=True)
        ],
    }
    text = json.dumps(expected, indent=1, allow_nan=False)
    (golden / infer.EXPECTED).write_text(text + "\n", encoding="utf-8")
    return GoldenImages(len(chosen), source, tolerance)


def write_script(folder: Path) -> None:
    """Copy `infer.py`, which reads its settings from `config.json`."""
    (folder / SCRIPT).write_bytes(Path(infer.__file__).read_bytes())


def note(golden: GoldenImages | None) -> str:
    """Return a note on the golden images: that they are pictures, which not everybody may have."""
    if golden is None:
        return (
            f"There are no golden images, since no image file of the study's can be read here: {SCRIPT} "
            "has nothing to check itself by."
        )
    return (
        f"{infer.GOLDEN}/ holds {golden.images} of the {golden.source} as they are, without their names, for "
        f"python {SCRIPT} --check. Leave them out with --no-golden where nobody else may see them."
    )


def require_agreement(folder: Path) -> None:
    """Check the golden images as `python infer.py --check` does. Raises `ModelError`."""
    result = infer.check(infer.Model(folder))
    if not infer.agrees(result):
        raise ModelError(
            "infer.py does not give what the study gives, so nothing was written; expected equal tensors and "
            f"probabilities. {' '.join(infer.report(result).splitlines())} Leave the golden images out with "
            f"{option('golden', False)}, and report this with the images' format."
        )


def _probabilities(logits_of: LogitsFunction, pixels: Tensor) -> NDArray[np.float64]:
    """Return probabilities (n, classes), image by image, as the script computes them."""
    return metrics.softmax(np.concatenate([logits_of(image[None]) for image in pixels]))


def _candidates(exported: ExportedModel, images_path: str | Path | None) -> tuple[list[_Candidate], str]:
    """Return images of the run's val, else of its train, else the given ones; and their source."""
    try:
        data = exported.data()
    except (DataError, OSError):
        data = None
    if data is not None and data.root is not None:
        for subset, source in SUBSET_NAMES.items():
            samples = sorted(data.subset(subset), key=lambda sample: sample.digest)  # a fixed random order
            candidates = _decoded(partial(_of_sample, exported, data.root), samples)
            if candidates:
                return candidates, source
    if images_path is None:
        return [], ""
    return _decoded(partial(_of_file, exported), find_images(images_path)), GIVEN


def _decoded(candidate_of: Callable[[T], _Candidate | None], items: Iterable[T]) -> list[_Candidate]:
    """Return up to `CANDIDATES` images; they end where one was moved or changed: the others were, too."""
    candidates: list[_Candidate] = []
    with contextlib.suppress(DataError):
        for candidate in each_decoded(candidate_of, items):
            if candidate is not None:
                candidates.append(candidate)
            if len(candidates) == CANDIDATES:
                break
    return candidates


def _of_sample(exported: ExportedModel, root: Path, sample: Sample) -> _Candidate | None:
    """Return a study's image; `None` where it can't be used. Raises `DataError`: it was moved or changed."""
    content = decoding.read_bytes(root / sample.path)
    if hashlib.sha256(content).hexdigest() != sample.digest:
        raise DataError(f"{sample.path} has changed.")
    return _candidate(exported, content, sample.path, sample.label)


def _of_file(exported: ExportedModel, path: Path) -> _Candidate | None:
    """Return a given image; `None` where it can't be used."""
    try:
        return _candidate(exported, decoding.read_bytes(path), str(path), "")
    except DamagedImage:
        return None


def _candidate(exported: ExportedModel, content: bytes, path: str, label: str) -> _Candidate | None:
    """Return an image that the script can read, too; `None` where it is damaged or DICOM."""
    try:
        picture = decoding.picture(content)
        image = formats.identified(io.BytesIO(content))
        if image is None:  # DICOM
            return None
        with image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            traits = (image.format, image.mode, picture.kind, orientation)
            suffix = _suffix(path, image.format)
    except (DamagedImage, OSError):
        return None
    pixels = exported.preprocessing.crop(picture.rgb(exported.rendering))
    return _Candidate(content, suffix, label, traits, pixels)


def _suffix(path: str, image_format: str | None) -> str:
    """Return the end of a golden image's name; the rest is left out, since names tell of people."""
    suffix = Path(path).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else f".{str(image_format).lower()}"


def _different(candidates: list[_Candidate]) -> list[_Candidate]:
    """Return up to `IMAGES` images: the rarest traits first, then the rarest class."""
    chosen: list[_Candidate] = []
    left = list(candidates)
    while left and len(chosen) < IMAGES:
        traits = Counter(candidate.traits for candidate in chosen)
        labels = Counter(candidate.label for candidate in chosen)
        chosen.append(min(left, key=lambda one: (traits[one.traits], labels[one.label])))
        left.remove(chosen[-1])
    return chosen
