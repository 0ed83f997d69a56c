"""The report's figures are what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import studies
from frostline import metrics, sentences
from frostline.reports import prediction_table, trials_section, tried_strategies
from frostline.reports.conclusions import DISTANCES, EXPECTATIONS, FAIR_CALIBRATION
from frostline.reports.network_chart import flow
from frostline.reports.study_reader import read
from frostline.sentences import Closeness
from frostline.strategies import hyperparameters, lr_schedule, parse, schedule
from frostline.unfreezing import groups
from tiny import tiny_backbone

# --- figures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("similarity", "closeness"),
    [(1.0, "NEAR"), (0.55, "NEAR"), (0.54, "BETWEEN"), (0.25, "BETWEEN"), (0.24, "FAR"), (0.0, "FAR")],
)
def test_a_similarity_has_one_word_everywhere(similarity: float, closeness: str) -> None:
    assert Closeness.of(similarity) is Closeness[closeness]
    assert set(DISTANCES) == set(EXPECTATIONS) == set(Closeness)


def test_a_candidates_runs_are_found_by_the_paths_that_the_comparison_wrote(tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study")
    (file,) = study.glob("comparisons/*/comparison.json")
    result = json.loads(file.read_text())
    for row in result["standings"]:
        row["strategy"] = "head"  # no run has this strategy
    result["standings"][0]["trials"].pop()
    file.write_text(json.dumps(result))
    rows = tried_strategies.strategy_rows(read(study))
    assert [[run.path for run in row.runs] for row in rows] == [
        sorted(row["trials"]) for row in result["standings"]
    ]
    assert [len(row.runs) for row in rows] == [1, 2, 2, 2]
    assert [row.winner for row in rows] == [row["winner"] for row in result["standings"]]


def test_trials_of_an_unfinished_comparison_are_found_by_the_paths_that_were_written(tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study", finished=False)
    data = read(study).data
    assert data is not None
    # A run on a fold that looks like a trial, and is none: made by another comparison, or by the classifier.
    fold, held = study / "splits" / "fold0", data.samples[:9]
    stranger = studies.write_run(fold, "top_k(1)", data, keep="last", val=held, seed=7)
    files = sorted(study.glob("comparisons/*/trials/*.json"))
    named = [file for file in files if json.loads(file.read_text())["strategy"] == "top_k(1)"]
    rows = {row.strategy: row for row in tried_strategies.strategy_rows(read(study))}
    assert set(rows) == set(studies.TRIED)
    assert len(files) == sum(row.count for row in rows.values()) == 2 * len(studies.TRIED)
    assert rows["full"].epoch_share == 0.25
    paths = [run.path for run in rows["top_k(1)"].runs]
    assert paths == sorted(json.loads(file.read_text())["run"] for file in named)
    assert stranger.relative_to(study).as_posix() not in paths
    named[0].write_text("{}")
    named[1].write_text(named[1].read_text().replace("splits/", "../splits/"))
    contents = read(study)
    assert "top_k(1)" not in {row.strategy for row in tried_strategies.strategy_rows(contents)}
    assert [str(file) in problem for file, problem in zip(named, contents.problems, strict=True)] == [
        True,
        True,
    ]


@pytest.mark.parametrize(("images", "told"), [(9, False), (600, True)])
def test_calibration_is_only_told_from_images_enough(images: int, told: bool) -> None:
    rng = np.random.default_rng(1)
    confidences = rng.uniform(0.8, 0.99, images)
    probabilities = np.stack([confidences, 1 - confidences], axis=1)
    by_chance = metrics.chance_calibration_error(confidences, np.ones(images), np.arange(images))
    errors = [
        metrics.calibration_error((rng.random(images) >= confidences).astype(np.int64), probabilities)
        for _ in range(400)
    ]
    assert np.mean(np.array(errors) > by_chance) <= 0.08
    assert (by_chance <= FAIR_CALIBRATION) is told
    twice = metrics.chance_calibration_error(
        np.repeat(confidences, 2), np.full(2 * images, 0.5), np.repeat(np.arange(images), 2)
    )
    sure = metrics.chance_calibration_error(np.ones(6), np.ones(6), np.arange(6))
    assert sure > FAIR_CALIBRATION  # six right answers, each of them sure, prove nothing
    assert twice == pytest.approx(by_chance, rel=0.2)  # a second row of an image tells nothing


def test_figures_are_what_they_say(tmp_path: Path) -> None:
    contents = read(studies.compared(tmp_path / "study"))
    predictions = prediction_table.evaluation_predictions(contents)
    assert predictions is not None
    assert predictions.basis == "out of fold"
    matrix = prediction_table.confusion(predictions)
    assert matrix.sum() == len(predictions.paths)
    accuracy, low, high = prediction_table.interval(contents, predictions)
    assert accuracy == pytest.approx(np.trace(matrix) / matrix.sum())
    assert low < accuracy < high
    rows = prediction_table.classes(predictions)
    assert [row.recall for row in rows] == sorted(row.recall for row in rows)
    calibration = prediction_table.calibration(predictions)
    assert sum(b.n_images for b in calibration.bins) == len(predictions.paths)
    assert calibration.accuracy == pytest.approx(accuracy)
    wrong = prediction_table.mistakes(predictions)
    assert len(wrong) == (predictions.predicted != predictions.targets).sum()
    assert (np.diff(predictions.probabilities[wrong, predictions.predicted[wrong]]) <= 0).all()


def test_labels_that_are_wrong_are_doubted(tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study")
    data = read(study).data
    assert data is not None
    table = study / "comparisons" / "abc" / "out-of-fold.csv"
    studies.write_answers(table, data.classes, data.samples, 1.0)
    assert (
        prediction_table.label_issues(read(study), prediction_table.label_predictions(read(study))).tolist()
        == []
    )  # type: ignore[arg-type]
    lines = table.read_text().splitlines()
    lines[4] = re.sub(",cat,", ",newt,", lines[4], count=1)  # said to be a newt, and looks like a cat
    table.write_text("\n".join(lines) + "\n")
    contents = read(study)
    predictions = prediction_table.label_predictions(contents)
    assert predictions is not None
    assert prediction_table.label_issues(contents, predictions).tolist() == [3]


def test_what_was_tried_and_the_front_of_it(tmp_path: Path) -> None:
    contents = read(studies.compared(tmp_path / "study"))
    rows = {row.strategy: row for row in tried_strategies.strategy_rows(contents)}
    assert set(rows) == set(studies.TRIED)
    assert rows["gradual_unfreeze"].winner
    assert not rows["full"].complete
    assert all(len(row.runs) == 2 for row in rows.values())
    assert rows["full"].low is not None  # from its runs' own tables
    assert [row.cut for row in rows.values()] == [0, 0, 2, 3]
    front = tried_strategies.pareto_front(rows.values())
    assert [row.strategy for row in front] == ["linear_probe", "top_k(1)", "gradual_unfreeze"]


@pytest.mark.parametrize("strategy", ["top_k(2, epochs=3)", "gradual_unfreeze", "phases(0@2, all@3*0.0005)"])
def test_rates_drawn_are_the_rates_trained_with(strategy: str, tmp_path: Path) -> None:
    """The rates of the flow against the optimizer's own groups and shares, on a tiny network."""
    data = studies.begin(tmp_path / "study")
    studies.write_run(tmp_path / "study", strategy, data)
    contents = read(tmp_path / "study")
    drawn = flow(contents, contents.runs[0])
    assert drawn is not None
    parsed, below = hyperparameters(parse(strategy)), len(studies.STAGES) - 1
    phases = schedule(parse(strategy), stages=below + 1, images=len(data.subset("train")), batch=32)
    column = 0
    for phase in phases:
        for epoch in range(phase.epochs):
            steps = range(epoch * phase.steps_per_epoch, (epoch + 1) * phase.steps_per_epoch)
            share = np.mean([lr_schedule.scale(step, phase.steps, parsed.warmup) for step in steps])
            for place, stage in enumerate(drawn.stages):
                rate = stage.rates[column]
                if place < phase.cut:
                    assert rate is None
                else:
                    assert rate == pytest.approx(share * phase.lr * parsed.layer_decay ** (below - place))
            column += 1
    assert column == len(drawn.columns)


