"""Metrics that a comparison can decide by: scikit-learn's to the digit, and functions of the caller's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn import metrics as sk

import frostline
from frostline import metrics
from frostline.cli.main import cli
from frostline.errors import UsageError
from frostline.pipelines.evaluation import evaluating
from frostline.selection import metric_intervals
from tiny import tiny_backbone, tiny_model, write_folder, write_table


def drawn(classes: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    targets = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[targets]
    return targets, metrics.softmax(logits)


@pytest.mark.parametrize("classes", [2, 4])
def test_sensitivity_at_a_specificity_is_scikit_learns(classes: int) -> None:
    targets, p = drawn(classes)
    at = []
    for c in range(classes):
        false, true, _ = sk.roc_curve(targets == c, p[:, c])
        at.append(true[1 - false >= 0.95 - 1e-12].max())
        named = metrics.resolved(
            "sensitivity@specificity=0.95", [str(k) for k in range(classes)], positive=str(c)
        )
        assert metrics.score(named, targets, p) == at[-1]
        assert metrics.name_of(named) == "sensitivity@specificity=0.95"
        threshold = np.sort(p[targets != c, c])[::-1][int((targets != c).sum() * 0.05)]
        assert at[-1] == pytest.approx((p[targets == c, c] > threshold).mean(), abs=0.02)  # by hand
    assert metrics.score("sensitivity@specificity=0.95", targets, p) == np.mean(at)
    assert np.isnan(metrics.score("sensitivity@specificity=0.95", np.zeros(5, np.int64), p[:5]))


def test_kappa_is_of_the_classes_order() -> None:
    targets, p = drawn(4)
    guesses = p.argmax(axis=1)
    ordered = metrics.resolved("quadratic_kappa", ["grade 0", "grade 1", "grade 2", "grade 3"])
    assert metrics.score(ordered, targets, p) == sk.cohen_kappa_score(targets, guesses, weights="quadratic")
    names = ["grade 1", "grade 10", "grade 2", "grade 3"]
    assert metrics.class_order(names) == [0, 2, 3, 1]
    for unordered in (["high", "low", "mid 2"], ["mild", "none", "severe"], ["1 a", "1 b", "2 c"]):
        with pytest.raises(UsageError, match="reads their order from one number in each name"):
            metrics.class_order(unordered)
    assert metrics.class_order(["bad", "good"]) == [0, 1]  # either order gives the same
    rank = np.array([0, 3, 1, 2])
    by_number = sk.cohen_kappa_score(rank[targets], rank[guesses], weights="quadratic")
    assert metrics.score(metrics.resolved("quadratic_kappa", names), targets, p) == by_number


def test_average_precision_is_scikit_learns() -> None:
    targets, p = drawn(3)
    assert metrics.score("average_precision", targets, p) == pytest.approx(
        sk.average_precision_score(np.eye(3)[targets], p), abs=1e-15
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acuracy", "Did you mean 'accuracy'"),
        ("sensitivity@specificity=2", "names no specificity"),
        ("sensitivity@specificity=", "names no specificity"),
    ],
)
def test_unknown_names_get_one_message(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        metrics.resolved(name, ["a", "b"])
    result = CliRunner().invoke(cli, ["train", "nowhere", "--metric", name])
    assert result.exit_code == 2
    assert message.split()[0] in result.output


def test_functions_need_a_name_of_their_own() -> None:
    def accuracy(targets: np.ndarray, probabilities: np.ndarray) -> float:
        return 0.0

    def words(targets: np.ndarray, probabilities: np.ndarray) -> str:
        return "good"

    with pytest.raises(UsageError, match="with a name"):
        metrics.resolved(lambda t, p: 0.0, ["a", "b"])
    with pytest.raises(UsageError, match="another name"):
        metrics.resolved(accuracy, ["a", "b"])
    with pytest.raises(UsageError, match="returned str 'good'"):
        metrics.score(words, *drawn(2))  # type: ignore[arg-type]


def test_draws_of_any_metric_are_on_the_same_units_as_the_others() -> None:
    targets, p = drawn(3, 60)
    units = np.arange(60) // 3
    expected = metric_intervals.draws(targets, p, units, ["accuracy"])["accuracy"]
    assert np.allclose(metric_intervals.metric_draws("accuracy", targets, p, units), expected)

    def refuses(targets: np.ndarray, probabilities: np.ndarray) -> float:
        raise ValueError("only one class")

    undefined = metric_intervals.metric_draws(refuses, targets, p, units)
    assert np.isnan(undefined).all()
    assert metric_intervals.any_interval(refuses, 0.5, [undefined], lambda: [undefined], 20) == (None, None)
    kappa = metrics.resolved("quadratic_kappa", ["0", "1", "2"])
    low, high = metric_intervals.any_interval(kappa, -0.2, [np.linspace(-0.5, 0.1, 200)], list, 60)
    assert low is not None
    assert high is not None
    assert -1 < low < -0.2 < high < 1


def fewest_found(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The lowest recall of a class."""
    guesses = probabilities.argmax(axis=1)
    return min((guesses[targets == c] == c).mean() for c in np.unique(targets))


