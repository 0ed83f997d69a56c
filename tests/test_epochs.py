"""What is said of each epoch, stopping early, and training on from a finished run."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import frostline
from frostline import metrics, sentences
from frostline import strategies as fs
from frostline.cli.main import cli
from frostline.config import Config
from frostline.data import Manifest
from frostline.errors import StudyError, UsageError
from frostline.models import Backbone
from frostline.reports import usage_section
from frostline.reports.writer import read_context
from frostline.selection import early_stopping
from frostline.selection.candidates import listed
from frostline.strategies import ResolvedPhase
from frostline.training.continuation import PEAK_SHARE
from frostline.training.loop import trainer
from frostline.training.loop.epoch_line import epoch_line
from frostline.training.train_request import TrainRequest
from tiny import tiny_backbone, tiny_model, write_table

FAST = {"deterministic": True, "augment": "light", "flip": "none"}


# --- an epoch is a line ---------------------------------------------------------------------------------


def test_an_epoch_is_a_line_with_the_time_left() -> None:
    phases = (ResolvedPhase(4, 2, 5, 1e-3, 5), ResolvedPhase(2, 8, 5, 9e-4, 5))
    row = {"phase": 0, "epoch": 1, "loss": 0.51234, "seconds": 20.0, "val_macro_f1": 0.875}
    assert epoch_line(row, phases, "macro_f1", 0.00042, best=True) == (
        "  epoch  2/10 (phase 1 of 2): loss 0.5123, val macro_f1 0.8750 (best), lr 0.00042, 20 s, "
        "about 2 min 40 s left"
    )
    last = {"phase": 1, "epoch": 7, "loss": 0.1, "seconds": 3700.0}
    assert epoch_line(last, phases, "accuracy", 1e-6, best=False) == (
        "  epoch 10/10 (phase 2 of 2): loss 0.1000, lr 1e-06, 1 h 01 min"
    )


def test_train_tells_each_epoch_once(backbone: Backbone, data: Manifest, tmp_path: Path) -> None:
    lines: list[str] = []
    run = frostline.train(
        backbone, data, "top_k(1, epochs=3)", study=tmp_path / "s", log=lines.append, **FAST
    )
    assert len(lines) == 3
    for number, (line, row) in enumerate(zip(lines, run.folder.metrics(), strict=True), 1):
        shown = re.fullmatch(
            rf"  epoch {number}/3: loss ([\d.]+), val accuracy ([\d.]+)(?: \(best\))?, lr [\d.e-]+, [\d.]+ s"
            r"(, about [\d.]+ s left)?",
            line,
        )
        assert shown, line
        assert float(shown[1]) == pytest.approx(row["loss"], abs=1e-4)
        assert float(shown[2]) == pytest.approx(row["val_accuracy"], abs=1e-4)
        assert (shown[3] is None) == (number == 3)
    lines.clear()
    assert frostline.train(
        backbone, data, "top_k(1, epochs=3)", study=tmp_path / "s", log=lines.append, **FAST
    ).reused
    assert not lines


# --- stopping early -------------------------------------------------------------------------------------


def score_of_epochs(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Let the metric on val be these figures, epoch by epoch, and the last one from then on."""
    real = trainer.Trainer._validate

    def validate(self: trainer.Trainer) -> dict[str, float]:
        score = scores[min(len(self.epochs), len(scores) - 1)]
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "goodness", lambda *_: score)
            return real(self)

    monkeypatch.setattr(trainer.Trainer, "_validate", validate)


