"""Example code for the model card: load an image file with the same pixels as the study."""

from __future__ import annotations

from frostline.data import Rendering
from frostline.data.pixels.rendering import ALPHA, AUTO, PER_IMAGE, parsed_range

# Pixel types that Pillow reads unchanged; of 16-bit colours it reads only the high byte.
PILLOW_DTYPES = ("uint16", "int16", "int32", "float32")
FOLDER, FILE = "path/to/this/folder", "image.jpg"


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
