"""The folds of a comparison, and whole comparisons on a tiny network."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import frostline
from frostline.cli.output import comparison_text
from frostline.data import Manifest
from frostline.errors import DataError, NoTime, UsageError
from frostline.reports import tried_strategies
from frostline.reports.study_reader import read
from frostline.selection import ranking, resampling, scoreboard
from frostline.selection.resampling import Cell
from frostline.selection.significance import HeldOutPredictions, Verdict, judge
from frostline.selection.trial_runner import Clock, TrialRunner
from frostline.strategies import parse
from frostline.studies.study_folder import Study
from tiny import tiny_backbone, tiny_model, write_table

pytestmark = pytest.mark.usefixtures("tiny_store")

OPTIONS = {"deterministic": True, "flip": "none", "threads": 1}


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=12, val=4), near_copies=False)


def without_val(tmp_path: Path, **counts: int) -> Manifest:
    table = write_table(tmp_path / "images", **counts)
    table.write_text("\n".join(line.replace(",val", ",") for line in table.read_text().splitlines()))
    return frostline.load_data(table, near_copies=False)


def test_every_image_is_held_out_once_a_repeat_and_the_test_part_never(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=15, test=5)
    folds = resampling.folds_of(data, 0)
    assert folds == 5
    pool = {sample.path for sample in data.samples if sample.split != "test"}
    splits = {}
    for repeat in range(2):
        held: list[str] = []
        for fold in range(folds):
            part = resampling.split(data, Cell(repeat, fold), 0)
            assert {s.path for s in part.samples} == pool
            assert not part.subset("test")
            assert {s.label for s in part.subset("train")} == set(data.classes)
            held += [s.path for s in part.subset("val")]
            splits[repeat, fold] = part.split_digest
        assert sorted(held) == sorted(pool)
    assert len(set(splits.values())) == len(splits)
    assert (
        resampling.seed_of(0, Cell(0, 1))
        == resampling.seed_of(0, Cell(0, 4))
        != resampling.seed_of(0, Cell(1, 1))
    )


def test_a_val_part_that_the_source_names_is_kept(data: Manifest) -> None:
    assert data.predefined == ("train", "val", "test")
    assert resampling.folds_of(data, 0) == 1
    for repeat in range(2):
        part = resampling.split(data, Cell(repeat, 0), 0)
        assert {s.path for s in part.subset("val")} == {s.path for s in data.subset("val")}
        assert not part.subset("test")
    assert Manifest.from_json(data.to_json()).predefined == data.predefined


def test_groups_and_what_can_only_train_stay_together(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=10, val=0, test=0)
    lines = [line.split(",") for line in table.read_text().splitlines()[1:]]
    rows = [
        f"{path},{label if i else 'rare'},g{i // 2 if i else 'alone'}"
        for i, (path, label, _) in enumerate(lines)
    ]
    table.write_text("\n".join(["path,label,group", *rows]))
    data = frostline.load_data(table, near_copies=False, test_size=0.0)
    units = {s.path: u for s, u in zip(data.samples, data.units(data.samples), strict=True)}
    for fold in range(resampling.folds_of(data, 0)):
        part = resampling.split(data, Cell(0, fold), 0)
        assert not {units[s.path] for s in part.subset("train")} & {units[s.path] for s in part.subset("val")}
        assert {s.label for s in part.subset("train")} == set(data.classes)


def told_of_runs(lines: list[str]) -> list[str]:
    """The lines of a comparison that tell of a run on a fold."""
    return [line for line in lines if re.search(r" \(repeat \d+, fold \d+ of \d+\): ", line)]


STRATEGIES = ("linear_probe", "head(epochs=4)", "top_k(1, epochs=4)", "full(epochs=4, lr=0.01)")


def test_a_comparison_names_a_winner_and_reads_the_test_part_once(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=15, test=5)
    study = tmp_path / "study"
    lines: list[str] = []
    given = {"study": study, "repeats": 2, "minutes": 10.0, "log": lines.append, **OPTIONS}
    strategies = STRATEGIES[:3]
    comparison = frostline.compare(tiny_backbone(), data, strategies, **given)
    assert comparison.finished
    assert comparison.winner in {str(parse(text)) for text in strategies}
    assert comparison.accuracy is not None
    assert comparison.test_evaluations == 1
    assert [name for name in comparison.result if not hasattr(comparison, name)] == []
    assert {row["strategy"] for row in comparison.standings} == {str(parse(text)) for text in strategies}
    runs = sum(row["runs"] for row in comparison.standings)
    assert 3 * 5 <= runs <= 3 * 5 * 2  # finalists are repeated
    # Of candidates with equal scores the quicker one wins, and one that trains then says its epochs, too.
    assert len(told_of_runs(lines)) == runs
    assert comparison.ended_because == "Every candidate was evaluated on every fold: nothing is left to run."
    assert comparison.out_of_fold["images"] == 45
    assert comparison.out_of_fold["strategy"] == comparison.winner
    assert len(comparison.out_of_fold["runs"]) == next(
        row["runs"] for row in comparison.standings if row["strategy"] == comparison.winner
    )
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in comparison.standings)
    for table in study.glob("splits/*/runs/*/predictions-test.csv"):
        assert table.parent == study / comparison.run.folder.path.relative_to(study)
    learned = comparison.run.n_train
    assert learned == 45
    again = frostline.compare(tiny_backbone(), data, strategies, **given)
    assert len(told_of_runs(lines)) == runs, "finished runs were made again"
    assert again.winner == comparison.winner
    answers = frostline.predict(study, tmp_path / "images", module=tiny_model())
    assert answers.run == comparison.run.folder.name
    assert "winner of the comparison" in answers.why


@pytest.mark.slow
def test_what_was_trained_before_joins_a_comparison_or_stands_apart(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=15, test=4)
    learning = [sample.path for sample in data.subset("train")]
    val = set(learning[::5])
    samples = (dataclasses.replace(s, split="val") if s.path in val else s for s in data.samples)
    data = dataclasses.replace(data, samples=tuple(samples))
    study, said = tmp_path / "study", list[str]()
    settings = {"study": study, **OPTIONS}
    before = [
        frostline.train(tiny_backbone(), data, name, batch_size=batch, **settings)
        for name, batch in (("top_k(1, epochs=2)", 32), ("head(epochs=2)", 32), ("lp_ft(epochs=2)", 16))
    ]
    given = {**settings, "repeats": 1, "minutes": 10.0, "log": said.append}
    named = ["linear_probe", "head(epochs=2)"]
    comparison = frostline.compare(tiny_backbone(), data, named, **given)
    assert {row["strategy"]: row["joined"] for row in comparison.standings} == {
        "linear_probe": False,
        "head(epochs=2)": False,
        "top_k(1, epochs=2)": True,
    }
    assert said[0] == "Also compared, trained in this study before: top_k(1, epochs=2)."
    apart = f"Also trained in this study, and not compared: lp_ft(epochs=2) (run {before[2].folder.name}"
    assert said[1].startswith(apart)
    assert [row["reason"] for row in comparison.not_compared] == ["trained with batch_size=16"]
    assert not comparison.reused
    assert comparison.evaluation["val"]["accuracy"] == pytest.approx(_right_out_of_fold(comparison, data))

    runs = len(said)
    later = frostline.train(tiny_backbone(), data, "top_k(2, epochs=2)", **settings)
    again = frostline.compare(tiny_backbone(), data, ", ".join(named), **given)
    assert again.reused
    assert (again.folder, again.winner, again.seconds) == (
        comparison.folder,
        comparison.winner,
        comparison.seconds,
    )
    assert again.joined == comparison.joined  # what was trained since does not join: it goes on as it began
    assert [row["reason"] for row in again.not_compared][1].startswith("trained after this comparison began")
    assert len(said) == runs + 2, "runs were made again"
    answers = frostline.predict(study, tmp_path / "images", module=tiny_model())
    assert answers.run == again.predicting["run"]
    assert later.folder.name in {answers.run, *(one.run for one in answers.passed_over)}
    page = frostline.report(study).path.read_text()
    assert "trained in this study before" in page.lower()
    assert "trained with batch_size=16" in page

    alone = frostline.compare(tiny_backbone(), data, named, earlier=False, **given)
    assert alone.folder != comparison.folder
    assert {row["strategy"] for row in alone.standings} == set(named)
    assert "left out, as requested" in {row["reason"] for row in alone.not_compared}


def test_a_comparison_at_work_takes_no_finished_runs_place(data: Manifest, tmp_path: Path) -> None:
    given = {"study": tmp_path / "study", **OPTIONS}
    run = frostline.train(tiny_backbone(), data, "head(epochs=1)", **given)

    made: list[str] = []

    def stop(line: str) -> None:
        made.extend([line] if "repeat 1" in line else [])
        if len(made) == 2:  # the first one might have been offered by now
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frostline.compare(tiny_backbone(), data, ["linear_probe", "full(epochs=1)"], log=stop, **given)
    answers = frostline.predict(tmp_path / "study", tmp_path / "images", module=tiny_model())
    assert answers.run == run.folder.name
    rows = tried_strategies.strategy_rows(read(tmp_path / "study"))
    assert sum(row.count for row in rows) == 2
    assert {row.strategy for row in rows} <= {"linear_probe", "full(epochs=1)"}
    assert {one.config["keep"] for row in rows for one in row.runs} == {"last"}


def _right_out_of_fold(comparison: Any, data: Manifest) -> float:
    """How often the winner was right about the val set, by the table that the comparison leaves."""
    val = {sample.path for sample in data.subset("val")}
    with open(comparison.folder / "out-of-fold.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["path"] in val]
    assert len(rows) == len(val)
    return sum(row["label"] == row["predicted"] for row in rows) / len(rows)


def test_what_would_be_ignored_is_refused(data: Manifest, tmp_path: Path) -> None:
    given = {"study": tmp_path / "s", **OPTIONS}
    with pytest.raises(UsageError, match="give one of the two"):
        frostline.compare(tiny_backbone(), data, ["head", "full"], cuts=True, **given)
    for wrong in ({"draws": 3}, {"search": ["lr"]}):
        with pytest.raises(UsageError, match="Give both, or neither"):
            frostline.compare(tiny_backbone(), data, **wrong, **given)
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_test_labels_have_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untimed(held: Mapping[int, HeldOutPredictions], seconds: Mapping[int, float], *rest: Any) -> Verdict:
        return judge(held, dict.fromkeys(seconds, 1.0), *rest)  # the clock has a say where none is separated

    monkeypatch.setattr(ranking, "judge", untimed)
    results = []
    for number in range(2):
        data = without_val(tmp_path / str(number), train=10, test=4)
        if number:
            samples = list(data.samples)
            tests = [i for i, s in enumerate(samples) if s.split == "test"]
            labels = [samples[i].label for i in tests]
            for i, label in zip(tests, labels[1:] + labels[:1], strict=True):
                samples[i] = dataclasses.replace(samples[i], label=label)
            data = dataclasses.replace(data, samples=tuple(samples))
        comparison = frostline.compare(
            tiny_backbone(), data, STRATEGIES[:3], study=tmp_path / f"s{number}", repeats=1, **OPTIONS
        )
        results.append(
            (
                comparison.winner,
                [(r["strategy"], r["score"]) for r in comparison.standings],
                comparison.run.folder.weights.read_bytes(),
            )
        )
    assert results[0] == results[1]


def test_a_budget_stops_the_race_with_a_model_that_answers(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=15, test=5)
    study = tmp_path / "study"
    with pytest.raises(UsageError, match=r"--minutes 0.0001 is less than .* give at least"):
        frostline.compare(tiny_backbone(), data, STRATEGIES, study=study, minutes=1e-4, **OPTIONS)
    assert not (study / "splits").exists()  # refused before any run
    racing = (*STRATEGIES[:2], "full(epochs=9999)")
    comparison = frostline.compare(
        tiny_backbone(), data, racing, study=study, repeats=1, minutes=1, **OPTIONS
    )
    assert comparison.seconds < 60.0 + 3.0
    assert not comparison.finished
    assert comparison.ended_because.startswith(
        "Nothing else fits the time: even full(epochs=9999) would take about"
    )
    first, *_, last = comparison.standings
    assert (first["repeats"], first["low"] is None) == (1, False)
    assert (last["strategy"], last["repeats"]) == ("full(epochs=9999)", 0)
    assert comparison.winner
    assert len(frostline.predict(study, tmp_path / "images", module=tiny_model())) == 60


def test_a_probe_on_all_folds_says_what_it_has_on_the_one_that_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hard fold made the winner look twelve points worse than a probe that it beat there."""
    monkeypatch.setattr(scoreboard, "FOLD_SHARE", 0.0)  # a fold of every candidate costs too much
    data = without_val(tmp_path, train=12, test=2)
    comparison = frostline.compare(
        tiny_backbone(), data, STRATEGIES[:2], study=tmp_path / "study", repeats=1, minutes=10, **OPTIONS
    )
    rows = {row["strategy"]: row for row in comparison.standings}
    probe, head = rows["linear_probe"], rows["head(epochs=4)"]
    assert (probe["runs"], probe["folds"], head["folds"], head["all_folds_accuracy"]) == (5, 1, 1, None)
    assert probe["low"] < probe["accuracy"] < probe["high"] or probe["accuracy"] in (0, 1)
    (judged,) = probe["trials"]
    assert split_of(judged) == split_of(head["trials"][0])
    study = Study(tmp_path / "study")
    accuracy_of = {
        run.name: json.loads((run / "result.json").read_text())["val_accuracy"]
        for run in study.path.glob("splits/*/runs/*")
        if json.loads((run / "config.json").read_text())["strategy"] == "linear_probe"
        and run != comparison.run.folder.path
    }
    assert probe["accuracy"] == pytest.approx(accuracy_of[Path(judged).name])
    assert probe["all_folds_accuracy"] == pytest.approx(statistics.mean(accuracy_of.values()), abs=0.02)
    line = next(line for line in comparison.verdict if line.startswith("linear_probe was evaluated on all 5"))
    assert line.endswith(f"{100 * probe['accuracy']:.1f} % on the one that decides.")
    assert "a new model, one fold of 5)" in str(comparison_text.standings(comparison.result).title)
    page = frostline.report(tmp_path / "study").path.read_text(encoding="utf-8")
    assert "1 repeat of one fold of 5, 6 runs" in page
    assert "each of them in 5 folds" not in page


