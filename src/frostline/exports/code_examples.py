"""Example code that makes a model's pixels of a file as the study made them: it stands in the model card."""

from __future__ import annotations

from frostline.data import Rendering
from frostline.data.pixels.rendering import ALPHA, AUTO, PER_IMAGE, parsed_range

# Kinds of values whose own bits Pillow gives; of 16-bit colours it gives the high byte alone.
PILLOWS_OWN = ("uint16", "int16", "int32", "float32")
FOLDER, FILE = "path/to/this/folder", "image.jpg"


def upright_rgb(rendering: Rendering) -> tuple[str, str]:
    """Return the imports, and the code that makes `image`, RGB of 8 bits, of a file called `FILE`."""
    if _beyond_pillow(rendering):
        return _by_frostline()
    limits = _one_range(rendering)
    pages = (
        'image = image.convert("RGBA")\n'
        f'page = Image.new("RGBA", image.size, {(*rendering.ground, 255)})  # what shows through\n'
        'image = Image.alpha_composite(page, image).convert("RGB")\n'
    )
    opened, turned = f'with Image.open("{FILE}") as file:\n', "    image = ImageOps.exif_transpose(file)\n"
    if limits is None:
        return "from PIL import Image, ImageOps", opened + turned + pages
    low, high = limits
    spread = (
        opened + '    if ";16" in str(getattr(file, "tile", "")) and file.mode in ("LA", "RGB", "RGBA"):\n'
        f'        raise ValueError("{FILE}: Pillow keeps 8 bits of such colours; frostline reads all 16")\n'
        + turned
        + 'if image.mode[0] in "IF":  # more than 8 bits: over the range that the model learned from\n'
        + f"    low, high = {low!r}, {high!r}\n"
        "    values = np.asarray(image)\n"
        '    wide = values.astype("float64" if values.itemsize > 2 else "float32")\n'
        "    levels = (wide - low) * (255 / (high - low))\n"
        '    image = Image.fromarray(np.nan_to_num(levels, nan=0.0).clip(0, 255).round().astype("uint8"))\n'
    )
    return "import numpy as np\nfrom PIL import Image, ImageOps", spread + pages


def _one_range(rendering: Rendering) -> tuple[float, float] | None:
    """Return the one range over which all deep values are spread; `None` where there is none, or several."""
    if rendering.ranges:
        return rendering.ranges[0][1:] if len(rendering.ranges) == 1 else None
    return None if rendering.intensity_range in (AUTO, PER_IMAGE) else parsed_range(rendering.intensity_range)


def _beyond_pillow(rendering: Rendering) -> bool:
    """Whether a few lines with Pillow would make other pixels than the study does."""
    several = len(rendering.ranges) > 1 or rendering.intensity_range == PER_IMAGE
    return several or any(kind not in ("", ALPHA, *PILLOWS_OWN) for kind in rendering.learned)


def _by_frostline() -> tuple[str, str]:
    """Return code for what Pillow alone can't do: colours of 16 bits, or a range for each kind or image."""
    return "import json\nfrom pathlib import Path\n\nfrom frostline.data import Rendering, open_image", (
        f'told = json.loads(Path("{FOLDER}/config.json").read_text())["frostline"]["rendering"]\n'
        f'image = open_image("{FILE}", Rendering.from_dict(told))  # deep pixels as the study shows them\n'
    )