def test_a_function_decides_and_is_named_in_results(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", val=6))
    run = frostline.train(
        tiny_backbone(), data, "head(epochs=2)", study=tmp_path / "study", metric=fewest_found, views=1
    )
    assert run.result["val_fewest_found"] == run.val_goodness
    assert run.result["fewest_found"] == pytest.approx(
        min(row["recall"] for row in (run.per_class or {}).values())
    )
    config = run.folder.read("config.json")
    assert config["metric"] == "fewest_found"
    assert config["metric_function"].startswith("custom ")
    evaluation = frostline.evaluate(
        tmp_path / "study", tmp_path / "images" / "table.csv", metric=fewest_found, module=tiny_model()
    )
    assert evaluation.figures is not None
    assert evaluation.figures.estimate("fewest_found").value == run.result["fewest_found"]
    assert evaluation.as_dict()["fewest_found_low"] is not None or run.result["fewest_found"] == 1


def test_evaluate_shows_kappa_and_sensitivity_and_counts_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_folder(tmp_path / "photos", per_class=14)
    run = frostline.train(
        tiny_backbone(),
        frostline.load_data(photos),
        "linear_probe",
        study=tmp_path / "study",
        positive="kind 1",
        metric="sensitivity@specificity=0.8",
    )
    assert run.folder.read("config.json")["positive"] == "kind 1"
    assert run.test_evaluations == 1
    kappa = frostline.evaluate(tmp_path / "study", photos, metric="quadratic_kappa", module=tiny_model())
    assert kappa.figures is not None
    assert kappa.figures.estimate("quadratic_kappa").value == pytest.approx(
        sk.cohen_kappa_score(kappa.targets, kappa.predicted, weights="quadratic")
    )
    assert kappa.test_evaluations == 1  # the same configuration
    assert any("of the test set of" in note and "1 configuration has" in note for note in kappa.notes)
    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "count_test_evaluation", lambda *_: None)  # a cache that can't be written
        uncounted = frostline.evaluate(tmp_path / "study", photos, module=tiny_model())
    assert uncounted.test_evaluations is None
    assert any("of the test set of" in note and "is not counted" in note for note in uncounted.notes)
    frostline.train(
        tiny_backbone(),
        frostline.load_data(photos),
        "linear_probe",
        study=tmp_path / "study",
        positive="kind 1",
        min_recall=0.9,
        metric="sensitivity@specificity=0.8",
    )
    again = frostline.evaluate(
        tmp_path / "study",
        photos,
        metric="sensitivity@specificity=0.8",
        positive="kind 1",
        module=tiny_model(),
    )
    assert again.test_evaluations == 2  # another threshold is another configuration
    assert again.figures is not None
    assert again.figures.estimate("sensitivity@specificity=0.8").value is not None
    write_folder(tmp_path / "new", per_class=4, seed=9)
    new = frostline.evaluate(tmp_path / "study", tmp_path / "new", module=tiny_model())
    assert new.test_evaluations is None
    with pytest.raises(UsageError, match="has no effect here"):
        frostline.evaluate(tmp_path / "study", photos, positive="kind 1", module=tiny_model())
