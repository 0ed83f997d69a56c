"""The whole story on a tiny network: a model at once, a race, a number that is worded for what it is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import frostline
from frostline import metrics
from frostline.cli.command_context import Verb
from frostline.cli.main import cli, main
from frostline.cli.output.comparison_text import limit_text
from frostline.data import spread_of_folds
from frostline.errors import StudyError, UsageError
from frostline.pipelines import fit_pipeline
from frostline.pipelines.advised_strategies import candidates
from frostline.pipelines.time_limits import default_minutes
from frostline.selection import anytime, significance
from frostline.selection.anytime import NextTrial
from frostline.selection.conclusion import _held_out
from frostline.selection.ranking import Ranking
from frostline.selection.trial_runner import TrialRunner
from frostline.studies.study_folder import Study
from frostline.system.timing import Stopwatch
from test_significance import answers
from tiny import tiny_backbone, tiny_model, write_folder, write_table

pytestmark = pytest.mark.usefixtures("tiny_store")

OPTIONS = {"deterministic": True, "flip": "none", "threads": 1}
STRATEGIES = ("linear_probe", "top_k(1, epochs=4)", "full(epochs=4, lr=0.01)")


def test_without_a_split_every_image_trains_and_the_figure_is_out_of_fold(tmp_path: Path) -> None:
    lines: list[str] = []
    images = write_folder(tmp_path / "photos", per_class=12)
    study = tmp_path / "study"

    def hear(line: str) -> None:
        lines.append(line)
        if "there is a first model" in line:
            first = frostline.predict(study, images, module=tiny_model())
            assert first.strategy == "linear_probe"
            assert len(first) == 36

    fitted = frostline.fit(
        images,
        model=tiny_backbone(),
        strategies=STRATEGIES[:2],
        repeats=1,
        minutes=5.0,
        study=study,
        log=hear,
        **OPTIONS,
    )
    assert fitted.basis == "out of fold"
    assert fitted.run.n_train == 36
    assert fitted.run.n_test == 0
    assert fitted.low < fitted.accuracy <= fitted.high
    row = next(row for row in fitted.tried if row["strategy"] == fitted.strategy)
    assert fitted.high - fitted.low == pytest.approx(row["high"] - row["low"])  # of a new model, both
    assert fitted.optimism >= 0
    assert any("estimated from models that learned from four fifths" in line for line in lines)
    assert any("there is a first model" in line for line in lines)
    best = frostline.predict(study, images, module=tiny_model())
    assert best.run == fitted.run.folder.name
    table = next(study.glob("comparisons/*/out-of-fold.csv")).read_text().splitlines()
    assert len(table) == 1 + 36
    assert {row["strategy"] for row in fitted.tried} == {str(frostline.parse(s)) for s in STRATEGIES[:2]}


@pytest.mark.slow
def test_random_weights_get_no_advice_about_pretrained_ones(tmp_path: Path) -> None:
    lines: list[str] = []
    fitted = frostline.fit(
        write_folder(tmp_path / "photos", per_class=12),
        model=frostline.load_backbone("timm/test_resnet", size=32, random=True),
        strategies=("full(epochs=1)",),
        repeats=1,
        minutes=5.0,
        study=tmp_path / "study",
        log=lines.append,
        **OPTIONS,
    )
    assert fitted.strategy == "full(epochs=1)"
    said = " ".join(lines)
    assert "there is a first model" in said
    for words in ("unfreezing layers gained", "expected to reach", "lp_ft"):
        assert words not in said
    assert fitted.recommended is None
    assert fitted.forecast is None
    assert fitted.advice is None
    assert not (tmp_path / "study" / "advice.json").exists()
    assert (tmp_path / "study" / "report.html").is_file()


def test_a_given_test_part_is_read_once_for_the_winner(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=12, test=6)
    given = {
        "strategies": ", ".join(STRATEGIES[:2]),
        "repeats": 1,
        "minutes": 5.0,
        "study": tmp_path / "study",
        **OPTIONS,
    }
    fitted = frostline.fit(table, model=tiny_backbone(), **given)
    again = frostline.fit(table, model=tiny_backbone(), **given)
    assert (fitted.reused, again.reused) == (False, True)
    assert again.seconds == fitted.seconds  # what it took then
    assert again.result["reused"]
    assert f"frostline fit {table.name} --minutes 5" in Path(fitted.report).read_text()
    assert fitted.basis == "test set"
    assert fitted.comparison.test_evaluations == 1
    assert fitted.run.n_train == 36
    assert fitted.run.n_test == 18


def test_a_limit_is_said_as_it_was_given() -> None:
    assert [limit_text(60 * limit) for limit in (0.5, 1.5, 2, 30)] == ["30 s", "1.5 min", "2 min", "30 min"]


def test_a_limit_below_the_floor_is_refused_before_any_work(tmp_path: Path) -> None:
    images, study = write_folder(tmp_path / "photos", per_class=12), tmp_path / "study"
    given = {"model": tiny_backbone(), "minutes": 1e-4, "study": study, **OPTIONS}
    with pytest.raises(
        UsageError, match=r"--minutes 0.0001 is less than the .* one linear probe .* at least 0\."
    ):
        frostline.fit(images, **given)
    assert not list(study.glob("splits/*/runs/*"))


@pytest.mark.parametrize("why", ["no time to measure", "no run fits"])
def test_no_time_for_a_race_leaves_the_probe(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, study = write_folder(tmp_path / "photos", per_class=12), tmp_path / "study"
    lines: list[str] = []
    next(images.glob("*/")).joinpath("broken.png").write_bytes(b"no picture")
    if why == "no time to measure":
        monkeypatch.setattr(fit_pipeline, "measuring_s", lambda *_, **__: 1e4)
    else:
        monkeypatch.setattr(TrialRunner, "next_task", lambda _: NextTrial(None, "nothing fits"))
    fitted = frostline.fit(images, model=tiny_backbone(), minutes=5, study=study, log=lines.append, **OPTIONS)
    assert any("broken.png: is not an image" in line for line in lines)
    assert (fitted.strategy, fitted.basis, fitted.comparison) == ("linear_probe", "cross-validation", None)
    assert fitted.accuracy_of == {
        "strategy": "linear_probe",
        "model": fitted.model,
        "runs": [fitted.result["run"]],
        "images": 36,
        "folds": 5,
    }
    assert fitted.low <= fitted.accuracy <= fitted.high
    over_images = metrics.wilson(fitted.accuracy, 36)
    assert fitted.high - fitted.low > over_images[1] - over_images[0]
    assert (study / fitted.result["run"] / "result.json").is_file()
    assert (study / "report.html").is_file()
    assert (fitted.advice is None) == (why == "no time to measure")
    assert fitted.forecast is None  # which would start from the very accuracy that is reported
    assert frostline.predict(study, images, module=tiny_model()).strategy == "linear_probe"


def test_the_headline_is_of_who_was_judged_on_all_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is up when another has one fold of five: whatever that said, it answers for nothing."""
    whole = anytime.next_task

    def cut_short(board: anytime.Scoreboard) -> NextTrial:
        return NextTrial(None, "the time is up") if len(board.results) == 6 else whole(board)

    monkeypatch.setattr(anytime, "next_task", cut_short)
    fitted = frostline.fit(
        write_folder(tmp_path / "photos", per_class=12),
        model=tiny_backbone(),
        strategies=STRATEGIES,
        repeats=1,
        minutes=5.0,
        study=tmp_path / "study",
        **OPTIONS,
    )
    assert (fitted.strategy, fitted.basis) == ("linear_probe", "out of fold")
    assert {key: fitted.accuracy_of[key] for key in ("strategy", "images", "folds")} == {
        "strategy": "linear_probe",
        "images": 36,
        "folds": 5,
    }
    rows = {row["folds"]: row for row in fitted.tried}
    assert set(rows) == {5, 1, 0}
    assert rows[5]["low"] < rows[5]["accuracy"] <= rows[5]["high"]
    assert rows[1]["low"] < rows[1]["accuracy"] <= rows[1]["high"]
    assert rows[1]["high"] - rows[1]["low"] > rows[5]["high"] - rows[5]["low"]  # a fifth of the images
    assert (rows[1]["repeats"], rows[0]["low"]) == (0, None)