@pytest.mark.parametrize(
    ("text", "scores", "done", "best"),
    [
        ("full(epochs=9)", [0.5, 0.6, 0.6, 0.6], 4, 4),  # an equal value is no progress, but is the newer one
        ("full(epochs=9)", [0.5, 0.4, 0.6, 0.5, 0.5], 5, 3),
        ("full(epochs=9)", [math.nan, 0.1, math.nan, math.nan], 4, 2),
        ("full(epochs=4)", [0.1, 0.2, 0.3, 0.4], 4, 4),  # to its end
        ("full(epochs=3)", [0.3, 0.2, 0.1], 3, 1),  # over in its last epoch: nothing is saved
        # Only the last phase counts, against the best of all phases.
        ("phases(0@4, 1@4)", [0.9, 0.1, 0.1, 0.1, 0.2, 0.3, 0.4], 6, 1),
        ("phases(0@4, 1@4)", [0.5, 0.1, 0.1, 0.1, 0.2, 0.6, 0.3, 0.3], 8, 6),
    ],
)
def test_patience_counts_epochs_of_the_last_phase_without_a_better_one(
    text: str,
    scores: list[float],
    done: int,
    best: int,
    backbone: Backbone,
    data: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    score_of_epochs(monkeypatch, scores)
    lines: list[str] = []
    run = frostline.train(
        backbone, data, text, study=tmp_path / "s", patience=2, batch_size=16, log=lines.append, **FAST
    )
    planned = sum(p.epochs for p in fs.schedule(fs.parse(text), stages=5, images=36, batch=16))
    assert (len(run.folder.metrics()), run.best_epoch, run.stopped) == (done, best, None)
    early = run.early_stopping
    assert early is not None
    assert (early["patience"], early["epochs"], early["epochs_saved"]) == (2, done, planned - done)
    assert (early["seconds_saved"] > 0) == (done < planned)
    assert [line for line in lines if "Stopped early" in line] == (
        [f"  {sentences.stopped_early(early, best)}"] if done < planned else []
    )


def test_patience_is_in_the_digest_only_where_it_is_set(backbone: Backbone, data: Manifest) -> None:
    plain, patient = (
        TrainRequest(backbone, data, fs.parse("full"), Config(patience=patience)).identity()
        for patience in (None, 3)
    )
    assert patient == {**plain, "patience": 3}


def test_killed_and_resumed_it_stops_at_the_same_epoch_with_the_same_bytes(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed three times: in the second and fifth epoch, and between stopping early and the result."""
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 1e9)
    score_of_epochs(monkeypatch, [0.5, 0.4, 0.6, 0.5])
    options = {**FAST, "patience": 4, "batch_size": 16}
    whole = frostline.train(backbone, data, "full(epochs=12)", study=tmp_path / "whole", **options)
    assert len(whole.folder.metrics()) == 7

    class Killed(BaseException):
        pass

    steps: list[int] = []
    for stop in (5, 14, None):

        def progress(what: str, done: int, of: int, stop: int | None = stop) -> None:
            if what == "train":
                steps.append(done)
                if done == stop:
                    raise Killed

        def log(line: str) -> None:
            if "Stopped early" in line:
                raise Killed

        with pytest.raises(Killed):
            frostline.train(
                backbone, data, "full(epochs=12)", study=tmp_path / "s", progress=progress, log=log, **options
            )
    assert steps == [*range(1, 6), *range(5, 15), *range(14, 22)]
    resumed = frostline.train(backbone, data, "full(epochs=12)", study=tmp_path / "s", **options)
    assert resumed.early_stopping["epochs_saved"] == whole.early_stopping["epochs_saved"] == 5
    assert resumed.folder.weights.read_bytes() == whole.folder.weights.read_bytes()
    losses = [[row["loss"] for row in run.folder.metrics()] for run in (whole, resumed)]
    assert losses[0] == losses[1]


def test_patience_that_can_do_nothing_is_refused_in_one_message(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    study, without_val = tmp_path / "s", write_table(tmp_path / "others")
    for text, options, message in (
        ("linear_probe", {"patience": 2}, "linear_probe is solved for without any: leave it out"),
        ("full(epochs=3)", {"patience": 3}, "full.epochs=3. has 3 of them here. Give at most 2"),
        ("full(epochs=1)", {"patience": 1}, "is one epoch"),
        ("full", {"patience": 0}, "whole number of epochs, at least 1; found 0"),
        ("full", {"patience": 2.5}, "found 2.5"),
        ("full", {"patience": 2, "batch_size": 0}, "^batch_size must be at least 1, found 0.$"),
    ):
        with pytest.raises(UsageError, match=message):
            frostline.train(backbone, data, text, study=study, **options)
    with pytest.raises(UsageError, match="there is no val set: name one"):
        frostline.train(backbone, frostline.load_data(without_val), "full", study=study, patience=2)
    for texts, patience, message in (
        ("linear_probe,full(epochs=4)", 0, "whole number of epochs, at least 1; found 0"),
        ("linear_probe,full(epochs=4),head(epochs=3)", 4, "the longest of .* has 4 here. Give at most 3"),
        ("linear_probe,full(epochs=1)", 2, "has no epochs to wait for"),
    ):
        with pytest.raises(UsageError, match=message):
            frostline.compare(backbone, data, texts, study=study, patience=patience, minutes=None)
    with pytest.raises(UsageError, match="linear_probe is solved for without any: leave it out"):
        frostline.fit(without_val, model=backbone, strategies="linear_probe", study=study, patience=2)
    with pytest.raises(UsageError, match="stop_after: not an option here"):
        frostline.compare(backbone, data, ["head", "full"], study=study, stop_after=2)
    with pytest.raises(UsageError, match="at least 1; found 0"):
        frostline.train(backbone, data, "full", study=study, stop_after=0)
    assert not list(study.glob("**/runs/*"))


def test_with_the_last_weights_a_run_ends_with_those_at_which_it_stopped(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_of_epochs(monkeypatch, [0.5, 0.6, 0.4, 0.3])
    text, options = "full(epochs=9)", {"study": tmp_path / "s", "batch_size": 16, "keep": "last", **FAST}
    patient = frostline.train(backbone, data, text, patience=2, **options)
    stopped = frostline.train(backbone, data, text, stop_after=4, **options)
    assert (len(patient.folder.metrics()), patient.best_epoch) == (4, None)
    assert stopped.early_stopping is not None
    assert (stopped.early_stopping["epochs"], stopped.early_stopping["epochs_saved"]) == (4, 5)
    assert "The weights are the last" in sentences.stopped_early(patient.early_stopping or {}, None)
    assert patient.folder.weights.read_bytes() == stopped.folder.weights.read_bytes()


def test_runs_of_a_comparison_stop_early_and_the_winner_stops_as_they_did(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 9 epochs of the last phase the best is the second, so that patience 2 stops after the fourth."""
    score_of_epochs(monkeypatch, [0.5, 0.6, 0.6, 0.6])
    options = {"study": tmp_path / "s", "batch_size": 16, "repeats": 1, "minutes": None, **FAST, "least": 1}
    texts = ["full(epochs=9)"]
    comparison = frostline.compare(backbone, data, texts, patience=2, **options)
    trials = [comparison.study.run_at(name) for name in comparison.out_of_fold["runs"]]
    own = [trial.read("result.json") for trial in trials]  # a short one has too few epochs to wait for
    stopped = [(one["early_stopping"]["epochs"], one["best_epoch"]) for one in own if "early_stopping" in one]
    assert stopped == [(4, None)]
    stopping = comparison.early_stopping
    assert stopping is not None
    assert (stopping["epochs"], stopping["planned"], stopping["epochs_saved"]) == (4, 9, 5)
    assert (comparison.winner, len(comparison.run.folder.metrics())) == ("full(epochs=9)", 4)
    assert comparison.run.folder.read("config.json")["stop_after"] == 4
    assert any("until epoch 4 of 9" in line for line in comparison.verdict)
    again = frostline.compare(backbone, data, texts, patience=2, **options)
    assert again.reused
    other = frostline.compare(backbone, data, texts, **options)
    assert (other.reused, other.early_stopping, len(other.run.folder.metrics())) == (False, None, 9)
    names = listed(["full(epochs=9)", "linear_probe", "head(epochs=2)"], "none")
    request: Any = SimpleNamespace(
        config=Config(patience=2), data=data, candidates=names, backbones={"": backbone}
    )
    assert early_stopping.demand_effect(request) == [
        "patience=2 has no effect on linear_probe, head(epochs=2): no phase to stop."
    ]


# --- more epochs ----------------------------------------------------------------------------------------


def test_a_run_continues_from_its_parents_weights_in_its_parents_split(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**FAST, "augment": "light", "batch_size": 16, "seed": 3}
    parent = frostline.train(backbone, data, "top_k(2, epochs=3)", study=tmp_path / "s", **options)
    seen: list[dict[str, torch.Tensor]] = []
    real = trainer.Trainer._train_epoch

    def train_epoch(self: trainer.Trainer) -> None:
        if not seen:
            seen.append({k: v.clone() for k, v in self._model.state_dict().items()})
            assert self._optimizer is not None
            assert not self._optimizer.state  # fresh moments
        real(self)

    monkeypatch.setattr(trainer.Trainer, "_train_epoch", train_epoch)
    lines = list[str]()
    run = frostline.train(backbone, data, continue_from=parent, extra_epochs=4, log=lines.append)
    started = load_file(parent.folder.weights)
    assert all(torch.equal(value, started[name]) for name, value in seen[0].items())
    peak = parent.folder.metrics()[-1]["peak_lr"]
    named = {
        "run": parent.run,
        "weights": parent.weights_digest,
        "epochs": 3,
        "extra_epochs": 4,
        "lr": PEAK_SHARE * peak,
    }
    assert run.parent == run.folder.read("config.json")["parent"] == named
    own, theirs = run.folder.read("config.json"), parent.folder.read("config.json")
    own.pop("parent")
    assert own == theirs
    assert (run.folder != parent.folder, run.study.path, run.strategy) == (
        True,
        parent.study.path,
        parent.strategy,
    )
    rows = run.folder.metrics()
    assert [row["peak_lr"] for row in rows] == [PEAK_SHARE * peak] * 4
    rates = [row["lr"] for row in rows]  # of each epoch's last step: down to zero
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.3 * peak
    assert run.steps == run.steps_planned == 12
    moved = load_file(run.folder.weights)
    first = min(cut.index for cut in backbone.cuts if cut.name == run.cut)
    (schedule,) = (line for line in lines if line.startswith("It trains on"))
    assert f"{parent.run}: 4 epochs more of {backbone.stages[first].name} and all after it" in schedule
    assert f"up to {PEAK_SHARE * peak:g} (cosine, rising for 10 % of the steps)" in schedule
    stages = backbone.stage_of(frostline.load_model(run.folder, module=tiny_model()))
    for name, value in moved.items():
        if name in stages and stages[name] < first:
            assert torch.equal(value, started[name]), name
    assert not torch.equal(moved["head.weight"], started["head.weight"])
    # Once more: from the child, which keeps what it inherited.
    faster = frostline.train(backbone, data, continue_from=run.folder.path, extra_epochs=1, lr=0.002)
    assert faster.folder.metrics()[0]["peak_lr"] == 0.002
    again = frostline.train(backbone, data, continue_from=run.folder.path, extra_epochs=1)
    assert again.parent is not None
    assert (again.parent["run"], again.parent["epochs"]) == (run.run, 7)
    assert again.parent["lr"] == pytest.approx(PEAK_SHARE**2 * peak)
    # The report's commands make them again in an order in which each parent is there.
    commands = usage_section.repeat(read_context(tmp_path / "s")).splitlines()
    parents = [re.findall(r"--continue s/runs/(\w+)", command) for command in commands]
    assert parents == [[], [parent.run], [run.run], [run.run]]
    assert sorted(command.split("--lr ")[1].split()[0] for command in commands[2:]) == ["0.00025", "0.002"]


def test_a_continued_run_that_is_killed_ends_with_the_same_bytes(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 1e9)
    parent = frostline.train(backbone, data, "full(epochs=1)", study=tmp_path / "s", batch_size=16, **FAST)
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    whole = frostline.train(backbone, data, continue_from=parent, extra_epochs=3)

    class Killed(BaseException):
        pass

    def progress(what: str, done: int, of: int) -> None:
        if what == "train" and done == 5:
            raise Killed

    place = tmp_path / "copy" / "runs" / parent.run
    with pytest.raises(Killed):
        frostline.train(backbone, data, continue_from=place, extra_epochs=3, progress=progress)
    resumed = frostline.train(backbone, data, continue_from=place, extra_epochs=3)
    assert resumed.run == whole.run
    assert resumed.folder.weights.read_bytes() == whole.folder.weights.read_bytes()


def test_what_contradicts_the_parent_is_refused_in_one_message(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    study = tmp_path / "s"
    run = frostline.train(backbone, data, "head(epochs=1)", study=study, **FAST)
    probe = frostline.train(backbone, data, "linear_probe", study=study, **FAST)

    def go_on(strategy: str | None = None, **changed: Any) -> frostline.Run:
        given = {"continue_from": run, "extra_epochs": 1, **changed}
        return frostline.train(given.pop("backbone", backbone), given.pop("data", data), strategy, **given)

    with pytest.raises(UsageError) as error:
        go_on("full", seed=5, augment="strong", flip="none", metric="macro_f1")
    assert "strategy=full, and it is head(epochs=1)" in str(error.value)
    for words in ("seed=5, and it has 0", "augment=strong, and it has light", "metric=macro_f1"):
        assert words in str(error.value)
    assert "flip" not in str(error.value)  # the same
    for changed, message in (
        ({"continue_from": probe}, "whose head is solved for: it has no epochs"),
        ({"extra_epochs": 0}, "whole number of at least 1, found 0"),
        ({"extra_epochs": None}, "give a number of them"),
        ({"continue_from": None}, "name a finished run"),
        ({"study": tmp_path / "other"}, "leave .*other out"),
        ({"backbone": tiny_backbone(seed=1)}, "Pass the backbone that it began with"),
        ({"epochs": 4}, "is over. Give .*alone: how many more"),
        ({"weight_decay": 0.5}, "weight_decay=0.5, and it is head.epochs=1."),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"resize": "squash"}, "sees images in another way. Found .*squash"),
        ({"patience": 1}, "patience"),
    ):
        with pytest.raises(UsageError, match=message):
            go_on(**changed)
    with pytest.raises(
        StudyError, match=rf"is a study\. Name one of its runs.*({run.run}|{probe.run}), by which it predicts"
    ):
        go_on(continue_from=study)
    with pytest.raises(StudyError, match="is not the folder of a run"):
        go_on(continue_from=tmp_path)
    with pytest.raises(UsageError, match="Name a strategy"):
        frostline.train(backbone, data, study=study)
    (run.folder.path / "result.json").rename(tmp_path / "result.json")
    with pytest.raises(StudyError, match=r"is not finished.*the command that began it resumes it"):
        go_on()


def test_test_images_of_the_parent_are_never_learned_from(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    """Neither by naming other subsets, nor by other images under the same names."""
    run = frostline.train(backbone, data, "head(epochs=1)", study=tmp_path / "s", **FAST)
    table = tmp_path / "images" / "table.csv"
    swapped = table.with_name("swapped.csv")
    swapped.write_text(
        table.read_text().replace(",test", ",held").replace(",val", ",test").replace("held", "val")
    )
    for others, message in (
        (frostline.load_data(swapped, near_copies=False), "in other subsets"),
        (frostline.load_data(write_table(tmp_path / "b", val=6, seed=5), near_copies=False), "others, or"),
    ):
        with pytest.raises(UsageError, match=f"{message}.*stays out of training"):
            frostline.train(backbone, others, continue_from=run, extra_epochs=1)
    child = frostline.train(backbone, data, continue_from=run, extra_epochs=1)
    for subset in ("val", "test"):
        paths = [one.folder.path / f"predictions-{subset}.csv" for one in (run, child)]
        rows = [[line.split(",")[0] for line in path.read_text().splitlines()] for path in paths]
        assert rows[0] == rows[1]


# --- tuning one strategy --------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_strategy_is_compared_with_its_variants_and_only_the_winners_epochs_are_told(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    lines: list[str] = []
    comparison = frostline.compare(
        backbone,
        data,
        "head(epochs=2)",
        search=["lr"],
        draws=2,
        repeats=1,
        minutes=None,
        study=tmp_path / "s",
        log=lines.append,
        deterministic=True,
        augment="none",
    )
    names = [row["strategy"] for row in comparison.result["standings"]]
    assert "head(epochs=2)" in names
    assert len(names) == 3
    assert all(name.startswith("head(lr=") or name == "head(epochs=2)" for name in names)
    assert [line.split(":")[0] for line in lines if "loss" in line] == ["  epoch 1/2", "  epoch 2/2"]


def test_without_a_search_or_steps_one_strategy_is_nothing_to_compare(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="give search, such as lr"):
        frostline.compare(backbone, data, "head", study=tmp_path / "s")
    with pytest.raises(UsageError, match="is solved for and has nothing of lr to search"):
        frostline.compare(backbone, data, "linear_probe", search=["lr"], draws=2, study=tmp_path / "s")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategies", "head"], "Found 1 strategy to compare"),
        (["--strategies", "head,head"], "Found 1 strategy to compare"),
        (["--strategies", "linear_probe", "--search", "lr"], "has nothing of lr to search"),
    ],
)
def test_what_is_nothing_to_compare_is_refused_before_images_are_read(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    outcome = CliRunner().invoke(cli, ["compare", str(tmp_path / "no images here"), *arguments])
    assert outcome.exit_code == 2
    assert message in " ".join(outcome.output.split())
