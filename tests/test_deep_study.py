"""A study of deep or transparent images: the same value is the same grey in training, answers and exports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import frostline
from deep_examples import png, tiff
from frostline.cli.main import cli
from frostline.data import RenderedImage, Rendering, notes_on, open_image
from frostline.data.pixels.decoding import picture
from frostline.data.pixels.image_traits import Traits
from frostline.data.pixels.rendering_choice import RenderingOptions, choose_rendering
from frostline.errors import RunWarning
from frostline.exports.code_examples import image_loading_code
from frostline.feature_extraction.image_batches import Images
from frostline.inference.predictor import Predictor
from test_dataset_depth import Array, folder_of

TIMM = "timm/test_efficientnet"
SIDE = 32
PROBE = "linear_probe(layers=last)"  # whose run timm, and another run, can go on from


def stained(low: int, seed: int) -> Array:
    """Return 12-bit values about `low`: which class it is shows in the brightness alone."""
    rng = np.random.default_rng(seed)
    return (low + rng.integers(0, 12, (SIDE, SIDE))).astype(np.uint16)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {
        f"{label}/{n}.tif": (tiff if n % 2 else png)(stained(low, 2 * n + (label == "a")))
        for label, low in (("a", 300), ("b", 360))
        for n in range(20)
    }
    return folder_of(tmp_path_factory.mktemp("slides"), files)


@pytest.fixture(scope="module")
def run(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[frostline.Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        backbone = frostline.load_backbone(TIMM, size=SIDE, random=True)
        study = tmp_path_factory.mktemp("study")
        yield frostline.train(backbone, frostline.load_data(slides), PROBE, study=study, deterministic=True)


def test_faint_stains_are_told_apart(run: frostline.Run) -> None:
    """By the high byte alone all images were one grey."""
    assert run.result["accuracy"] == 1.0
    assert run.folder.read("config.json")["rendering"]["ranges"]["uint16"][0] == pytest.approx(300, abs=3)


def test_answers_see_what_training_saw(run: frostline.Run, slides: Path, tmp_path: Path) -> None:
    predictor = Predictor.of_run(run.folder)
    data = frostline.load_data(slides)
    images = Images(data, data.samples, predictor.preprocessing)
    assert predictor.rendering == data.rendering
    for number in (0, 1, 25):
        path = slides / data.samples[number].path
        seen = frostline.predict(run.study.path, path)
        (expected,) = predictor(images[(number, 0)][None])
        array = frostline.predict(run.study.path, picture(path.read_bytes()).deep.values)
        assert array[0].top == seen[0].top
        assert array.notes == ()
        assert dict(seen[0].top)[seen[0].label] == pytest.approx(expected.max(), abs=1e-6)
    # alone, an image spread over its own range would say nothing of its brightness
    folder_of(tmp_path, {"bright.tif": tiff(stained(360, 99), ">"), "dark.png": png(stained(300, 98))})
    answers = frostline.predict(run.study.path, tmp_path)
    assert [row.label for row in answers] == ["b", "a"]
    assert answers.notes == ()


def test_answers_warn_of_what_training_did_not_see(run: frostline.Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(plain).save(tmp_path / "plain.png")
    files = {
        "over.png": png(stained(2000, 1)),
        "float.tif": tiff(stained(300, 2).astype(np.float32)),
        "sound.tif": tiff(stained(330, 3)),
    }
    answers = frostline.predict(run.study.path, folder_of(tmp_path, files))
    text = "\n".join(answers.notes)
    assert "In 1 image(s) over 1 % of the pixels lie outside the" in text
    assert "over.png" in text
    assert "hold float32 values, which no training image did" in text
    assert "1 image(s) hold 8 bits, and the model learned from uint16" in text
    assert "1 image(s) are one flat colour" in text  # 2000 and up are all white
    assert "sound.tif" not in text
    outcome = CliRunner().invoke(cli, ["predict", str(run.study.path), str(tmp_path), "--json"])
    assert json.loads(outcome.stdout)["notes"] == list(answers.notes)
    assert "over 1 % of the pixels" in outcome.stderr


@pytest.mark.parametrize("kind", ["safetensors", "torch", "delta"])
def test_exports_say_how_pixels_were_made(
    kind: str, run: frostline.Run, slides: Path, tmp_path: Path
) -> None:
    backbone = frostline.load_backbone(TIMM, size=SIDE, random=True)
    place = tmp_path / kind
    given = {"base": backbone} if kind == "delta" else {}
    made = frostline.export(run.study.path, kind, output=place, images=slides, **given)
    assert made.check["of"] == "given images"
    rendering = json.loads((place / "config.json").read_text())["frostline"]["rendering"]
    assert Rendering.from_dict(rendering) == frostline.load_data(slides).rendering
    card = (place / "README.md").read_text()
    assert "In uint16 pixels, 300 and below is black" in card
    if kind == "safetensors":
        code = card.partition("```python\n")[2].partition("```")[0]
        path = slides / "b" / "3.tif"
        expected_pixels = np.asarray(open_image(path, Rendering.from_dict(rendering)))
        assert np.array_equal(np.asarray(lines_for_pixels(code, path)), expected_pixels)
        assert len(np.unique(expected_pixels)) > 2
    if kind == "delta":
        path = slides / "b" / "3.tif"
        answers = frostline.predict(place, path, base=backbone)
        expected = frostline.predict(run.study.path, path)
        assert answers[0].label == expected[0].label
        assert answers[0].probability == pytest.approx(expected[0].probability, abs=1e-5)


def lines_for_pixels(code: str, path: Path) -> Image.Image:
    """Run what example code does up to its model, on a file, and return its `image`."""
    wanted = [line for line in code.splitlines() if "timm" not in line and "torch" not in line]
    made: dict[str, Any] = {}
    exec("\n".join(wanted).partition("    #")[0].replace("image.jpg", str(path)), made)
    shown: Image.Image = made["image"]
    return shown


RENDERINGS = {
    "auto": Rendering(ranges=(("uint16", 290.0, 380.0),), kinds=("", "uint16")),
    "given": Rendering("0,4095", kinds=("uint16",), alpha_background="black", ground=(0, 0, 0)),
    "grey ground": Rendering(alpha_background="grey", ground=(128, 128, 128)),
    "plain": Rendering(),
}


@pytest.mark.parametrize("name", RENDERINGS)
def test_example_code_makes_the_pixels_of_the_study(name: str, tmp_path: Path) -> None:
    """`convert("RGB")` clips 16 bits of grey at 255, drops transparency, and leaves a photo lying."""
    rendering, rng = RENDERINGS[name], np.random.default_rng(0)
    files = {} if rendering.range_of("uint16") is None else {"a.png": png(stained(320, 1))}
    files |= {"f.tif": tiff(stained(320, 1).astype(np.float32))} if rendering.range_of("float32") else {}
    folder_of(tmp_path, files)
    Image.fromarray(rng.integers(0, 256, (8, 9, 4), dtype=np.uint8)).save(tmp_path / "clear.png")
    lying = Image.Exif()
    lying[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(tmp_path / "x.jpg", exif=lying)
    for path in sorted(tmp_path.iterdir()):
        shown = lines_for_pixels("\n".join(image_loading_code(rendering)), path)
        assert shown.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(open_image(path, rendering)), str(path))


@pytest.mark.parametrize(
    "rendering",
    [
        Rendering("per-image", kinds=("uint16",)),
        Rendering("0,4095", kinds=("uint16 RGB",)),
        Rendering(ranges=(("float32", 0.0, 1.0), ("uint16", 0.0, 99.0))),
    ],
)
def test_example_code_asks_frostline_where_pillow_cannot(rendering: Rendering, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"frostline": {"rendering": rendering.as_dict()}}))
    colours = np.random.default_rng(0).integers(0, 5000, (6, 7, 3)).astype(np.uint16)
    folder_of(tmp_path, {"a.png": png(colours)})
    code = "\n".join(image_loading_code(rendering)).replace("path/to/this/folder", str(tmp_path))
    shown = lines_for_pixels(code, tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(open_image(tmp_path / "a.png", rendering)))


def test_example_code_refuses_colours_that_pillow_would_halve(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.png": png(np.full((6, 7, 3), 900, np.uint16))})
    with pytest.raises(ValueError, match="Pillow keeps 8 bits"):
        lines_for_pixels("\n".join(image_loading_code(RENDERINGS["auto"])), tmp_path / "a.png")


@pytest.mark.parametrize("asked", ["0,4095", "per-image"])
def test_other_kinds_are_said_whatever_the_range(asked: str, slides: Path, tmp_path: Path) -> None:
    rendering = frostline.load_data(slides, intensity_range=asked).rendering
    assert rendering.kinds == ("uint16",)
    assert Rendering.from_dict(rendering.as_dict()) == rendering
    text = "\n".join(
        notes_on(
            [RenderedImage("f.tif", "float32"), RenderedImage("p.png"), RenderedImage("s.tif", "uint16")],
            rendering,
        )
    )
    over = "the study's range, 0,4095" if asked == "0,4095" else "its own range"
    assert f"1 image(s) hold float32 values, which no training image did; each was spread over {over}" in text
    assert "1 image(s) hold 8 bits, and the model learned from uint16" in text
    assert "s.tif" not in text
    (cut,) = notes_on([RenderedImage("over.tif", "uint16", saturated=True)], rendering)
    assert "outside the study's range" in cut


def test_what_training_held_of_8_bits_is_no_news(slides: Path, tmp_path: Path) -> None:
    for path in slides.rglob("*.tif"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).write_bytes(path.read_bytes())
    rng = np.random.default_rng(0)
    for n in range(20):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "ab"[n % 2] / f"plain{n}.png")
    rendering = frostline.load_data(tmp_path).rendering
    assert rendering.kinds == ("", "uint16")
    assert notes_on([RenderedImage("p.png")], rendering) == []


def test_an_older_study_stays_as_it_began(slides: Path) -> None:
    """Its runs are named by what they were asked, the rendering included."""
    now = frostline.load_data(slides).rendering
    older = replace(now, kinds=())
    traits = [Traits(kind="uint16")]
    assert choose_rendering(traits, RenderingOptions(), older) == older
    assert older.learned == ("uint16",)
    assert older.decisions == now.decisions == older.as_dict()


def test_the_command_line_refuses_ranges_and_colours_that_are_none(slides: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    words = ["train", str(slides), "--strategy", PROBE, "--model", TIMM, "--study", str(study)]
    refused = CliRunner().invoke(cli, [*words, "--intensity-range", "9,1"])
    assert refused.exit_code == 2
    assert "expected auto, per-image, or LOW,HIGH" in refused.stderr
    refused = CliRunner().invoke(cli, [*words, "--alpha-background", "mauve"])
    assert refused.exit_code == 2
    assert "expected auto, white, grey, black, or R,G,B" in refused.stderr


def test_the_estimator_sees_what_its_fit_saw(slides: Path, tmp_path: Path) -> None:
    """Alone, an image must not be spread over its own range."""
    from frostline.integrations.sklearn import FrostlineClassifier

    paths = sorted(map(str, slides.rglob("*.tif")))
    backbone = frostline.load_backbone(TIMM, size=SIDE, random=True)
    made = FrostlineClassifier(backbone, deterministic=True, threads=1, flip="none")
    made.fit(paths, [Path(path).parent.name for path in paths])
    assert made.predict(paths[-1:]).tolist() == ["b"]
    expected = made.predict_proba(paths)
    assert made.predict_proba(paths[-1:]) == pytest.approx(expected[-1:], abs=1e-6)
    folder_of(
        tmp_path, {"over.tif": tiff(stained(2000, 1)), "f.tif": tiff(stained(300, 2).astype(np.float32))}
    )
    Image.new("RGB", (SIDE, SIDE), "red").save(tmp_path / "plain.png")
    with pytest.warns(RunWarning) as heard:
        made.predict([str(tmp_path / name) for name in ("over.tif", "f.tif", "plain.png")])
    text = "\n".join(str(one.message) for one in heard)
    for words in ("over 1 % of the pixels", "hold float32 values", "hold 8 bits, and the model learned from"):
        assert words in text
    made.save(tmp_path / "made.safetensors")
    again = FrostlineClassifier.load(tmp_path / "made.safetensors", backbone=backbone)
    assert again.predict_proba(paths[-1:]) == pytest.approx(expected[-1:], abs=1e-6)


def test_the_report_says_the_options_again(slides: Path, tmp_path: Path) -> None:
    backbone = frostline.load_backbone(TIMM, size=SIDE, random=True)
    data = frostline.load_data(slides, intensity_range=(250, 400), alpha_background="black")
    run = frostline.train(backbone, data, PROBE, study=tmp_path / "study", deterministic=True)
    page = Path(frostline.report(run.study.path).path).read_text()
    assert "--intensity-range 250,400 --alpha-background black" in page
