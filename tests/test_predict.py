"""A run answers: about files, folders, PIL images and arrays, and says what it can't use."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import frostline
from frostline.errors import DataError, ModelError, UsageError
from tiny import tiny_backbone, tiny_model, write_folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "photos", per_class=10)


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[frostline.Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        data = frostline.load_data(photos, near_copies=False)
        study = tmp_path_factory.mktemp("study")
        yield frostline.train(tiny_backbone(), data, "linear_probe", study=study, deterministic=True)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(
    "given",
    [
        Image.open,
        Path.read_bytes,
        pixels,
        lambda path: pixels(path)[None],
        lambda path: pixels(path) / 255,
        lambda path: torch.from_numpy(pixels(path).copy()).permute(2, 0, 1),
        lambda path: [pixels(path)],
        lambda path: (image for image in [Image.open(path)]),
    ],
)
def test_an_image_in_memory_gets_the_answer_of_its_file(
    given: Callable[[Path], Any], run: frostline.Run, photos: Path
) -> None:
    path = photos / "kind 1" / "003.png"
    expected = run.predict(path)
    assert [row.path for row in expected] == [str(path)]
    predictions = run.predict(given(path))
    assert len(predictions) == 1
    assert predictions[0].top == expected[0].top
    assert predictions[0].path in ("image", "image[0]")


def test_several_of_all_kinds_keep_their_order_and_names(run: frostline.Run, photos: Path) -> None:
    some = photos / "kind 2"
    predictions = run.predict(
        [Image.open(some / "000.png"), some, str(some / "001.png"), pixels(some / "002.png")], top=2
    )
    assert len(predictions) == 13
    names = [row.path for row in predictions]
    assert (names[0], names[1], names[-1]) == ("image[0]", str(some / "000.png"), "image[3]")
    assert predictions[0].top == predictions[1].top
    assert all(len(row.top) == 2 for row in predictions)
    assert list(predictions.to_pandas()["path"]) == names


def test_a_run_answers_as_its_study_does(run: frostline.Run, photos: Path) -> None:
    theirs = frostline.predict(run.study.path, photos, module=tiny_model())
    assert run.predict(photos).rows == theirs.rows
    assert frostline.predict(run.study.path, pixels(photos / "kind 0" / "000.png"), module=tiny_model()).rows


def test_a_grey_array_is_an_image(run: frostline.Run, photos: Path) -> None:
    grey = pixels(photos / "kind 0" / "000.png")[:, :, 0]
    assert run.predict(grey)[0].top == run.predict(np.stack([grey] * 3, axis=2))[0].top


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros((5, 9, 2), np.uint8), r"image cannot be used.*shape \(5, 9, 2\); expected \(H, W\)"),
        (np.zeros((0, 9, 3), np.uint8), r"shape \(0, 9, 3\) of uint8"),
        (np.zeros((9, 9, 3), complex), "complex128; expected integers or floats in 0–1"),
        (np.full((9, 9, 3), np.nan), "float64 values from nan to nan"),
        (np.zeros((9, 9, 3)) - 1, "float64 values from -1 to -1"),
        ([np.zeros((9, 9, 3), np.uint8), np.zeros(9)], r"image\[1\] cannot be used.*shape \(9,\)"),
        (7, "image is of type int; expected a path, a PIL image"),
        ({"a": 1}, "image is of type dict"),
        (io.BytesIO(b"x"), "image is of type BytesIO"),
        ([None], r"image\[0\] is of type NoneType"),
        ([], "No images were given"),
        ("nowhere", "nowhere does not exist"),
    ],
)
def test_what_is_no_image_gets_one_clear_message(bad: Any, words: str, run: frostline.Run) -> None:
    with pytest.raises(DataError, match=words):
        run.predict(bad)


def test_an_image_that_cannot_be_decoded_stops_nothing(run: frostline.Run, photos: Path) -> None:
    predictions = run.predict([b"no image", Image.new("RGB", (1, 1)), photos / "kind 0" / "000.png"])
    assert len(predictions) == 1
    assert [name for name, _ in predictions.unreadable] == ["image[0]", "image[1]"]
    assert "has only 1×1 pixels" in predictions.unreadable[1][1]
    assert "Not readable: image[0]" in predictions._repr_html_()


def test_a_run_keeps_its_model_for_the_next_call(
    run: frostline.Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run.predict(photos)
    monkeypatch.setattr("frostline.inference.predictor.rebuilt", None)
    assert run.predict(photos).rows == first.rows


def test_a_run_that_does_not_know_its_module_says_so(run: frostline.Run, photos: Path) -> None:
    stranger = frostline.Run(run.result, run.folder, run.study)
    with pytest.raises(ModelError, match="module of your own"):
        stranger.predict(photos)


def test_a_study_at_hand_stands_for_its_folder(photos: Path, tmp_path: Path) -> None:
    run = frostline.train(
        tiny_backbone(), frostline.load_data(photos), "linear_probe", study=tmp_path / "s", threads=1
    )
    by_path = frostline.predict(run.study.path, photos, module=tiny_model())
    assert frostline.predict(run.study, photos, module=tiny_model()).rows == by_path.rows
    evaluation = frostline.evaluate(run.study, photos, module=tiny_model())
    assert evaluation.accuracy == frostline.evaluate(run.study.path, photos, module=tiny_model()).accuracy
    exported = frostline.export(run.study, output=tmp_path / "e", module=tiny_model())
    assert exported.path == tmp_path / "e"
    assert (str(run.study), repr(run.study)) == (f"{tmp_path / 's'}", f"Study('{tmp_path / 's'}')")
    of_run = frostline.evaluate(run.folder, photos, module=tiny_model())
    assert of_run.accuracy == evaluation.accuracy
    with pytest.raises(DataError, match=r"s is a folder\. Expected a table of predictions"):
        frostline.evaluate(run.study, photos, predictions=run.study, module=tiny_model())
    with pytest.raises(
        UsageError, match="Found a model of type int; expected a study or an export, their folder"
    ):
        frostline.evaluate(3, photos)  # type: ignore[arg-type]
