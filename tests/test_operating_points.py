"""Operating points: what is promised, where it is kept, and who decides by it."""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import frostline
from frostline import metrics
from frostline.cli.main import cli
from frostline.config import Config
from frostline.errors import RunWarning, StudyError, UsageError
from frostline.exports import infer
from frostline.studies import operating_point
from frostline.studies.cost_matrix import cost_matrix
from frostline.studies.operating_point import Decision, HeldOut, OperatingTarget
from frostline.training.threshold_choice import settle
from tiny import tiny_backbone, tiny_model, write_folder

CLASSES = ("defect", "good")


def held(n: int, seed: int = 0, share: float = 0.5, classes: tuple[str, ...] = CLASSES) -> HeldOut:
    """Predictions of a classifier that is right about as often as it says; the first class is the defect."""
    rng = np.random.default_rng(seed)
    targets = (rng.random(n) >= share).astype(np.int64)
    p = rng.beta(np.where(targets == 0, 4, 1), np.where(targets == 0, 1, 4))
    rest = np.ones(len(classes) - 1) / (len(classes) - 1)
    probabilities = np.concatenate([p[:, None], (1 - p)[:, None] * rest], axis=1)
    return HeldOut(classes, targets, probabilities, np.arange(n), np.arange(n), "val")


def test_the_promised_recall_is_kept_on_new_images() -> None:
    target, new = OperatingTarget("defect", min_recall=0.9), held(40_000, seed=999)
    rates = []
    for seed in range(30):
        point = target.choose(held(300, seed))
        assert point.promised
        assert point.decision.threshold is not None
        rates.append((new.probabilities[new.targets == 0, 0] >= point.decision.threshold).mean() >= 0.9)
    assert np.mean(rates) >= 0.93  # 97.5 % by the interval's lower end


def test_the_promised_precision_is_kept_on_new_images() -> None:
    target, new = OperatingTarget("defect", min_precision=0.85), held(40_000, seed=999)
    rates = []
    for seed in range(20):
        point = target.choose(held(300, seed))
        assert point.promised
        chosen = new.probabilities[:, 0] >= (point.decision.threshold or 0.0)
        rates.append((new.targets[chosen] == 0).mean() >= 0.85)
    assert np.mean(rates) >= 0.9  # several thresholds are looked at: docs/evaluate.md


def test_a_higher_threshold_would_break_the_promise_and_no_image_lies_on_it() -> None:
    sample = held(400)
    point = OperatingTarget("defect", min_recall=0.9).choose(sample)
    threshold = point.decision.threshold
    assert threshold is not None
    own = np.sort(sample.probabilities[sample.targets == 0, 0])
    following = own[own > threshold][1]
    assert (sample.recall(0, following).low or 0) < 0.9 <= (point.figures["recall"].low or 0)
    assert np.abs(sample.probabilities[:, 0] - threshold).min() > 0


@pytest.mark.parametrize("target", [{"min_recall": 0.5}, {"min_precision": 0.5}])
def test_nothing_is_given_away_where_classes_are_apart(target: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], 60)
    p = np.concatenate([rng.uniform(0.6, 1.0, 60), rng.uniform(0.0, 0.4, 60)])
    sample = HeldOut(CLASSES, targets, np.stack([p, 1 - p], 1), np.arange(120), np.arange(120), "val")
    point = OperatingTarget("defect", **target).choose(sample)
    assert point.promised
    assert p[60:].max() < (point.decision.threshold or 0.0) < p[:60].min()
    assert (point.figures["recall"].value, point.figures["precision"].value) == (1.0, 1.0)


@pytest.mark.parametrize("target", [{"min_recall": 0.8}, {"min_precision": 0.8}])
def test_no_other_threshold_has_more_of_one_and_as_much_of_the_other(target: dict[str, float]) -> None:
    sample = held(300, seed=3)
    point = OperatingTarget("defect", **target).choose(sample)
    chosen = point.decision.threshold or 0.0
    recall, precision = sample.recall(0, chosen).value, sample.precision(0, chosen).value
    for other in np.unique(sample.probabilities[:, 0]):
        if (other <= chosen) == ("min_recall" in target):
            more = (sample.recall(0, other).value or 0.0, sample.precision(0, other).value or 0.0)
            assert not (more[0] >= recall and more[1] >= precision and more != (recall, precision))


