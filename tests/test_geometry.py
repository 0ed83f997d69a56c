"""How pictures become square: what is cut away, and that training, prediction and export agree on it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import frostline
from frostline.dataset import cut_away, decoding, framing
from frostline.errors import UsageError
from test_dataset_memory import settled


@pytest.mark.parametrize(
    ("size", "resize", "crop_pct", "lost"),
    [
        ((200, 200), "crop", 1.0, 0.0),
        ((200, 200), "center", 0.875, 1 - 0.875**2),
        ((300, 100), "crop", 1.0, 2 / 3),
        ((100, 300), "floor", 0.5, 1 - 0.25 / 3),
        ((300, 100), "squash", 1.0, 0.0),
        ((300, 100), "squash", 0.875, 1 - 0.875**2),
        ((300, 100), "pad", 1.0, 0.0),
        ((300, 100), "border", 0.9, 0.1),  # the ends of the long side alone
        ((110, 100), "border", 0.9, 1 - 0.9 * 0.99),
    ],
)
def test_the_share_that_is_cut_away(size: tuple[int, int], resize: str, crop_pct: float, lost: float) -> None:
    assert framing.share_cut_away(size, resize, crop_pct) == pytest.approx(lost)
    seen = cut_away([size], resize, crop_pct)
    assert seen.mean == seen.most == pytest.approx(lost)


def test_a_note_says_how_many_how_much_and_what_to_do() -> None:
    sizes = {"a": (640, 426), "b": (300, 100), "c": (100, 200), "d": (100, 100), "e": (0, 0)}
    seen = cut_away(sizes)
    assert (seen.images, seen.long, seen.worst) == (4, 2, "b")
    assert seen.mean_long == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert "2 of 4 image(s)" in seen.note
    assert "at least 58.3 %" in seen.note
    assert "66.7 % (b)" in seen.note
    assert "--resize squash or pad" in seen.note
    assert "at least" not in cut_away(sizes, "center", 0.9).note
    assert cut_away(sizes, "squash").note == cut_away(sizes, "pad").note == ""
    assert cut_away([(640, 426), (3000, 2000)]).note == ""  # what cameras give
    assert cut_away([]).note == ""
    with pytest.raises(UsageError, match="Did you mean 'squash'"):
        cut_away([(1, 1)], "sqash")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_header_gives_the_size_that_the_upright_picture_has(kind: str, orientation: int) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    Image.new("RGB", (30, 20)).save(file, kind, exif=exif)
    picture = decoding.picture(file.getvalue())
    assert picture.image is not None
    assert decoding.header(file).size == picture.image.size


def wide_folder(root: Path, *, per_class: int = 12, seed: int = 0) -> Path:
    """Write noisy pictures of 60 × 20 pixels, good ones and ones with a bright defect at their right edge."""
    rng = np.random.default_rng(seed)
    for label in ("defect", "good"):
        (root / label).mkdir(parents=True)
        for index in range(per_class):
            pixels = rng.integers(0, 80, size=(20, 60, 3))
            if label == "defect":
                pixels[:, 48:58] += 160
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{index:03}.png")
    return root


def test_sizes_come_with_the_images_and_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = frostline.load_data(settled(wide_folder(tmp_path / "photos")))
    assert set(data.sizes.values()) == {(60, 20)}
    assert len(data.sizes) == len(data.samples)
    assert sum("24 of 24 image(s) are wider or taller than 1.5:1" in note for note in data.notes) == 1
    assert not any("1.5:1" in note for note in data.framed("pad").notes)
    exact = data.framed("center", 0.5)
    assert sum("never shows 91.7 %" in note for note in exact.notes) == 1
    assert sum("1.5:1" in note for note in exact.framed("center", 0.5).notes) == 1

    def no_second_look(*_: object) -> None:
        raise AssertionError("A header was read again.")

    monkeypatch.setattr(decoding, "header", no_second_look)
    monkeypatch.setattr(decoding, "picture_small", no_second_look)
    names = {sample.digest for sample in data.samples}
    again = frostline.load_data(tmp_path / "photos")
    assert again.sizes == data.sizes
    assert set(again.sizes) == names
