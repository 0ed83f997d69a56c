"""`FrostlineClassifier` as scikit-learn's own tools see it."""

from __future__ import annotations

import json
import pickle
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from frostline.data import prediction_inputs
from frostline.errors import DataError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Frozen, features
from frostline.integrations.sklearn import FrostlineClassifier
from frostline.models import weights_digest
from tiny import picture, tiny_backbone

NAMES = np.array(["ant", "bee", "cow"])


def classifier(**options: Any) -> FrostlineClassifier:
    return FrostlineClassifier(
        tiny_backbone(), **{"threads": 1, "deterministic": True, "flip": "none", **options}
    )


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Thirty pictures (n, 20, 20, 3) of three kinds, and their names."""
    rng = np.random.default_rng(0)
    kinds = np.arange(30) % 3
    return np.stack([np.asarray(picture(kind, rng)) for kind in kinds]), NAMES[kinds]


@pytest.fixture
def paths(data: Any, tmp_path: Path) -> list[str]:
    for index, pixels in enumerate(data[0]):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return [str(tmp_path / f"{index}.png") for index in range(len(data[0]))]


@pytest.mark.parametrize("strategy", ["linear_probe", "top_k(1, epochs=3)"])
def test_it_answers_with_the_labels_it_was_given(strategy: str, data: Any) -> None:
    X, y = data
    made = classifier(strategy=strategy)
    before = weights_digest(made.backbone.model)
    made.fit(X, y)
    assert weights_digest(made.backbone.model) == before
    assert made.classes_.tolist() == NAMES.tolist()
    probabilities = made.predict_proba(X)
    assert probabilities.shape == (30, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert (made.predict(X) == NAMES[probabilities.argmax(axis=1)]).all()
    assert made.score(X, y) == (made.predict(X) == y).mean() > 0.6
    assert made.transform(X).shape == (30, 24) == (30, len(made.get_feature_names_out()))
    assert made.result_["strategy"] == strategy
    assert not made.model_.training


def test_paths_arrays_lists_and_grey_images(data: Any, paths: list[str]) -> None:
    X, y = data
    made = classifier().fit(X, y)
    expected = made.predict_proba(X)
    column = np.array(paths, dtype=object)[:, None]
    for same in ([Path(p) for p in paths], column, np.array(paths), list(X), X / 255.0):
        assert np.array_equal(made.predict_proba(same), expected)
    # A probe's folds, and so its L2, go by the digests of files or of pixels; a trained head does not.
    heads = [classifier(strategy="head(epochs=2)", augment="none").fit(same, y) for same in (X, paths)]
    assert np.array_equal(*(head.predict_proba(X) for head in heads))
    grey = X.mean(axis=3).astype(np.uint8)
    colours = np.repeat(grey[..., None], 3, axis=3)
    assert np.array_equal(made.predict_proba(grey), made.predict_proba(colours))


def test_numbers_as_labels_keep_their_order_and_kind(data: Any) -> None:
    X, y = data
    numbers = np.searchsorted(NAMES, y) * 9 + 2  # 2, 11, 20: sorted as text they would be 11, 2, 20
    made = classifier().fit(X, numbers)
    assert made.classes_.tolist() == [2, 11, 20]
    assert made.predict(X).dtype == numbers.dtype
    assert made.score(X, numbers) > 0.6


def test_in_cross_validation_grids_and_pipelines(data: Any, calls: list[int]) -> None:
    """In folds and grids no image passes the frozen layers twice."""
    X, y = data
    one = classifier()
    assert cross_val_score(clone(one), X, y, cv=2).mean() > 0.5
    passes = len(calls)
    assert passes > 0
    grid = {"strategy": ["linear_probe", "linear_probe(ridge)"]}
    search = GridSearchCV(one, grid, cv=3, refit=False).fit(X, y)
    assert len(calls) == passes
    assert len(search.cv_results_["mean_test_score"]) == 2
    halved = make_pipeline(FunctionTransformer(lambda images: images[:, ::2, ::2]), clone(one)).fit(X, y)
    assert halved.predict(X).shape == (30,)
    tail = make_pipeline(clone(one), LogisticRegression()).fit(X, y)
    assert tail.score(X, y) > 0.6


def test_a_grid_goes_over_hyperparameters(data: Any) -> None:
    X, y = data
    made = classifier(strategy="head", epochs=2, augment="none", hyperparameters={"label_smoothing": 0.0})
    grid = {"lr": [0.001, 0.01], "weight_decay": [0.0, 0.1]}
    search = GridSearchCV(made, grid, cv=2).fit(X, y)
    assert len(search.cv_results_["mean_test_score"]) == 4
    written = search.best_estimator_.result_["strategy"]
    for name, value in search.best_params_.items():
        assert f"{name}={value:g}" in written
    assert "label_smoothing=0" in written
    with pytest.raises(ValueError, match=r"lr=0\.1 has no effect on linear_probe"):
        classifier(lr=0.1).fit(X, y)


def test_patience_holds_images_out(data: Any) -> None:
    X, y = data
    options = {"strategy": "head", "epochs": 6, "lr": 1e-6, "augment": "none", "patience": 1}
    twice = np.arange(40) % 30  # as in a bootstrap sample; an image is in one subset
    made = classifier(**options, validation_fraction=0.2).fit(X[twice], y[twice])
    assert 6 <= made.result_["n_val"] <= 12
    assert made.result_["early_stopping"]["epochs_saved"] > 0
    with pytest.raises(ValueError, match=r"validation_fraction is 0; expected a share"):
        classifier(**options, validation_fraction=0).fit(X, y)


def test_it_is_copied_pickled_and_saved(data: Any, tmp_path: Path) -> None:
    X, y = data
    made = FrostlineClassifier("lite0", size=32, threads=1, deterministic=True).fit(X, y)
    expected = made.predict_proba(X)
    weights = made.result_["numeric_plan"] and len(made._weights)
    copied = pickle.loads(pickle.dumps(made))
    assert np.array_equal(copied.predict_proba(X), expected)
    assert len(pickle.dumps(made)) < weights + 100_000  # the weights once, and no network
    with pytest.raises(ValueError, match=r"is a folder; expected a file, such as .*model\.safetensors"):
        made.save(tmp_path)
    with pytest.raises(ValueError, match=r"is a folder; expected a file"):
        FrostlineClassifier.load(tmp_path)
    made.save(tmp_path / "kept.safetensors")
    estimator = FrostlineClassifier.load(tmp_path / "kept.safetensors")
    assert np.array_equal(estimator.predict_proba(X), expected)
    assert estimator.predict(X).tolist() == made.predict(X).tolist()
    assert estimator.get_params() == made.get_params()
    made.set_params(size=64, resize="pad", backbone="timm/resnet18")  # for another fit
    made.save(tmp_path / "set.safetensors")
    estimator = FrostlineClassifier.load(tmp_path / "set.safetensors")
    assert np.array_equal(estimator.predict_proba(X), expected)
    assert (estimator.size, estimator.resize, estimator.backbone) == (64, "pad", "timm/resnet18")
    assert not hasattr(clone(made), "result_")
    (tmp_path / "other.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is no FrostlineClassifier"):
        FrostlineClassifier.load(tmp_path / "other.safetensors")


def test_a_study_is_kept_where_asked(data: Any, tmp_path: Path) -> None:
    X, y = data
    made = classifier(study=tmp_path / "study").fit(X, y)
    [kept] = (tmp_path / "study").rglob("result.json")
    assert json.loads(kept.read_text())["run"] == made.result_["run"]
    classifier().fit(X, y)
    assert len(list((tmp_path / "study").rglob("result.json"))) == 1


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (np.zeros((4, 3)), list("abab"), r"Reshape your data: X.reshape\(n, h, w\)"),
        (np.zeros((0, 8, 8), np.uint8), [], "0 sample"),
        (["nowhere.png", "gone.png"], list("ab"), r"nowhere.png does not exist"),
        ("photos/", ["a"], "put it into a list"),
        (np.zeros((2, 8, 8, 5), np.uint8), list("ab"), r"shape \(8, 8, 5\)"),
        (np.full((2, 8, 8), 3.0), list("ab"), "floats in 0–1"),
        (np.zeros((2, 8, 8), np.uint8), ["a", "a"], "Found one class, 'a', in all 2 labels"),
        (np.zeros((2, 8, 8), np.uint8), ["a"], "2 image.s. and 1 label"),
        (np.zeros((2, 8, 8), np.uint8), [0.5, 1.7], "Unknown label type"),
        (np.zeros((2, 8, 8), np.uint8), None, "requires y"),
        ((image for image in np.zeros((2, 8, 8), np.uint8)), list("ab"), "X is of type generator"),
        (None, list("ab"), "X is of type NoneType"),
        ({"image": 1}, list("ab"), "X is of type dict"),
        ([b"GIF89a", b"GIF89a"], list("ab"), r"X\[0\] is bytes.*BytesIO"),
        ([np.zeros((8, 8), np.uint8), "cat.jpg"], list("ab"), r"X\[1\] is str.*all of one kind"),
        (np.zeros((2, 8, 8), np.uint8), ["a", 1], r"several kinds \(int, str\)"),
        (np.zeros((2, 8, 8), np.uint8), [b"a", b"b"], "of type bytes; expected text"),
        (np.zeros((2, 8, 8), np.uint8), [date(2026, 1, 1), date(2026, 1, 2)], "of type date; expected text"),
    ],
)
def test_what_will_not_do_is_a_value_error(X: Any, y: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        classifier().fit(X, y)


def test_one_image_is_no_batch(data: Any) -> None:
    """An image (64, 64, 3) was answered as 64 grey ones, three pixels wide."""
    X, y = data
    made, image = classifier().fit(X, y), np.zeros((64, 64, 3), np.uint8)
    tensor = torch.zeros(3, 64, 64, dtype=torch.uint8)
    for one in (image, image.astype(float), tensor):
        for call in (made.predict, made.predict_proba, made.transform):
            with pytest.raises(ValueError, match=r"is one image.*X\[None\]"):
                call(one)
    for fitted in (made.fit, made.score):
        with pytest.raises(ValueError, match=r"X\[None\]"):
            fitted(image, np.arange(64) % 2)
    with pytest.raises(ValueError, match=r"\(64, 3\).*row of an image"):
        made.predict(list(image))
    with pytest.raises(DataError, match=r"\(64, 3\).*row of an image"):
        prediction_inputs(list(image))[0].open()
    assert made.predict(image[None]).shape == (1,)
    assert (made.predict(tensor[None]) == made.predict(image[None])).all()
    assert made.predict(np.zeros((64, 64, 64), np.uint8)).shape == (64,)  # grey ones


def test_it_says_what_is_wrong_with_settings_and_that_it_is_not_fitted(data: Any) -> None:
    X, y = data
    with pytest.raises(ValueError, match="Did you mean 'linear_probe'"):
        classifier(strategy="liner_probe").fit(X, y)
    with pytest.raises(ValueError, match=r"validation_fraction is '0\.2'; expected a share"):
        classifier(patience=1, validation_fraction="0.2").fit(X, y)
    for call in ("predict", "predict_proba", "transform"):
        with pytest.raises(NotFittedError):
            getattr(classifier(), call)(X)


# --- scikit-learn's own checks --------------------------------------------------------------------------


class OnColumns(FrostlineClassifier):
    """Takes the tables of numbers that scikit-learn checks with, a row drawn as a picture of bars.

    Its checks know no images. Shape, names and kinds of columns are this class's business, not ours.
    """

    def _drawn(self, X: Any, *, reset: bool = False) -> np.ndarray:
        from sklearn.utils.validation import validate_data

        table = validate_data(self, X, reset=reset, dtype=np.float64)
        bars = 0.5 + np.arctan(table) / np.pi  # any number to 0–1
        # Eight pixels a column: a picture 3 or 4 wide could be one image with its channels last.
        return np.repeat(np.repeat(bars, 8, axis=1)[:, None, :], 8, axis=1)

    def fit(self, X: Any, y: Any) -> OnColumns:
        if y is None:
            return super().fit(np.zeros((1, 8, 8)), y)
        from sklearn.utils.validation import check_X_y

        check_X_y(X, y)
        super().fit(self._drawn(X, reset=True), y)
        return self

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(self._asked_of(X))

    def transform(self, X: Any) -> Any:
        return super().transform(self._asked_of(X))

    def _asked_of(self, X: Any) -> np.ndarray:
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self, "classes_")
        return self._drawn(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = tags.input_tags.string = False
        return tags


# Checks that do not apply, each with the reason.
NOT_OURS = {
    "check_estimators_overwrite_params": "compares pickles, in which a network's tensors differ from call to "
    "call; that no weight is changed is tested above, and a backbone given by name is text",
    "check_methods_subset_invariance": "asks for 1e-7, and networks answer float32: one image or many "
    "differ by rounding (about 3e-6)",
}


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::frostline.errors.RunWarning"
)  # its tables make pictures of one flat colour
def test_estimator_checks() -> None:
    estimator = OnColumns(tiny_backbone(), threads=1, deterministic=True, flip="none")
    results = check_estimator(estimator, expected_failed_checks=NOT_OURS, on_fail=None, on_skip=None)
    failed = {row["check_name"]: str(row["exception"]) for row in results if row["status"] == "failed"}
    assert failed == {}
    assert len([row for row in results if row["status"] == "passed"]) >= 50


@pytest.mark.parametrize("strategy", ["linear_probe", "linear_probe(layers=2)", "top_k(1, epochs=1)"])
def test_features_are_the_bytes_of_the_one_pass(strategy: str, data: Any) -> None:
    """Those of the frozen part alone, whatever decodes them, and with a head that reads several stages."""
    X, y = data
    made = classifier(strategy=strategy).fit(X, y)
    with made._ready(X, FeatureCache()) as (backbone, images, plan, _):
        frozen = Frozen(backbone, made.model_, backbone.cuts[-1], plan.forward_config)
        alone = features(frozen, images)
    for workers in (0, 2):
        assert made.set_params(workers=workers).transform(X).tobytes() == alone.tobytes()