def test_without_minutes_the_race_gets_the_time_that_its_folds_take() -> None:
    advice: Any = SimpleNamespace(
        options=[SimpleNamespace(strategy=name, cost=SimpleNamespace(seconds=15.0)) for name in STRATEGIES]
    )
    once, folded = (default_minutes(advice, STRATEGIES, folds, 3) for folds in (1, 5))
    assert once == 3.0  # three candidates, two finalists twice more, and the winner: 2.05 min
    assert folded == 10.0  # 15 runs, two finalists' 20 more, and the winner
    assert default_minutes(advice, STRATEGIES[:1], 1, 1) == 2.0
    assert default_minutes(advice, STRATEGIES, 1, 3, lambda name: 2.0) == 5.0  # with twice the epochs


@pytest.mark.parametrize("verb", ["fit", "compare", "train"])
def test_a_budget_counts_from_the_call_imports_and_all(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches: list[Stopwatch] = []

    def begun(*_: object, watch: Stopwatch, **given: object) -> None:
        watches.append(watch)
        raise UsageError("far enough")

    slow_s = 0.2
    monkeypatch.setattr(Verb, "start", lambda _: time.sleep(slow_s))  # where torch is imported
    monkeypatch.setattr(frostline, verb, begun)
    made = tiny_backbone()
    monkeypatch.setattr(frostline, "load_backbone", lambda *_, **given: made)
    arguments = [verb, str(write_folder(tmp_path / "photos", per_class=4)), "--minutes", "1"]
    assert "far enough" in CliRunner().invoke(cli, arguments).stderr
    assert watches[0].seconds >= slow_s


def test_at_the_prompt_the_minutes_begin_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"as_json": False, "quiet": True, "cache_dir": None}
    monkeypatch.setattr("frostline.cli.command_context.process_s", lambda: 7.0)
    assert Verb(options).since_called.seconds < 7.0  # in another program's process
    monkeypatch.setattr(Verb, "owns_process", False)
    monkeypatch.setattr(sys.modules["frostline.cli.main"], "cli", lambda **_: None)
    main()
    assert Verb(options).since_called.seconds >= 7.0


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "compare", "fit"])
def test_it_ends_in_time_by_a_clock_outside(verb: str, tmp_path: Path) -> None:
    """From start to exit: imports, what follows the training, pictures and report included.

    On a machine so busy that a minute is below the floor it is refused.
    """
    images, minutes = write_folder(tmp_path / "photos", per_class=20), 1.0
    words = [sys.executable, "-m", "frostline", verb, str(images), "--minutes", str(minutes), "--size", "64"]
    words += ["--study", str(tmp_path / "study"), "--json", "--quiet", "--threads", "1"]
    words += ["--strategy", "full(epochs=9999)"] if verb == "train" else []
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        assert "is less than" in done.stderr
        return
    assert time.perf_counter() - began <= 60 * minutes + 3.0