STOPPED = "phases(0@2, all@10)"


def test_of_a_stopped_run_only_what_was_trained_is_drawn(tmp_path: Path) -> None:
    """It said "Epochs 3–12 ... up to 0.001" of two epochs that were still warming up."""
    data = studies.begin(tmp_path / "study")
    folder = studies.write_run(tmp_path / "study", STOPPED, data)
    result = json.loads((folder / "result.json").read_text())
    probe, rest = schedule(
        parse(STOPPED), stages=len(studies.STAGES), images=len(data.subset("train")), batch=32
    )
    done = probe.steps + 1
    (folder / "result.json").write_text(json.dumps({**result, "steps": done, "stopped": "minutes"}))
    contents = read(tmp_path / "study")
    drawn = flow(contents, contents.runs[0])
    assert drawn is not None
    assert len(drawn.columns) == probe.epochs + 1
    first, second, stopped = drawn.phases
    assert first.startswith(f"Epochs 1–{probe.epochs}: only the head is trained")
    known = hyperparameters(parse(STOPPED))
    reached = rest.lr * lr_schedule.scale(0, rest.steps, known.warmup)
    assert reached < rest.lr
    assert second.startswith(f"Epoch {probe.epochs + 1}: every stage is trained, ")
    assert f"at a learning rate of up to {reached:.3g}" in second
    planned = probe.steps + rest.steps
    assert stopped == (
        f"It was stopped in epoch {probe.epochs + 1} of {probe.epochs + rest.epochs}, after {done:,} of "
        f"{planned:,} steps."
    )
    assert drawn.stages[0].peak == pytest.approx(
        lr_schedule.peak(reached, known.layer_decay, len(studies.STAGES) - 1)
    )


