"""Which run answers for a study, and which are passed over: on studies written by hand."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import studies
from frostline.data import Manifest
from frostline.errors import StudyError
from frostline.studies.best_run import apart_from, best_of, passed_over_line
from frostline.studies.predicting_runs import Contender, significantly_better
from frostline.studies.run_exclusions import Reason, ReasonKind
from frostline.studies.study_folder import RunFolder, Study

SETTINGS = {
    "weights": "w",
    "preprocessing": {"size": 64},
    "flip": "auto",
    "imbalance": "none",
    "batch_size": 32,
    "views": None,
}
VAL = 200  # images of the val set
clock = itertools.count()


def begun(path: Path, groups: int = 0) -> Study:
    """A study with nothing in it but its images; with groups, the val set's images hang together."""
    study = Study.open(path, data="d", split="s", test="t")
    images = studies.samples(["cat", "dog"], VAL // 2)
    if groups:
        images = tuple(
            dataclasses.replace(sample, group=str(place % groups)) for place, sample in enumerate(images)
        )
    Manifest(Path("/photos"), images, ("cat", "dog")).write(study.path / "manifest.jsonl")
    return study


def write_answers(table: Path, right: float) -> None:
    """A table of answers about the val set, the first of which are right."""
    lines = [
        f"{sample.path},cat,{'cat' if place < round(right * VAL) else 'dog'}"
        for place, sample in enumerate(studies.samples(["cat", "dog"], VAL // 2))
    ]
    table.write_text("\n".join(["path,label,predicted", *lines]))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return begun(tmp_path / "study")


def trained(
    study: Study,
    strategy: str,
    val: float | None,
    *,
    goodness: float | None = None,
    test: float = 0.5,
    metric: str = "accuracy",
    place: Path | None = None,
    **config: Any,
) -> RunFolder:
    """A run of `train`, later than all before it."""
    at = Study(place or study.path)
    (at.path / "runs").mkdir(parents=True, exist_ok=True)
    when = next(clock)
    known = {**SETTINGS, "strategy": strategy, "metric": metric, "augment": "standard", "when": when}
    folder = at.run({**known, **config})
    figures = {"val_accuracy": val, "val_goodness": val if goodness is None else goodness, "accuracy": test}
    folder.write("result.json", {**figures, "ended": f"2026-01-01T{when:06}"})
    if val is not None:
        write_answers(folder.path / "predictions-val.csv", val)
    return folder


def compared(
    study: Study,
    *names: str,
    accuracy: float = 0.7,
    val: float | None = None,
    folds: str | None = "five",
    metric: str = "accuracy",
) -> RunFolder:
    """A comparison of strategies whose first one has won; its winner has learned from the val set."""
    winner = trained(study, names[0], None, place=study.path / "splits" / "all")
    rows = [
        {"strategy": name, "augment": "standard", "runs": 5, "accuracy": accuracy - 0.1 * place}
        for place, name in enumerate(names)
    ]
    evaluation = {
        "settings": {"": SETTINGS},
        "folds": folds,
        "score": accuracy,
        "accuracy": accuracy,
        "val": None if val is None else {"accuracy": val, "goodness": val},
    }
    file = study.path / "comparisons" / str(next(clock)) / "comparison.json"
    file.parent.mkdir(parents=True)
    run = str(winner.path.relative_to(study.path))
    record = {"run": run, "winner": names[0], "metric": metric, "standings": rows, "evaluation": evaluation}
    file.write_text(json.dumps(record))
    write_answers(file.with_name("out-of-fold.csv"), accuracy if val is None else val)
    return winner


def over(study: Study) -> dict[str, str]:
    """Who was passed over, and why."""
    return {one.strategy: one.reason for one in best_of(study).passed_over}


def test_runs_of_train_are_compared_on_val(study: Study) -> None:
    best = trained(study, "full", 0.8)
    trained(study, "head", 0.6, test=1.0)
    chosen = best_of(study)
    assert (chosen.folder, chosen.why) == (best, "the best of 2 by accuracy on val")
    assert over(study) == {"head": "no better by accuracy on the same val set"}
    assert best_of(study, chosen.passed_over[0].run).why == "as requested"
    line = passed_over_line(chosen.passed_over)
    assert line.startswith("Passed over: head (run ")
    assert line.endswith(", val 60.0 %): no better by accuracy on the same val set.")


def test_who_looks_better_by_another_figure_is_named(study: Study) -> None:
    looks = trained(study, "full", 0.9, goodness=-0.9, metric="log_loss")
    chosen = trained(study, "head", 0.8, goodness=-0.3, metric="log_loss")
    assert best_of(study).folder == chosen
    assert over(study) == {"full": "no better by log_loss on the same val set"}
    trained(study, "top_k(1)", 0.7)  # by another metric: accuracy is what all of them have
    assert best_of(study).folder == looks


def test_without_a_val_part_the_newest_answers_and_it_is_said(study: Study) -> None:
    trained(study, "full", None, test=1.0)
    newest = trained(study, "head", None, test=0.0)
    best = best_of(study)
    assert best.folder == newest
    assert best.why.startswith("the newest, since no run was evaluated on a val set; name another with --run")


def test_a_strategy_that_raced_was_judged_by_its_race(study: Study) -> None:
    trained(study, "full", 0.95)
    winner = compared(study, "head", "full", accuracy=0.7, val=0.7)
    assert best_of(study).folder == winner
    assert over(study) == {"full": "its strategy was part of the comparison, 60.0 % out of fold"}
    trained(study, "full", 0.99)
    assert best_of(study).folder == winner


@pytest.mark.parametrize(
    ("config", "stands"),
    [
        ({"batch_size": 64}, False),
        ({"weights": "others", "model": "lite1"}, False),
        ({"preprocessing": {"size": 96}}, False),
        ({"interpolate_weights": 0.5}, False),
        ({"augment": "custom blur"}, False),
        ({"augment": "strong"}, False),
        ({"seed": 7, "deterministic": True, "precision": "float32"}, True),
    ],
)
def test_with_other_settings_it_was_not(config: dict[str, Any], stands: bool, study: Study) -> None:
    run = trained(study, "full", 0.9, **config)
    winner = compared(study, "head", "full", val=0.7)
    assert best_of(study).folder == (winner if stands else run)


def test_a_solved_head_is_not_told_apart_by_what_it_does_not_use(study: Study) -> None:
    trained(study, "linear_probe", 0.9, flip="none", batch_size=64, views=0)
    winner = compared(study, "head", "linear_probe", val=0.7)
    assert best_of(study).folder == winner
    weighted = trained(study, "linear_probe", 0.9, imbalance="weights")
    assert best_of(study).folder == weighted


def test_a_later_run_that_is_better_on_the_same_images_answers(study: Study) -> None:
    winner = compared(study, "head", "full", accuracy=0.9, val=0.7)
    worse = trained(study, "top_k(1)", 0.7)
    best = best_of(study)
    assert best.folder == winner
    assert over(study) == {"top_k(1)": "no better by accuracy on the same val set (70.0 % out of fold)"}
    assert best.passed_over[0].run == worse.name
    trained(study, "top_k(3)", 0.71)
    assert best_of(study).folder == winner
    chance = "ahead by accuracy on the same val set (70.0 % out of fold), but not significantly different"
    assert over(study)["top_k(3)"] == chance
    better = trained(study, "top_k(2)", 0.8)
    best = best_of(study)
    assert best.folder == better
    assert "accuracy 80.0 %, ahead of the winner of the comparison, head (accuracy 70.0 % there" in best.why
    assert over(study) == {"head": "no better by accuracy on the same val set (70.0 % out of fold)"}
    assert best_of(study, winner.name).folder == winner


def test_images_that_hang_together_are_not_so_many_proofs(tmp_path: Path) -> None:
    for groups, stands in ((100, False), (8, True)):
        study = begun(tmp_path / str(groups), groups)
        winner = compared(study, "head", "full", val=0.7)
        run = trained(study, "top_k(1)", 0.8)
        assert best_of(study).folder == (winner if stands else run)


def test_of_two_that_are_equally_good_one_is_rarely_called_better(study: Study, tmp_path: Path) -> None:
    """A 95 % interval: by chance each is ahead of the other in about one of forty draws."""
    rng = np.random.default_rng(0)
    tables = [tmp_path / name for name in ("one.csv", "other.csv")]
    two = [Contender(RunFolder(tmp_path), "head", "", None, {}, table) for table in tables]
    names = [sample.path for sample in studies.samples(["cat", "dog"], VAL // 2)]
    called = 0
    for _ in range(200):
        for table in tables:
            rows = [f"{name},cat,{'cat' if rng.random() < 0.7 else 'dog'}" for name in names]
            table.write_text("\n".join(["path,label,predicted", *rows]))
        called += significantly_better(two[0], two[1], study)
    assert 0 < called <= 12  # 5 are expected


def test_what_was_judged_on_other_images_is_told_and_the_newest_answers(study: Study) -> None:
    run = trained(study, "top_k(1)", 0.99)
    winner = compared(study, "head", "full", val=None, folds=None)
    assert best_of(study).folder == winner
    assert over(study) == {"top_k(1)": "evaluated on other images, and older"}
    newer = trained(study, "top_k(2)", 0.4)
    best = best_of(study)
    assert best.folder == run != newer  # the best of those that can be compared, one of which is the newest
    assert best.why == (
        "the best of 2 by accuracy on val; the winner of the comparison, head, was evaluated on other images"
    )


def test_a_run_that_nothing_judges_gives_way_to_a_winner(study: Study) -> None:
    winner = compared(study, "head", "full")
    trained(study, "top_k(2)", None, test=1.0)
    assert best_of(study).folder == winner
    assert over(study) == {"top_k(2)": "not evaluated on a val set"}
    (passed,) = best_of(study).passed_over
    assert passed_over_line([passed]) == (
        f"Passed over: top_k(2) (run {passed.run}): not evaluated on a val set."
    )


@pytest.mark.parametrize("kind", ReasonKind)
def test_every_kind_of_reason_has_a_sentence_of_its_own(kind: ReasonKind) -> None:
    sentences = {other: str(Reason(other, "accuracy", 0.5)) for other in ReasonKind}
    assert sentences[kind]
    assert [other for other, sentence in sentences.items() if sentence == sentences[kind]] == [kind]


def test_a_reason_in_a_comparisons_record_is_read_by_its_kind(study: Study) -> None:
    compared(study, "head", "full")
    run = trained(study, "top_k(1)", 0.9)
    (file,) = study.path.glob("comparisons/*/*.json")
    outcome = json.loads(file.read_text())
    for row, sentence in (
        ({"kind": "left_out", "reason": "in other words"}, "left out, as requested"),
        ({"reason": "of an earlier version"}, "of an earlier version"),
        (None, "trained after the comparison"),
    ):
        outcome["not_compared"] = [] if row is None else [{"run": run.name, **row}]
        assert [passed.reason for passed in apart_from(study, outcome)] == [sentence]


def test_winners_of_the_same_folds_are_compared_and_of_others_the_newest_counts(study: Study) -> None:
    strong = compared(study, "full", "lp_ft", accuracy=0.9)
    compared(study, "head", "linear_probe", accuracy=0.6)
    assert best_of(study).folder == strong
    assert over(study) == {"head": "no better on the same folds"}
    other = compared(study, "top_k(1)", "scratch", accuracy=0.5, folds="others")
    assert best_of(study).folder == other
    assert over(study) == dict.fromkeys(("full", "head"), "evaluated on other folds, and older")


def test_the_leader_of_a_comparison_at_work_answers_until_something_newer_does(study: Study) -> None:
    with pytest.raises(StudyError, match="no finished run yet"):
        best_of(study)
    leader = trained(study, "head", 0.5, place=study.path / "splits" / "fold")
    study.answer_by(leader, "the best so far of 3 compared", 0.5)
    assert best_of(study).folder == leader
    run = trained(study, "full", 0.4)
    assert best_of(study).folder == run


@settings(deadline=None, max_examples=25)  # studies on a disk
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4))
def test_the_test_part_has_no_say(tmp_path_factory: Any, rates: list[tuple[float, float, float]]) -> None:
    def asked(one: Callable[[tuple[float, float, float]], float]) -> tuple[str, str]:
        made = begun(tmp_path_factory.mktemp("study"))
        compared(made, "head", "full", val=0.5)
        for place, rate in enumerate(rates):
            trained(made, f"top_k({place + 1})", rate[0], test=one(rate))
        best = best_of(made)
        return best.folder.read("config.json")["strategy"], best.why

    assert asked(lambda rate: rate[1]) == asked(lambda rate: rate[2])


def test_a_damaged_comparison_is_named_and_keeps_nobody_from_naming_a_run(study: Study) -> None:
    run = trained(study, "full", 0.4)
    compared(study, "head", "full")
    (file,) = study.path.glob("comparisons/*/*.json")
    file.write_text('{"standings": 5}')
    with pytest.raises(StudyError, match=r"comparison\.json is damaged|as one of its runs"):
        best_of(study)
    assert best_of(study, run.name).folder == run