def test_one_strategy_can_be_pinned(tmp_path: Path) -> None:
    images, said = write_folder(tmp_path / "photos", per_class=6), list[str]()
    given = {"model": tiny_backbone(), "repeats": 1, "minutes": 5.0, **OPTIONS}
    with pytest.raises(frostline.FrostlineError, match="top_k"):
        frostline.fit(images, strategies=["topk(1)"], study=tmp_path / "a", log=said.append, **given)
    assert not said  # before anything was done
    fitted = frostline.fit(images, strategies=["head(epochs=2)"], study=tmp_path / "b", **given)
    assert (fitted.strategy, fitted.basis) == ("head(epochs=2)", "out of fold")
    assert fitted.verdict[0] == "head(epochs=2) was the only candidate, evaluated on 1 repeat."
    assert fitted.verdict[-1] == "Every candidate was evaluated on every fold: nothing is left to run."


def test_a_study_that_cannot_be_written_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {"data": "a", "split": "b", "test": "c"}
    Study.open(tmp_path / "study", **digests)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StudyError, match=r"study cannot be written\. Use another with --study"):
        Study.open(tmp_path / "study", **digests)


@pytest.mark.slow
def test_interrupted_it_goes_on(tmp_path: Path) -> None:
    images, study = write_folder(tmp_path / "photos", per_class=12), tmp_path / "study"
    given = {"model": tiny_backbone(), "strategies": STRATEGIES, "repeats": 1, "minutes": 5.0, **OPTIONS}
    runs: list[str] = []

    def stop(line: str) -> None:
        runs.extend([line] if "fold" in line and line.startswith("  ") else [])
        if len(runs) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frostline.fit(images, study=study, log=stop, **given)
    fitted = frostline.fit(images, study=study, log=runs.append, **given)
    # a winner with steps has lines for its epochs, too
    again = [line for line in runs[4:] if line.startswith("  ") and "fold" in line]
    assert len(again) == 3 * 5 - 3  # the fourth was told before it was written down
    assert len(list(study.glob("comparisons/*"))) == 1
    assert fitted.comparison is not None
    assert fitted.comparison.finished


