"""`evaluate`: scikit-learn's figures, intervals, and images that stand apart."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from sklearn import metrics as sk
from torch.utils.data import Dataset

import frostline
from frostline import metrics
from frostline.cli.main import cli
from frostline.cli.output import evaluation_text
from frostline.data import loading
from frostline.errors import DataError, StudyError, UsageError
from frostline.inference import decoded_batches
from frostline.pipelines.evaluation import Evaluation, evaluating
from frostline.pipelines.evaluation.aligned_predictions import Answers
from frostline.pipelines.evaluation.results import Mistake
from frostline.selection import metric_intervals, significance
from tiny import picture, tiny_backbone, tiny_model, write_folder

SIDE = 32


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def runs(place: Path) -> Iterator[list[frostline.Run]]:
    """A good and a worse run of a tiny module, and one of a network that is built by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(place / "cache"))
        data = frostline.load_data(write_folder(place / "photos", per_class=20))
        named = frostline.load_backbone("timm/test_efficientnet", size=SIDE, random=True)
        yield [
            frostline.train(tiny_backbone(), data, "linear_probe", study=place / "good", deterministic=True),
            frostline.train(
                tiny_backbone(1), data, "head(epochs=1)", study=place / "worse", deterministic=True, views=0
            ),
            frostline.train(named, data, "linear_probe", study=place / "named", deterministic=True),
        ]


@pytest.fixture(scope="module")
def table(place: Path) -> Path:
    """New pictures with some wrong labels, a class that no model knows, a camera and a lot each."""
    rng = np.random.default_rng(3)
    rows = [["path", "label", "camera", "lot"]]
    (place / "new").mkdir()
    for n in range(72):
        kind = n % 3
        label = "crack" if n % 18 == 0 else f"kind {rng.integers(3) if n % 6 == 1 else kind}"
        picture(kind, rng).save(place / "new" / f"{n:03}.png")
        rows.append([f"new/{n:03}.png", label, f"cam {n % 2}", f"lot {n // 3}"])
    with open(place / "new.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return place / "new.csv"


@pytest.fixture(scope="module")
def both(runs: list[frostline.Run], table: Path) -> Evaluation:
    return frostline.evaluate(runs[:2], table, by="camera")


def test_figures_are_scikit_learns_to_the_digit(both: Evaluation) -> None:
    names = np.array(both.classes)
    for evaluation in (both, *both.others):
        true, predicted = names[evaluation.targets], names[evaluation.predicted]
        one_hot, figures = np.eye(len(names))[evaluation.targets], evaluation.figures
        assert figures is not None
        assert figures.images == len(true) == 68
        assert figures.accuracy.value == sk.accuracy_score(true, predicted)
        assert figures.balanced_accuracy.value == pytest.approx(
            sk.balanced_accuracy_score(true, predicted), abs=1e-15
        )
        assert figures.macro_f1.value == sk.f1_score(true, predicted, average="macro")
        assert figures.average_precision.value == pytest.approx(
            sk.average_precision_score(one_hot, evaluation.probabilities, average="macro"), abs=1e-15
        )
        assert figures.auroc.value == pytest.approx(
            sk.roc_auc_score(one_hot, evaluation.probabilities, average="macro"), abs=1e-15
        )
        assert figures.log_loss.value == pytest.approx(
            sk.log_loss(evaluation.targets, evaluation.probabilities), abs=1e-12
        )
        assert (evaluation.confusion.counts == sk.confusion_matrix(true, predicted)).all()
        assert evaluation.classification_report() == sk.classification_report(
            true, predicted, zero_division=0
        )
        report = evaluation.classification_report(output_dict=True)
        for row in evaluation.per_class:
            assert row.recall == report[row.name]["recall"]
            assert row.f1 == report[row.name]["f1-score"]
            assert row.low is not None
            assert row.low <= row.recall <= row.high
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "average_precision", "log_loss", "ece"):
            one = figures.estimate(name)
            assert one.low is not None, name
            assert one.low <= one.value <= one.high, name


class Camera(Dataset[Any]):
    """A person's own pictures, from one reader that several threads would mix up."""

    classes: ClassVar[list[str]] = ["kind 0", "kind 1", "kind 2"]

    def __init__(self, images: int) -> None:
        self.images, self._reading, self.most_at_once = images, 0, 0

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Any:
        self._reading += 1
        self.most_at_once = max(self.most_at_once, self._reading)
        time.sleep(0.01)
        self._reading -= 1
        return picture(index % 3, np.random.default_rng(index)), index % 3