def test_a_run_without_a_step_is_no_solved_head(tmp_path: Path) -> None:
    data = studies.begin(tmp_path / "study")
    folder = studies.write_run(tmp_path / "study", STOPPED, data)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "steps": 0, "stopped": "minutes"}))
    contents = read(tmp_path / "study")
    drawn = flow(contents, contents.runs[0])
    assert drawn is not None
    assert drawn.phases == (f"It was stopped after 0 of {result['steps']} steps.",)


def test_a_headline_of_other_images_than_its_row_is_not_said_to_lie_below_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = SimpleNamespace(accuracy=0.66, low=0.55, high=0.75, record={"optimism": 0.01})
    monkeypatch.setattr(trials_section, "headline", lambda _: head)

    def note(everywhere: float | None) -> list[str]:
        rows = [{"winner": True, "all_folds_accuracy": everywhere}, {"winner": False}]
        contents = SimpleNamespace(comparison=SimpleNamespace(result={"standings": rows}))
        return trials_section._optimism_note(SimpleNamespace(contents=contents))  # type: ignore[arg-type]

    (line,) = note(None)
    assert "is 1.0 points below the chosen one's row" in line
    assert note(0.67) == []


def test_peaks_are_the_optimizers() -> None:
    backbone = tiny_backbone()
    parsed = hyperparameters(parse("full"))
    parameter_groups = groups(backbone, backbone.adapt(3), 0.01, parsed.layer_decay, parsed.weight_decay)
    for group in parameter_groups:
        below = len(backbone.stages) - 1 - group["stage"]
        assert group["peak"] == lr_schedule.peak(0.01, parsed.layer_decay, below)


def test_files_skipped_for_one_reason_are_not_a_line_each() -> None:
    alike = [(f"{number}.jpg", "is of class moth, of which DATA has no image") for number in range(9)]
    lines = sentences.skipped_lines([*alike, ("odd.jpg", "is damaged")])
    assert lines[0] == "Skipped 10 files:"
    assert lines[4] == "  … and 6 more: is of class moth, of which DATA has no image"
    assert lines[5:] == ["  odd.jpg: is damaged"]
    each = sentences.skipped_lines(
        [(f"{number}.jpg", f"is damaged at byte {number}") for number in range(39)]
    )
    assert each[-1] == "  … and 19 more (in the study's manifest.jsonl)"
    assert len(each) == 22
    assert sentences.skipped_lines([]) == []