def test_a_threshold_next_to_one_is_not_written_as_one() -> None:
    assert "from a probability of 0.99999," in Decision(CLASSES, "defect", 0.9999936).rule
    assert "from a probability of 0.1278," in Decision(CLASSES, "defect", 0.12783).rule


def test_too_few_images_promise_nothing_and_the_number_needed_is_said() -> None:
    sample = held(40)
    point = OperatingTarget("defect", min_recall=0.98).choose(sample)
    assert point.promised is False
    assert point.needed == 189  # Wilson's lower end at 189 of 189 is 0.98
    assert metrics.wilson(1.0, 189)[0] >= 0.98 > metrics.wilson(1.0, 188)[0]
    assert "cannot be promised from" in point.sentences[1]
    assert "at least 189 independent ones" in point.sentences[1]
    assert (point.figures["recall"].value or 0) >= 0.98  # the closest that there is
    grouped = replace(held(800), units=np.arange(800) // 40)
    single = OperatingTarget("defect", min_recall=0.9).choose(held(800))
    several = OperatingTarget("defect", min_recall=0.9).choose(grouped)
    assert (several.decision.threshold or 0) <= (single.decision.threshold or 0)


def test_above_the_threshold_it_is_the_class_and_below_the_best_of_the_others() -> None:
    decision = Decision(("a", "b", "c"), "b", 0.2)
    p = np.array([[0.7, 0.2, 0.1], [0.5, 0.1, 0.4], [0.1, 0.19, 0.71], [0.05, 0.9, 0.05]])
    assert decision.decide(p).tolist() == [1, 0, 2, 1]
    assert Decision(("a", "b", "c"), "b", 0.95).decide(p).tolist() == [0, 0, 2, 0]
    assert Decision.from_config(decision.as_config(), decision.classes) == decision


def test_below_the_threshold_the_rule_names_the_other_class_or_the_likeliest() -> None:
    two = Decision(classes=("good", "scratch"), positive="scratch", threshold=0.25)
    three = Decision(classes=("dent", "good", "scratch"), positive="scratch", threshold=0.25)
    assert two.sentence == "It predicts scratch from a probability of 0.25, else good."
    assert (
        three.sentence == "It predicts scratch from a probability of 0.25, else the likeliest of the others."
    )


def test_the_least_expected_cost_decides(tmp_path: Path) -> None:
    table = tmp_path / "costs.csv"
    table.write_text("label,defect,good\ndefect,0,10\ngood,1,0\n")
    costs = cost_matrix(str(table), CLASSES)
    assert costs == ((0.0, 10.0), (1.0, 0.0))
    table.write_text("\n" + table.read_text())
    assert cost_matrix(table, CLASSES) == costs
    with_semicolons = tmp_path / "excel.csv"
    with_semicolons.write_text(table.read_text().replace(",", ";"))
    assert cost_matrix(with_semicolons, CLASSES) == costs
    sample = held(300)
    point = OperatingTarget(costs=str(table)).choose(sample)
    p = sample.probabilities
    assert (point.decision.decide(p) == np.where(10 * p[:, 0] > p[:, 1], 0, 1)).all()
    assert (point.figures["cost"].value or 0) < (point.figures["highest_probability"].value or 0)
    assert Decision.from_config(point.as_dict(), CLASSES) == point.decision
    for text, message in (
        ("label,defect,good\ndefect,0,10\n", "gives nothing for an image of good"),
        ("label,defect,bad\ndefect,0,10\ngood,1,0\n", "'bad', which is no class"),
        ("label,defect,good\ndefect,0\n", "is no matrix"),
        ("label,defect,good\ndefect,0,x\ngood,1,0\n", "gives 'x' for an image of defect"),
    ):
        table.write_text(text)
        with pytest.raises(UsageError, match=message):
            cost_matrix(str(table), CLASSES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_recall": 0.98}, "name it with positive"),
        ({"positive": "x", "min_recall": 0.9, "min_precision": 0.9}, "give one of them"),
        ({"positive": "x"}, "has no effect by itself"),
        ({"positive": "x", "min_recall": 1.0}, "above 0 and below 1"),
        ({"positive": "x", "min_recall": 98}, r"found 98\. For 98 % write 0\.98\."),
        ({"positive": "x", "costs": "costs.csv"}, "leave positive out"),
    ],
)
def test_options_that_disagree_get_one_message(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OperatingTarget.of(Config(**options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("points")


@pytest.fixture(scope="module")
def data(place: Path) -> Iterator[frostline.Manifest]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(place / "cache"))
        yield frostline.load_data(write_folder(place / "photos", per_class=20))


def trained(place: Path, data: frostline.Manifest, **options: object) -> frostline.Run:
    return frostline.train(
        tiny_backbone(), data, "linear_probe", study=place / "study", deterministic=True, **options
    )  # type: ignore[arg-type]


def test_a_run_keeps_it_and_predict_evaluate_export_decide_by_it(
    place: Path, data: frostline.Manifest
) -> None:
    plain = trained(place, data)
    run = trained(place, data, positive="kind 1", min_recall=0.9)
    assert run.folder == plain.folder  # no weights are learned for it
    assert run.reused
    point = run.operating_point
    assert point is not None
    assert point["basis"] == "out of fold"
    assert point["promised"] is False  # 16 images of it
    assert point["needed"] == 78  # models of folds share images: 1 + 5 · 0.2 / 0.8 times the variance
    threshold = point["threshold"]["probability"]
    predictions = frostline.predict(
        place / "study", place / "photos", module=tiny_model(), all_probabilities=True, top=3
    )
    assert predictions.probabilities is not None
    column = list(predictions.classes).index("kind 1")
    others = np.delete(predictions.probabilities, column, axis=1).argmax(axis=1)
    names = [name for name in predictions.classes if name != "kind 1"]
    expected = [
        "kind 1" if p >= threshold else names[other]
        for p, other in zip(predictions.probabilities[:, column], others, strict=True)
    ]
    assert [row.label for row in predictions] == expected
    assert predictions.decided_by == tuple(point["sentences"])
    predictions.to_csv(place / "predictions.csv")
    with open(place / "predictions.csv", newline="") as file:  # its digits divide as the threshold did
        rows = [row for row in csv.DictReader(file) if row["label"] == "kind 1"]
    from_table = {row["path"]: float(row["p(kind 1)"]) for row in rows}
    exact = zip(predictions, predictions.probabilities[:, column], strict=True)
    assert from_table == {row.path: float(p) for row, p in exact}
    views = frostline.predict(place / "study", place / "photos", module=tiny_model(), tta="flip")
    assert any("does not hold for means of several" in note for note in views.notes)
    folder = place / "export"
    export = frostline.export(place / "study", "delta", output=folder, module=tiny_model())
    assert export.decided_by == point["sentences"]
    assert json.loads((folder / "config.json").read_text())["threshold"]["label"] == "kind 1"
    assert "cannot be promised" in (folder / "README.md").read_text()
    again = frostline.predict(folder, place / "photos", module=tiny_model())
    assert [row.label for row in again] == expected
    assert again.decided_by == tuple(point["sentences"])
    evaluation = frostline.evaluate([place / "study", folder], data, module=tiny_model())
    promise = " ".join(point["sentences"])
    promises = [note for note in evaluation.notes if promise in note]
    assert promises == [f"study: {promise}", f"export: {promise}"]
    config = json.loads((folder / "config.json").read_text())
    config["threshold"]["probability"] += 1e-9  # by hand: what was promised of another one is not said of it
    (folder / "config.json").write_text(json.dumps(config))
    assert len(frostline.predict(folder, place / "photos", module=tiny_model()).decided_by) == 1
    config["threshold"]["probability"] = 0.75
    (folder / "config.json").write_text(json.dumps(config))
    changed = frostline.predict(folder, place / "photos", module=tiny_model())
    (rule,) = changed.decided_by
    assert rule == "It predicts kind 1 from a probability of 0.75, else the likeliest of the others."
    evaluation = frostline.evaluate(place / "study", data, module=tiny_model())
    assert (evaluation.predicted == [evaluation.classes.index(p) for p in _labels(evaluation, again)]).all()
    assert "It predicts kind 1 from a probability" in " ".join(frostline.report(place / "study").lines)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(place, data, positive="kind 1", min_recall=0.9)  # the same rule
    with pytest.warns(
        RunWarning, match="had a rule before: it predicts kind 1 .* decide by this call's rule"
    ):
        trained(place, data, positive="kind 2", min_recall=0.9)
    costs = {name: {other: float(name != other) for other in data.classes} for name in data.classes}
    with pytest.warns(RunWarning, match="predicts kind 2 from .* by this call's rule"):
        trained(place, data, costs=costs)
    costs["kind 1"]["kind 2"] = 5.0
    with pytest.warns(RunWarning, match=r"least expected cost\. From now on .* by this call's rule"):
        trained(place, data, costs=costs)
    with pytest.warns(RunWarning, match=r"least expected cost\. .* by the likeliest class, since .* no rule"):
        trained(place, data)  # the last call decides
    assert operating_point.read(run.folder.path) is None


def _labels(evaluation: frostline.Evaluation, predictions: frostline.Predictions) -> list[str]:
    label_of = {Path(row.path).as_posix(): row.label for row in predictions}
    return [next(label for path, label in label_of.items() if path.endswith(p)) for p in evaluation.paths]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("x,defect,good\ndefect,0,5\ngood,-1,0\n", r"cheaper to predict an image of good as defect \(-1\)"),
        ("x,defect,good\ndefect,0,0\ngood,0,0\n", "lets every prediction cost the same"),
        ("x,defect,good\ndefect,0,5\ndefect,1,0\ngood,1,0\n", "names 'defect' twice"),
        ("x,defect,defect\ndefect,0,5\ngood,1,0\n", "names 'defect' twice"),
        ("x,defect\ndefect,0\ngood,1\n", "gives nothing for an image of defect that is predicted as good"),
        ("x,defect,good\ndefect,0,5\ngod,1,0\n", "Did you mean 'good'"),
        ("x,defect,good\ndefect,0\ngood,1,0\n", "is no matrix"),
    ],
)
def test_costs_that_make_no_sense_get_one_message(table: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.csv"
    path.write_text(table)
    with pytest.raises(UsageError, match=message):
        cost_matrix(str(path), CLASSES)


def test_infer_decides_by_costs_as_frostline_does() -> None:
    rng = np.random.default_rng(0)
    decision = Decision(("a", "b", "c"), costs=tuple(map(tuple, rng.random((3, 3)).tolist())))
    probabilities = rng.dirichlet(np.ones(3), size=50)
    model = infer.Model.__new__(infer.Model)
    model.config, model.classes = decision.as_config(), list(decision.classes)
    labels = [model._row("x", row.tolist()).label for row in probabilities]
    assert labels == [decision.classes[place] for place in decision.decide(probabilities)]


def test_a_damaged_file_gets_one_message(tmp_path: Path) -> None:
    (tmp_path / operating_point.NAME).write_text('{"threshold": {"label": "x"}, "sentences": []}')
    with pytest.raises(StudyError, match="is damaged"):
        operating_point.decision_of(tmp_path, CLASSES)
    (tmp_path / operating_point.NAME).write_text("[]")
    with pytest.raises(StudyError, match="cannot be read"):
        operating_point.decision_of(tmp_path, CLASSES)


def test_fewer_folds_promise_less(
    place: Path, data: frostline.Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained(place, data).folder.path, tmp_path / "run")
    monkeypatch.setattr(frostline.Manifest, "folds", lambda *_, **__: [None, None])
    _, point = settle(run, data, OperatingTarget("kind 1", min_recall=0.9))
    assert point is not None
    assert point.as_dict()["needed"] == 104  # 1 + 2 · 0.5 / 0.5 times the variance


def test_a_run_that_holds_nothing_out_refuses(place: Path, data: frostline.Manifest) -> None:
    with pytest.raises(UsageError, match="there is no val set"):
        frostline.train(
            tiny_backbone(),
            data,
            "head(epochs=1)",
            study=place / "other",
            positive="kind 1",
            min_recall=0.9,
        )
    with pytest.raises(UsageError, match=r"'kind 7', which is no class .* Did you mean"):
        trained(place, data, positive="kind 7", min_recall=0.9)


def test_a_comparison_chooses_its_winners_threshold_out_of_fold(
    place: Path, data: frostline.Manifest
) -> None:
    given = {"least": 1, "repeats": 1, "study": place / "compared", "deterministic": True}
    rule = {"positive": "kind 2", "min_precision": 0.5}
    comparison = frostline.compare(tiny_backbone(), data, "linear_probe", **given, **rule)
    point = comparison.operating_point
    assert point is not None
    assert point["basis"] == "out of fold"
    assert point["figures"]["accuracy"]["images"] == len(data.samples) - len(data.subset("test"))
    assert point["test"]["accuracy"]["images"] == len(data.subset("test"))
    assert frostline.predict(place / "compared", place / "photos", module=tiny_model()).decided_by
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frostline.compare(tiny_backbone(), data, "linear_probe", **given, **rule)
    with pytest.warns(RunWarning, match="had a rule before: it predicts kind 2 .* gives no rule"):
        frostline.compare(tiny_backbone(), data, "linear_probe", **given)


def test_the_prompt_takes_no_share_without_a_class() -> None:
    result = CliRunner().invoke(cli, ["train", "nowhere", "--min-recall", "1.2"])
    assert result.exit_code == 2
    assert "1.2" in result.output


def test_the_prompt_chooses_and_predicts_by_it(
    place: Path, data: frostline.Manifest, own_cache: Path
) -> None:
    trained(place, data, positive="kind 1", min_recall=0.9)
    result = CliRunner().invoke(cli, ["predict", str(place / "study"), "x.png", "--all-probabilities"])
    assert result.exit_code == 2
    assert "add --output FILE.csv" in result.output


def test_a_precision_counts_an_image_as_often_as_it_is_predicted() -> None:
    """Of three repeats: two of the class always, and four others once in three each."""
    own = np.array([[0.9, 0.9, 0.9]] * 2)
    others = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.1, 0.1]])
    p = np.concatenate([own, others]).T.ravel()  # repeat after repeat
    images, targets = np.tile(np.arange(6), 3), np.tile([0, 0, 1, 1, 1, 1], 3)
    held = HeldOut(CLASSES, targets, np.stack([p, 1 - p], 1), images, images, "out of fold")
    rate = held.precision(0, 0.5)
    assert rate.value == pytest.approx(6 / 10)  # 2 of 6 images
    assert rate.images == 6
    assert rate.low is not None
    assert rate.high is not None
    once = metrics.wilson(0.6, 6)  # not as sure as six independent ones, and no surer
    assert rate.low < once[0]
    assert rate.high > once[1]
    point = OperatingTarget(CLASSES[0], min_recall=0.9).choose(held)
    f = point.figures
    assert f["recall"].value == 1
    assert f["precision"].value == pytest.approx(0.6)


def test_equal_weights_change_no_interval() -> None:
    rng = np.random.default_rng(0)
    correct, units = rng.random(40).round(), rng.integers(0, 12, 40)
    for unit in (None, units):
        plain = metrics.rate_interval(correct, unit)
        assert metrics.rate_interval(correct, unit, weights=np.full(40, 3.0)) == pytest.approx(plain)