def test_a_persons_own_code_runs_in_one_thread(
    runs: list[frostline.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded_batches, "decoding_threads", lambda workers: 4)
    monkeypatch.setattr(loading, "decoding_threads", lambda workers: 4)
    camera = Camera(12)
    frostline.evaluate(runs[0], camera)
    assert camera.most_at_once == 1


def test_unknown_classes_are_counted_apart(both: Evaluation) -> None:
    (crack,) = both.unknown
    assert (crack.name, crack.images, sum(crack.predicted.values())) == ("crack", 4, 4)
    assert len(both.paths) + crack.images == 72


def test_by_a_column(both: Evaluation) -> None:
    assert [row.value for row in both.by_value] == ["cam 0", "cam 1"]
    assert both.figures is not None
    assert sum(row.figures.images for row in both.by_value) == both.figures.images
    right = sum((row.figures.accuracy.value or 0) * row.figures.images for row in both.by_value)
    assert right / both.figures.images == pytest.approx(both.accuracy)


def test_two_models_are_paired(both: Evaluation) -> None:
    (difference,), (other,) = both.differences, both.others
    first_right, other_right = both.predicted == both.targets, other.predicted == other.targets
    assert difference.only_first == int((first_right & ~other_right).sum())
    assert difference.metrics["accuracy"].value == pytest.approx(first_right.mean() - other_right.mean())
    assert difference.mcnemar_p == significance.mcnemar(first_right, other_right)
    for one in difference.metrics.values():
        assert one.low is not None
        assert one.low <= one.value <= one.high


def test_groups_widen_intervals_and_take_mcnemars_p_away(
    runs: list[frostline.Run], table: Path, both: Evaluation
) -> None:
    evaluation = frostline.evaluate(runs[:2], table, group_by="column:lot")
    assert evaluation.figures is not None
    assert both.figures is not None
    assert evaluation.figures.units == 24
    assert evaluation.differences[0].mcnemar_p is None
    alone, grouped = both.figures.macro_f1, evaluation.figures.macro_f1
    assert grouped.value == alone.value
    assert grouped.high - grouped.low >= alone.high - alone.low - 1e-9


def test_images_that_were_learned_from_stand_apart(runs: list[frostline.Run], place: Path) -> None:
    run = runs[0]
    evaluation = frostline.evaluate(run, place / "photos")
    assert evaluation.learned is not None
    assert evaluation.figures is not None
    assert (evaluation.figures.images, evaluation.learned.images) == (run.n_test, run.n_train + run.n_val)
    assert evaluation.accuracy == run.accuracy
    assert (evaluation.confusion.counts == run.confusion.counts).all()
    assert evaluation.classification_report() == run.classification_report()
    assert run.confusion.basis == "test set"
    learned = [sample.path for sample in frostline.load_data(place / "photos").subset("train")]
    rows = [[place / "photos" / path, path.split("/")[0]] for path in learned]
    with open(place / "learned.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *rows])
    nothing = frostline.evaluate(run, place / "learned.csv")
    assert nothing.figures is None
    assert nothing.accuracy is None
    assert json.loads(json.dumps(nothing.as_dict()))["accuracy"] is None


def test_a_table_of_another_system_is_paired(runs: list[frostline.Run], table: Path, place: Path) -> None:
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    predicted_rows = [row for n, row in enumerate(rows) if n % 4]
    with open(place / "other.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows(
            [row["path"], row["label"] if n % 3 else "dust"] for n, row in enumerate(predicted_rows)
        )
    evaluation = frostline.evaluate(runs[0], table, predictions=place / "other.csv")
    other, difference = evaluation.others[0], evaluation.differences[0]
    labels = {row["path"]: row["label"] for n, row in enumerate(predicted_rows) if n % 3}
    known = [row for row in predicted_rows if row["label"] != "crack"]
    right = np.mean([row["path"] in labels for row in known])
    assert other.figures is not None
    assert (other.figures.images, other.accuracy) == (len(known), pytest.approx(right))
    assert other.figures.log_loss.value is None
    assert "dust" in other.classes
    assert difference.images == len(known)
    assert any("no prediction for" in note for note in evaluation.notes)
    assert any("prediction(s) of dust, no class of" in note for note in evaluation.notes)
    assert not any("is the image's label" in note for note in evaluation.notes)
    labels_alone = frostline.evaluate(runs[0], table, predictions=table)
    assert any("every prediction is the image's label" in note for note in labels_alone.notes)


@pytest.mark.parametrize("kind", ["safetensors", pytest.param("onnx", marks=pytest.mark.ecosystem)])
def test_an_export_predicts_as_its_study(
    kind: str, runs: list[frostline.Run], table: Path, place: Path
) -> None:
    study = frostline.evaluate(place / "named", table)
    frostline.export(place / "named", to=kind, output=place / kind)
    evaluation = frostline.evaluate(place / kind, table)
    assert (evaluation.predicted == study.predicted).all()
    assert np.abs(evaluation.probabilities - study.probabilities).max() < 1e-4
    assert evaluation.run == study.run


def test_an_export_where_a_study_belongs_is_told_what_it_is_good_for(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    cases = {"safetensors": ["evaluate", "README.md"], "torch": ["infer.py labels images", "README.md"]}
    for kind, words in cases.items():
        (folder / "config.json").write_text(json.dumps({"frostline": {"export": kind}}))
        if kind == "torch":
            (folder / "infer.py").write_text("")
        result = CliRunner().invoke(cli, ["predict", str(folder), str(tmp_path)])
        assert result.exit_code == 1
        message = " ".join(result.stderr.split())
        assert "is an export, not a study" in message
        assert all(word in message for word in words)
        assert ("frostline evaluate" in message) == (kind == "safetensors")
    (folder / "config.json").write_text('{"num_classes": 3}')
    result = CliRunner().invoke(cli, ["predict", str(folder), str(tmp_path)])
    assert "is not a study: it holds no study.json" in " ".join(result.stderr.split())


def test_calibration_is_of_the_likeliest_class_whatever_the_threshold() -> None:
    targets, units = np.arange(80) % 3, np.arange(80)
    probabilities = np.eye(3)[targets] * 0.85 + 0.05
    targets[:8] = (targets[:8] + 1) % 3  # one in ten is wrong, as stated
    plain = Answers(targets, probabilities, units).figures().ece
    decided = Answers(targets, probabilities, units, decided=np.zeros(80, np.int64)).figures().ece
    assert decided == plain


def test_a_program_of_torch_is_refused_as_a_folder_and_as_a_file(table: Path, place: Path) -> None:
    (place / "program").mkdir()
    (place / "program" / "config.json").write_text('{"frostline": {"export": "torch"}}')
    (place / "program" / "model.pt2").write_bytes(b"")
    for model in (place / "program", place / "program" / "model.pt2"):
        with pytest.raises(UsageError, match=r"unpickles.*Use the study it was exported from, or"):
            frostline.evaluate(model, table)


def test_a_picture_a_csv_and_axes(both: Evaluation, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    both.confusion.to_csv(tmp_path / "c.csv")
    with open(tmp_path / "c.csv", newline="") as file:
        head, *rows = list(csv.reader(file))
    assert head[1:] == list(both.classes)
    assert [[int(cell) for cell in row[1:]] for row in rows] == both.confusion.counts.tolist()
    both.confusion.save(tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    axes = Figure().add_subplot()
    assert both.plot(axes) is axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(both.classes)


def test_the_command_line(runs: list[frostline.Run], table: Path, place: Path, tmp_path: Path) -> None:
    def call(*arguments: object) -> Any:
        return CliRunner().invoke(cli, ["evaluate", *map(str, arguments)])

    result = call(place / "named", table, "--by", "camera", "--confusion", tmp_path / "c.csv", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["schema"] == 2
    assert document["low"] <= document["accuracy"] <= document["high"]
    assert [row["value"] for row in document["by_value"]] == ["cam 0", "cam 1"]
    wrong = [mistake["probability"] for mistake in document["mistakes"]]
    assert wrong == sorted(wrong, reverse=True)
    assert (tmp_path / "c.csv").is_file()
    text = call(place / "named", table, "--metric", "macro_f1", "--mistakes", 2, "--quiet").stdout
    assert "crack (4 images" in text
    assert text.index("macro F1") < text.index("balanced accuracy")
    reversed_ = call(table.parent / "photos", place / "named")
    assert reversed_.exit_code == 1
    assert "the labelled images come last" in reversed_.output


def test_wrong_input_gets_one_clear_message(runs: list[frostline.Run], table: Path, place: Path) -> None:
    run = runs[0]
    with pytest.raises(UsageError, match="Unknown metric 'f1'"):
        frostline.evaluate(run, table, metric="f1")
    with pytest.raises(DataError, match=r"no column 'camra'.*Did you mean 'camera'"):
        frostline.evaluate(run, table, by="camra")
    with pytest.raises(UsageError, match="come from no table"):
        frostline.evaluate(run, place / "photos", by="camera")
    with pytest.raises(StudyError, match="nowhere does not exist"):
        frostline.evaluate("nowhere", table)
    (place / "strange.csv").write_text("path,label\nnew/001.png,x\nnew/002.png,y\n")
    with pytest.raises(DataError, match="Classes are matched by name"):
        frostline.evaluate(run, place / "strange.csv")
    (place / "odd.csv").write_text("path,label,probability\nnew/001.png,kind 0,7\n")
    with pytest.raises(DataError, match="probability '7' is no probability"):
        frostline.evaluate(run, table, predictions=place / "odd.csv")
    (place / "guess.csv").write_text("path,guess\nnew/001.png,kind 0\n")
    with pytest.raises(DataError, match=r"'label' is missing .*; expected one that is called 'label'$"):
        frostline.evaluate(run, table, predictions=place / "guess.csv")
    (place / "two.csv").write_text("file,image,label\nnew/001.png,new/001.png,kind 0\n")
    with pytest.raises(DataError, match=r"could each be it: rename one to 'path'$"):
        frostline.evaluate(run, table, predictions=place / "two.csv")
    (place / "splits.csv").write_text("path,label,splits\nnew/001.png,kind 0,7\n")
    assert frostline.evaluate(run, table, predictions=place / "splits.csv").others
    (place / "else.csv").write_text("path,label\nqqq.png,kind 0\n")
    with pytest.raises(DataError, match="None of the 1 rows"):
        frostline.evaluate(run, table, predictions=place / "else.csv")
    (place / "renamed.csv").write_text("path,label\nnew/001.png,Kind 0\nnew/002.png,Kind 1\n")
    with pytest.raises(
        DataError, match=r"predicts Kind 0, Kind 1, none of which is a class here; .*Rename them"
    ):
        frostline.evaluate(run, table, predictions=place / "renamed.csv")
    assert frostline.evaluate(place / "good", table, module=tiny_model()).run == run.run


@pytest.mark.parametrize(
    ("fewest", "unknown"),
    [
        (1, {"average_precision", "auroc", "macro_f1"}),
        (4, {"average_precision", "auroc"}),
        (9, {"average_precision"}),
        (10, set()),
    ],
)
def test_a_class_of_few_images_gives_no_interval(fewest: int, unknown: set[str]) -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(3), (30, 30, fewest))
    probabilities = metrics.softmax(rng.normal(size=(len(targets), 3)) + 2 * np.eye(3)[targets])
    figures = Answers(targets, probabilities, np.arange(len(targets))).figures()
    names = ("average_precision", "auroc", "macro_f1", "balanced_accuracy")
    assert {name for name in names if figures.estimate(name).low is None} == unknown
    assert figures.average_precision.value > 0.5


@pytest.mark.parametrize(
    ("images", "positive", "known"),
    [
        ((99, 30), 1, False),
        ((100, 30), 1, True),
        ((30, 100), 1, False),
        ((60, 60, 40), None, True),
        ((90, 60, 40), None, True),
        ((90, 60, 30), None, False),
    ],
)
def test_a_sensitivity_needs_images_of_other_classes(
    images: tuple[int, ...], positive: int | None, known: bool
) -> None:
    """At 0.95: with 10 or 20 others, 84 and 80 % of the intervals held, the rest lay too high."""
    targets = np.repeat(np.arange(len(images)), images)
    metric = metrics.Sensitivity(0.95, positive)
    assert metric_intervals.too_few(metric, targets) == (not known)
    noise = np.random.default_rng(0).normal(size=(len(targets), len(images)))
    probabilities = metrics.softmax(noise + np.eye(len(images))[targets])
    estimate = Answers(targets, probabilities, np.arange(len(targets)), metric=metric)._estimate(metric)
    assert estimate.value is not None
    assert (estimate.low is None) == (not known)


def test_average_precision_on_few_images_is_too_high_and_its_interval_says_so() -> None:
    """With 60 hard classes of 10 images, 19 of 40 intervals held what 300 a class give, 0.372."""
    for seed in (2, 3, 5):  # for two of them the lower end was 0.378
        targets = np.repeat(np.arange(60), 10)
        noise = np.random.default_rng(seed).normal(size=(600, 60))
        answers = Answers(targets, metrics.softmax(noise + 2 * np.eye(60)[targets]), np.arange(600))
        estimate = answers._estimate("average_precision")
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= 0.372 <= estimate.high
        assert estimate.low <= estimate.value <= estimate.high
        units = np.arange(600) // 2
        by_unit = metric_intervals.excess("average_precision", targets, answers.probabilities, units)
        assert 0.01 < by_unit < 0.05
    assert metric_intervals.excess("auroc", targets, answers.probabilities, units) == 0


def test_draws_are_the_metrics_on_repeated_images() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(4, size=60)
    probabilities = np.round(metrics.softmax(rng.normal(size=(60, 4)) + 2 * np.eye(4)[targets]), 1)
    units = np.arange(60) // 2
    names = (*metric_intervals.COUNTED[:4], *metric_intervals.RANKED)
    drawn = metric_intervals.draws(targets, probabilities, units, names, seed=5)
    weights = metric_intervals._weights(30, 5)
    for draw in range(5):
        rows = np.repeat(np.arange(60), weights[draw][units])
        for name in names:
            expected = (
                metrics.calibration_error(targets[rows], probabilities[rows])
                if name == "ece"
                else metrics.score(name, targets[rows], probabilities[rows])
            )
            assert drawn[name][draw] == pytest.approx(expected), name


def test_mcnemar_is_the_binomial_test_on_discordant_images() -> None:
    first = np.array([True] * 9 + [False] * 2 + [True] * 5)
    other = np.array([False] * 9 + [True] * 2 + [True] * 5)
    assert significance.mcnemar(first, other) == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    assert significance.mcnemar(first, first) == 1.0


def test_values_are_in_the_order_of_their_numbers() -> None:
    values = ["10.5", "", "2", "-1", "cam 10", "cam 2", "nan"]
    assert sorted(values, key=evaluating._by_number) == ["-1", "2", "10.5", "cam 2", "cam 10", "nan", ""]


def share_right(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """A caller's own metric."""
    return float((probabilities.argmax(axis=1) == targets).mean())


@pytest.mark.parametrize("size", [1, 3])
def test_no_interval_is_without_width(size: int) -> None:
    """Perfect models, models that never differ, and models that always do, on 30 units of some images."""
    count = 30 * size
    targets, units = np.arange(count) // size % 3, np.arange(count) // size
    perfect = Answers(targets, np.eye(3)[targets] * 0.85 + 0.05, units, metric=share_right)
    wrong = Answers(targets, np.eye(3)[(targets + 1) % 3] * 0.85 + 0.05, units, metric=share_right)
    for answers, value in ((perfect, 1.0), (wrong, 0.0)):
        figures = answers.figures()
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "share_right", "ece"):
            estimate = figures.estimate(name)
            assert name == "ece" or estimate.value == value
            assert estimate.low is not None
            assert estimate.high is not None
            assert 0.05 < estimate.high - estimate.low < 0.4
    for name in ("average_precision", "auroc"):
        estimate = perfect.figures().estimate(name)
        assert estimate.value == estimate.high == 1
        assert estimate.low is not None
        assert 0.7 < estimate.low < 0.97
    for other, value in ((perfect, 0.0), (wrong, 1.0)):
        differences = perfect.less(other, ("one", "other")).metrics
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "share_right"):
            estimate = differences[name]
            assert estimate.value == value
            assert estimate.low is not None
            assert estimate.high is not None
            assert 0.05 < estimate.high - estimate.low < 0.5
            assert (estimate.low > 0) == (value == 1)
        assert {
            name for name, one in differences.items() if one.low is not None and one.low == one.high
        } == set()


def test_file_names_of_mistakes_are_whole_on_a_narrow_terminal() -> None:
    path = "crack/site-eleven/camera-2/2026-07-14T09-31-22.118-lot-000417.png"
    result = SimpleNamespace(predicted=np.array([0]), targets=np.array([1]))
    out = Console(width=60, record=True, file=io.StringIO())
    mistake = Mistake(path, "crack", "no visible defect of any kind", 0.9, 0.1)
    evaluation_text._mistakes(out, result, [mistake])  # type: ignore[arg-type]
    rows = [line.split("│")[1:4] for line in out.export_text().splitlines() if "│" in line]
    assert path in "".join(row[0].strip() for row in rows)
    assert "no visible defect of any kind" in " ".join(row[2].strip() for row in rows)
