"""Pictures that show nothing: one flat colour, and icons that their ground would hide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deep_examples import png
from frostline.data import Manifest, load_data
from frostline.data.pixels.rendering import Rendering, parsed_ground
from frostline.errors import DataError, UsageError
from test_dataset_decoding import encoded
from test_dataset_depth import folder_of, twelve_bits


def icon(colour: tuple[int, int, int], seed: int, mode: str = "RGBA") -> Image.Image:
    """Return a drawing of one colour, here and there, on transparent ground."""
    rng = np.random.default_rng(seed)
    shape = np.kron(rng.integers(0, 2, (6, 6)), np.ones((8, 8)))
    pixels = np.empty((48, 48, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = colour, 255 * shape
    image = Image.fromarray(pixels)
    return image.convert(mode) if mode != "RGBA" else image


def icons(place: Path, colour: Any = (255, 255, 255), count: int = 8) -> Path:
    files = {
        f"{label}/{n}.png": encoded(icon(colour, 2 * n + (label == "a")))
        for label in "ab"
        for n in range(count)
    }
    return folder_of(place, files)


def blank(data: Manifest) -> int:
    return sum(np.ptp(np.asarray(data.read(sample))) == 0 for sample in data.samples)


def test_flat_pictures_are_counted_always(tmp_path: Path) -> None:
    """A blank page went in without a word."""
    place = icons(tmp_path, (10, 90, 10))
    folder_of(place, {"a/blank.png": encoded(Image.new("RGB", (40, 40), (9, 9, 9)))})
    folder_of(place, {"a/page.jpg": encoded(Image.new("L", (4000, 300), 255), "JPEG")})
    folder_of(place, {"b/clear.png": encoded(Image.new("RGBA", (40, 40), (9, 9, 9, 0)))})
    for again in range(2):
        notes = load_data(place).notes
        expected = "3 image(s) are one flat colour: a/blank.png, a/page.jpg, b/clear.png."
        assert expected in notes, again


def test_a_dot_on_a_page_is_no_flat_picture(tmp_path: Path) -> None:
    """Shrinking a JPEG on the way in wipes out a dot: what looks flat is looked at whole."""
    place = icons(tmp_path, (10, 90, 10))
    page = np.full((1200, 1200), 255, np.uint8)
    page[600:602, 600:602] = 0
    folder_of(place, {"a/dot.jpg": encoded(Image.fromarray(page), "JPEG", quality=95)})
    assert not any("flat" in note for note in load_data(place).notes)


def test_a_range_that_wipes_pictures_out_is_said(tmp_path: Path) -> None:
    files = {f"{c}/{n}.png": png(twelve_bits(290, seed=2 * n + (c == "a"))) for c in "ab" for n in range(4)}
    place = folder_of(tmp_path, files)
    assert not any("flat" in note for note in load_data(place).notes)
    notes = load_data(place, intensity_range="0,65535").notes
    assert any("8 image(s) are one flat colour" in note for note in notes)


def test_white_icons_lie_on_grey_and_the_whole_set_with_them(tmp_path: Path) -> None:
    """White on white made blank pages of them."""
    place = icons(tmp_path)
    folder_of(place, {"b/red.png": encoded(icon((255, 0, 0), 90))})
    data = load_data(place)
    assert blank(data) == 0
    assert data.rendering.ground == (128, 128, 128)
    red = next(sample for sample in data.samples if sample.path == "b/red.png")
    assert (128, 128, 128) in set(map(tuple, np.asarray(data.read(red)).reshape(-1, 3).tolist()))
    (note,) = [note for note in data.notes if "transparency" in note]
    assert note.startswith(
        "17 image(s) with transparency are composited on mid-grey, since white would hide 16"
    )
    assert not any("flat" in note for note in data.notes)
    assert Manifest.from_json(data.to_json()).rendering == data.rendering


def test_black_icons_stay_on_white_with_the_keys_they_had(tmp_path: Path) -> None:
    data = load_data(icons(tmp_path, (0, 0, 0)))
    assert data.rendering.plain
    assert {data.rendered(sample) for sample in data.samples} == {""}
    assert load_data(tmp_path, alpha_background="grey").digest != data.digest


@pytest.mark.parametrize("ground", ["white", "grey", "black", "1,2,3"])
def test_the_ground_is_what_was_asked_for(ground: str, tmp_path: Path) -> None:
    place = icons(tmp_path)
    data = load_data(place, alpha_background=ground)
    expected = {"white": (255,) * 3, "grey": (128,) * 3, "black": (0,) * 3, "1,2,3": (1, 2, 3)}[ground]
    assert data.rendering.ground == expected
    assert blank(data) == (16 if ground == "white" else 0)
    assert any("16 image(s) are one flat colour" in note for note in data.notes) == (ground == "white")


def test_colours_that_are_none_are_refused(tmp_path: Path) -> None:
    place = icons(tmp_path, count=2)
    for wrong in ("", "mauve", "1,2", "1,2,256", "-1,2,3", "1,2,x"):
        with pytest.raises(UsageError, match="expected auto, white, grey, black"):
            load_data(place, alpha_background=wrong)


def test_deep_icons_are_laid_on_the_ground_too(tmp_path: Path) -> None:
    values = np.full((48, 48, 4), 60000, np.uint16)
    files = {}
    for n in range(8):
        shape = np.kron(np.random.default_rng(n).integers(0, 2, (6, 6)), np.ones((8, 8)))
        values[..., 3] = 65535 * shape
        values[0, 0, :3] = 0
        files[f"{'ab'[n % 2]}/{n}.png"] = png(values)
    data = load_data(folder_of(tmp_path, files), alpha_background="1,2,3")
    assert all([1, 2, 3] in np.asarray(data.read(s)).reshape(-1, 3).tolist() for s in data.samples)


def test_deep_white_icons_lie_on_grey(tmp_path: Path) -> None:
    values = np.full((48, 48, 4), 60000, np.uint16)
    for n in range(8):
        shape = np.kron(np.random.default_rng(n).integers(0, 2, (6, 6)), np.ones((8, 8)))
        values[..., 3] = 65535 * shape
        folder_of(tmp_path, {f"{'ab'[n % 2]}/{n}.png": png(values)})
    data = load_data(tmp_path, intensity_range="0,60000")
    assert data.rendering.ground == (128, 128, 128)
    assert blank(data) == 0
    assert any(
        "8 image(s) are one flat" in n
        for n in load_data(tmp_path, intensity_range="0,1", alpha_background="white").notes
    )


def test_a_study_keeps_its_ground(tmp_path: Path) -> None:
    place, study = icons(tmp_path / "icons"), tmp_path / "study"
    first = load_data(place)
    (study / "runs").mkdir(parents=True)
    (study / "study.json").write_text("{}")
    first.keep_in(study)
    folder_of(place, {f"b/mid{n}.png": encoded(icon((128, 128, 128), 900 + n)) for n in range(40)})
    later = load_data(place, study=study)
    assert later.rendering.ground == (128, 128, 128)
    assert any("40 image(s) are one flat colour" in note for note in later.notes)
    assert load_data(place).rendering.ground == (255, 255, 255)


def test_copies_of_white_icons_are_found(tmp_path: Path) -> None:
    place = icons(tmp_path)
    copy = icon((255, 255, 255), 1).resize((96, 96), Image.Resampling.NEAREST)
    folder_of(place, {"a/copy.png": encoded(copy)})
    data = load_data(place)
    assert {"a/0.png", "a/copy.png"} in map(set, data.near_copies)


@pytest.mark.parametrize("text", ["0,20,1\x1d", "          0, 20,1", "0,20,1"])
def test_a_ground_may_have_space_around_its_numbers(text: str) -> None:
    """Found by fuzzing: what `strip` takes for space, `int` does not; and nine spaces were no number."""
    assert parsed_ground(text) == (0, 20, 1)


def test_a_kept_rendering_without_an_end_is_refused_in_words() -> None:
    """Found by damaging at random: a JSON number may be infinite."""
    rendering = {**Rendering().as_dict(), "ground": [float("inf"), 0, 0]}
    with pytest.raises(DataError, match="does not describe"):
        Rendering.from_dict(rendering)