def split_of(trial: str) -> str:
    """Return the folder of the split that a run is of."""
    return Path(trial).parts[1]


@pytest.mark.slow
def test_no_time_to_train_on_every_image_lets_a_model_of_the_race_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last training is not begun without time for it, but a machine may become slow on the way."""
    data = without_val(tmp_path, train=10, test=4)
    monkeypatch.setattr(Clock, "late", property(lambda clock: True))
    given = {"study": tmp_path / "study", "repeats": 1, "minutes": 10.0, "least": 1, **OPTIONS}
    comparison = frostline.compare(tiny_backbone(), data, ["top_k(1)"], **given)
    assert comparison.run.strategy == "top_k(1)"
    assert comparison.run.n_train == 24
    assert (comparison.every_image, comparison.accuracy, comparison.test_evaluations) == (False, None, None)
    assert comparison.out_of_fold["accuracy"] is not None
    assert "No time was left to train top_k(1) on every image" in " ".join(comparison.verdict)
    assert len(frostline.predict(tmp_path / "study", tmp_path / "images", module=tiny_model())) == 42
    monkeypatch.undo()
    whole = frostline.compare(tiny_backbone(), data, ["top_k(1)"], **given)
    assert (whole.every_image, whole.run.n_train) == (True, 30)
    monkeypatch.setattr(Clock, "late", property(lambda clock: True))
    assert frostline.compare(tiny_backbone(), data, ["top_k(1)"], **given).every_image


@pytest.mark.slow
def test_interrupted_it_goes_on(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=15, test=5)
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if len(lines) == 7:
            raise KeyboardInterrupt

    given = {"study": tmp_path / "study", "repeats": 1, "minutes": 10.0, **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        frostline.compare(tiny_backbone(), data, STRATEGIES, log=stop, **given)
    assert len(frostline.predict(tmp_path / "study", tmp_path / "images", module=tiny_model())) == 60
    frostline.compare(tiny_backbone(), data, STRATEGIES, log=lines.append, **given)
    plain = frostline.compare(tiny_backbone(), data, STRATEGIES, **{**given, "study": tmp_path / "other"})
    folds = [line for line in lines if "(repeat 1, fold" in line]  # others: epochs, where the winner has such
    assert len(folds) == 7 + 4 * 5 - 6  # the seventh was logged before it was written down
    files = [p / "best.safetensors" for p in (plain.run.folder.path,)]
    assert files[0].exists()
    result = json.loads(next((tmp_path / "study").glob("comparisons/*/comparison.json")).read_text())
    reached = [
        {row["strategy"]: row["score"] for row in standings}
        for standings in (result["standings"], plain.standings)
    ]
    assert reached[0] == reached[1]  # the winner of two that are close is the cheaper by predicted seconds


def test_less_time_than_earlier_calls_have_taken_is_refused(tmp_path: Path) -> None:
    """A limit is of all calls together: it must not end in a worse model at once, "86 s of 30 s"."""
    data = without_val(tmp_path, train=6, test=2)

    def stop(line: str) -> None:
        if "(repeat 1, fold 2" in line:
            raise KeyboardInterrupt

    given = {"study": tmp_path / "study", "repeats": 1, **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        frostline.compare(tiny_backbone(), data, STRATEGIES[:2], log=stop, **given)
    (clock,) = (tmp_path / "study").glob("comparisons/*/clock.json")
    clock.write_text('{"seconds": 80.0}')
    with pytest.raises(NoTime, match=r"--minutes 0.5 is less than .* earlier calls \(80 s, which count\)"):
        frostline.compare(tiny_backbone(), data, STRATEGIES[:2], minutes=0.5, **given)
    whole = frostline.compare(tiny_backbone(), data, STRATEGIES[:2], **given)
    assert (whole.finished, whole.every_image) == (True, True)
    assert whole.seconds > 80
    assert frostline.compare(tiny_backbone(), data, STRATEGIES[:2], minutes=0.5, **given).reused


def test_nothing_to_hold_out_is_one_message(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=1, test=2)
    with pytest.raises(DataError, match="Nothing can be held out"):
        frostline.compare(tiny_backbone(), data, STRATEGIES, study=tmp_path / "s", **OPTIONS)


@pytest.mark.slow
def test_cuts_are_all_tried_and_the_shallowest_that_is_as_good_wins(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=8, test=4)
    comparison = frostline.compare(
        tiny_backbone(), data, study=tmp_path / "s", repeats=1, cuts=True, **OPTIONS
    )
    thawed = ["linear_probe", "head", *(f"top_k({k})" for k in (1, 2, 3, 4))]
    assert {row["strategy"] for row in comparison.standings} == set(thawed)
    assert all(row["runs"] == 5 for row in comparison.standings)
    close = [d["other"] for d in comparison.differences if not d["separated"]]
    assert comparison.winner == min([comparison.differences[0]["leader"], *close], key=thawed.index)


@pytest.mark.slow
def test_cuts_that_the_time_cut_short_are_judged_where_all_were_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All on two folds and the two deepest thaws on a third, where they answer everything right."""
    data, allowed = without_val(tmp_path, train=8, test=4), TrialRunner._fits
    monkeypatch.setattr(
        TrialRunner,
        "_fits",
        lambda self, task: allowed(self, task) and task.cell.fold < 2 + (task.candidate > 3),
    )
    comparison = frostline.compare(
        tiny_backbone(), data, study=tmp_path / "s", repeats=1, cuts=True, metric="macro_f1", **OPTIONS
    )
    assert sorted(row["runs"] for row in comparison.standings) == [2, 2, 2, 2, 3, 3]
    # All figures are of the two folds, and leads are differences of the scores shown.
    assert {(row["folds"], len(row["trials"])) for row in comparison.standings} == {(2, 2)}
    assert comparison.out_of_fold["folds"] == len(comparison.out_of_fold["runs"]) == 2
    leader, *others = comparison.standings
    assert leader["score"] == max(row["score"] for row in comparison.standings)
    leads = {difference["other"]: difference["mean"] for difference in comparison.differences}
    for row in others:
        assert leads[row["strategy"]] == pytest.approx(leader["score"] - row["score"])
    names = ["linear_probe", "head", *(f"top_k({k})" for k in (1, 2, 3, 4))]
    close = [d["other"] for d in comparison.differences if not d["separated"]]
    assert len(comparison.differences) == len(names) - 1
    assert comparison.winner == min([comparison.differences[0]["leader"], *close], key=names.index)
    assert not comparison.finished
    assert not comparison.separated
    assert "over part of the first repeat" in comparison.verdict[0]
