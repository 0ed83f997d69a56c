"""Example code for the model card: from an image file to what the network is given, as in the study."""

from __future__ import annotations

import math
from collections.abc import Sequence

from frostline.data import Rendering
from frostline.data.pixels.rendering import ALPHA, AUTO, PER_IMAGE, parsed_range
from frostline.models import Preprocessing

# Pixel types that Pillow reads unchanged; of 16-bit colours it reads only the high byte.
PILLOW_DTYPES = ("uint16", "int16", "int32", "float32")
FOLDER, FILE = "path/to/this/folder", "image.jpg"


def usage_code(
    rendering: Rendering,
    preprocessing: Preprocessing,
    imports: Sequence[str],
    model: str,
    answer: str,
    as_bytes: bool = False,
) -> str:
    """Return code from an image file to probabilities, to be pasted as it is.

    Parameters
    ----------
    rendering : Rendering
    preprocessing : Preprocessing
    imports : sequence of str
        Lines that import what `model` and `answer` need, but for numpy, and those of Pillow.
    model : str
        Lines that load the model.
    answer : str
        Lines that make `probabilities` of `pixels`, an array of one image: float32 (1, 3, size, size), or
        uint8 (1, size, size, 3) where `as_bytes`.
    as_bytes : bool
        The model scales and normalises.

    Returns
    -------
    str
    """
    image_imports, image = image_loading_code(rendering)
    lines = {*image_imports.splitlines(), *imports, "import numpy as np"} - {""}
    if not any("PIL" in line for line in lines):
        lines.add("from PIL import Image")
    blocks = [[], [], []]  # type: list[list[str]]
    for line in sorted(lines, key=lambda line: (line.startswith("from"), line.lower())):
        library = line.split()[1].partition(".")[0]
        place = 0 if library in ("json", "pathlib", "sys") else 2 if library == "frostline" else 1
        blocks[place].append(line)
    header = "\n\n".join("\n".join(block) for block in blocks if block)
    return (
        f"{header}\n\n{model}{image}{squaring_code(preprocessing)}{_batch(preprocessing, as_bytes)}{answer}"
    )


def squaring_code(preprocessing: Preprocessing) -> str:
    """Return code that makes `image` the square that the network sees, with Pillow's resampling."""
    size, crop_mode = preprocessing.size, preprocessing.crop_mode
    side = math.floor(size / preprocessing.crop_pct)
    target = f"({side}, int({side} * h / w)) if w <= h else (int({side} * w / h), {side})"
    if preprocessing.resize == "squash":
        target = f"({side}, {side})"
    elif preprocessing.resize == "pad":
        target = f"[max(1, round(length / (max(w, h) / {side}))) for length in (w, h)]"
    lines = ["w, h = image.size"] if preprocessing.resize != "squash" else []
    lines.append(f"image = image.resize({target}, Image.Resampling.{preprocessing.interpolation.upper()})")
    if preprocessing.resize == "pad":
        lines += [
            f"page = Image.new('RGB', [max(length, {size}) for length in image.size], {preprocessing.fill})",
            f"page.paste(image, [max(0, {size} - length) // 2 for length in image.size])",
            "image = page",
        ]
    if preprocessing.resize == "crop" or side != size:
        half = "({} - {}) // 2" if crop_mode == "floor" else "round(({} - {}) / 2)"
        left, top = half.format("image.width", size), half.format("image.height", size)
        lines += [f"x, y = {left}, {top}", f"image = image.crop((x, y, x + {size}, y + {size}))"]
    return "\n".join(lines).replace("'", '"') + "\n"


def _batch(preprocessing: Preprocessing, as_bytes: bool) -> str:
    """Return code that makes `pixels` of `image`, a batch of one."""
    if as_bytes:
        return "pixels = np.array(image)[None]\n"
    mean, std = ([float(f"{value:.9g}") for value in row] for row in (preprocessing.mean, preprocessing.std))
    return (
        f"mean, std = np.float32({mean}), np.float32({std})\n"
        "pixels = ((np.float32(image) / 255 - mean) / std).transpose(2, 0, 1)[None]\n"
    )


def image_loading_code(rendering: Rendering) -> tuple[str, str]:
    """Return the imports, and the code that loads `FILE` as `image`, 8-bit RGB."""
    if _needs_frostline(rendering):
        return _frostline_code()
    intensity_limits = _single_range(rendering)
    flatten = (
        'image = image.convert("RGBA")\n'
        f'page = Image.new("RGBA", image.size, {(*rendering.ground, 255)})  # background\n'
        'image = Image.alpha_composite(page, image).convert("RGB")\n'
    )
    open_lines, orient_lines = (
        f'with Image.open("{FILE}") as file:\n',
        "    image = ImageOps.exif_transpose(file)\n",
    )
    if intensity_limits is None:
        return "from PIL import Image, ImageOps", open_lines + orient_lines + flatten
    low, high = intensity_limits
    scale_lines = (
        open_lines
        + '    if ";16" in str(getattr(file, "tile", "")) and file.mode in ("LA", "RGB", "RGBA"):\n'
        f'        raise ValueError("{FILE}: Pillow keeps 8 bits of such colours; frostline reads all 16")\n'
        + orient_lines
        + 'if image.mode[0] in "IF":  # more than 8 bits: over the range of the training images\n'
        + f"    low, high = {low!r}, {high!r}\n"
        "    values = np.asarray(image)\n"
        '    wide = values.astype("float64" if values.itemsize > 2 else "float32")\n'
        "    levels = (wide - low) * (255 / (high - low))\n"
        '    image = Image.fromarray(np.nan_to_num(levels, nan=0.0).clip(0, 255).round().astype("uint8"))\n'
    )
    return "import numpy as np\nfrom PIL import Image, ImageOps", scale_lines + flatten


def _single_range(rendering: Rendering) -> tuple[float, float] | None:
    """Return the single range that all deep pixels are scaled from; `None` for none or several."""
    if rendering.ranges:
        return rendering.ranges[0][1:] if len(rendering.ranges) == 1 else None
    return None if rendering.intensity_range in (AUTO, PER_IMAGE) else parsed_range(rendering.intensity_range)


def _needs_frostline(rendering: Rendering) -> bool:
    """Return whether a few lines with Pillow would give other pixels than the study."""
    several = len(rendering.ranges) > 1 or rendering.intensity_range == PER_IMAGE
    return several or any(kind not in ("", ALPHA, *PILLOW_DTYPES) for kind in rendering.learned)


def _frostline_code() -> tuple[str, str]:
    """Return code with frostline, for 16-bit colours or a range for each pixel type or image."""
    return "import json\nfrom pathlib import Path\n\nfrom frostline.data import Rendering, open_image", (
        f'rendering = json.loads(Path("{FOLDER}/config.json").read_text())["frostline"]["rendering"]\n'
        f'image = open_image("{FILE}", Rendering.from_dict(rendering))  # deep pixels as in the study\n'
    )