def test_the_pick_of_the_best_is_corrected() -> None:
    """Twenty candidates that are equally good: the best looks better than it is, and is lowered by that."""
    looks, corrected = [], []
    for seed in range(5):
        held = {c: answers(0.7, seed=100 * seed + c, images=100, repeats=1) for c in range(20)}
        lead = max(one.score("accuracy") for one in held.values())
        looks.append(lead)
        corrected.append(lead - significance.optimism(held, "accuracy", seed))
    assert np.mean(looks) > 0.76
    assert np.mean(corrected) == pytest.approx(0.7, abs=0.03)
    assert significance.optimism({0: answers(0.7)}, "accuracy") == 0.0


def test_who_was_chosen_by_earlier_trials_is_lowered_by_less() -> None:
    held = {c: answers(0.7, seed=c, images=100, repeats=1) for c in range(20)}
    free = significance.optimism(held, "accuracy")
    assert free > 0.03
    assert significance.optimism(held, "accuracy", moved={7: 1.0}) < 0.2 * free
    verdict = significance.judge(held, dict.fromkeys(held, 1.0), "accuracy")
    assert verdict.moved == pytest.approx(dict.fromkeys(verdict.expected, 0.0))


def test_only_images_that_it_was_chosen_on_flatter_the_winner(tmp_path: Path) -> None:
    """A probe has all folds where the others had one: a fifth of its images took part in the choice."""
    data = frostline.load_data(write_folder(tmp_path / "photos", classes=2, per_class=50), test_size=0)
    pool = len(data.samples)
    whole = {c: answers(0.7, seed=c, images=pool, repeats=1) for c in range(5)}
    whole = {c: replace(one, logits=np.log(one.probabilities)) for c, one in whole.items()}
    first = {c: one.rows(one.images < pool // 5) for c, one in whole.items()}
    request = SimpleNamespace(data=data, folder=tmp_path, config=SimpleNamespace(seed=0))
    bias = {}
    for name, predictions in (("one fold", first[0]), ("five folds", whole[0])):
        ranking = Ranking(0, None, {0: predictions}, first, {}, 1, 1)
        figures = _held_out(request, predictions, ranking, spread_of_folds(5))
        bias[name] = figures["optimism"]
        assert figures["accuracy"] == pytest.approx(predictions.score("accuracy") - bias[name])
    assert bias["one fold"] > 0.01
    assert bias["five folds"] == pytest.approx(bias["one fold"] / 5)


def test_the_figure_is_of_a_new_model_so_its_interval_is_wider_than_over_images() -> None:
    """Half again as wide with five folds, and still narrower than a hold-out of a fifth."""
    held = answers(0.7, images=200, repeats=1)
    _, low, high = held.accuracy_interval()
    _, lower, higher = held.accuracy_interval(spread_of_folds(5))
    assert (higher - lower) / (high - low) == pytest.approx(1.5, abs=0.05)
    alone = metrics.wilson(held.score("accuracy"), 40)
    assert higher - lower < alone[1] - alone[0]
    assert spread_of_folds(1) == pytest.approx(1.25)


def test_a_page_is_written_where_it_fits_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from frostline.pipelines import time_limits

    spent = time_limits.Stopwatch(20.0)
    monkeypatch.setattr(time_limits.time, "process_time", lambda: 20.0)
    assert time_limits.page_fits(None, spent)
    assert time_limits.page_fits(0.5, spent)  # 20 and 7 of 30
    assert not time_limits.page_fits(0.35, spent)  # of 21
    monkeypatch.setattr(time_limits.time, "process_time", lambda: 8.0)
    assert not time_limits.page_fits(0.5, spent)  # others slow it down two and a half times


def test_without_time_for_a_page_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from frostline.pipelines import fit_pipeline

    monkeypatch.setattr(fit_pipeline, "page_fits", lambda *_: False)
    table = write_table(tmp_path / "images", train=6, test=3)
    lines: list[str] = []
    fitted = frostline.fit(
        table,
        model=tiny_backbone(),
        strategies=["linear_probe"],
        repeats=1,
        study=tmp_path / "study",
        threads=1,
        log=lines.append,
    )
    assert fitted.report is None
    assert any(f"frostline report {tmp_path / 'study'} writes it" in line for line in lines)


def test_heads_that_timm_has_not_are_left_out_where_timm_must_load_them() -> None:
    names = ("lp_ft(refit_layers=4)", "lp_ft", "top_k(3)", "top_k(1)", "linear_probe")
    options = [SimpleNamespace(strategy=name, fits=True) for name in names]
    advice: Any = SimpleNamespace(recommended=names[0], options=options)
    assert candidates(advice)[:3] == ["linear_probe", "lp_ft(refit_layers=4)", "lp_ft"]
    assert candidates(advice, plain_heads=True) == ["linear_probe", "lp_ft", "top_k(3)", "top_k(1)"]
    assert candidates(advice, networks=2) == ["linear_probe", "lp_ft(refit_layers=4)", "lp_ft"]
    assert candidates(advice, networks=4) == ["linear_probe", "lp_ft(refit_layers=4)", "top_k(1)"]


def test_a_study_of_two_fits_shows_the_comparison_of_the_run_that_predicts(tmp_path: Path) -> None:
    """The first call again rewrote `fit.json`: the page took its comparison, and the other's run."""
    images = write_folder(tmp_path / "photos", per_class=12)

    def fitted(*strategies: str) -> Any:
        return frostline.fit(
            images,
            model=tiny_backbone(),
            strategies=strategies,
            repeats=1,
            minutes=5.0,
            study=tmp_path / "study",
            **OPTIONS,
        )

    first = fitted("linear_probe", "top_k(1, epochs=1, lr=1e-6)")
    second = fitted("linear_probe", "full(epochs=4, lr=0.01)")
    again = fitted("linear_probe", "top_k(1, epochs=1, lr=1e-6)")
    assert (again.reused, again.strategy) == (True, first.strategy)
    assert again.seconds == first.seconds
    best = first if first.accuracy > second.accuracy else second  # of equals the newest
    predicting = frostline.predict(tmp_path / "study", images, module=tiny_model())
    assert predicting.run == best.run.folder.name
    assert again.result["predicting"]["winner"] == (best is first)
    assert best.strategy in frostline.report(tmp_path / "study").lines[0]
