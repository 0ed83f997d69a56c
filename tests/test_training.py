"""Laws 3, 4, 11 and 12 through the whole of `train`, and what a study keeps."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import frostline
from frostline import strategies as fs
from frostline.data import Manifest
from frostline.errors import StudyError, UsageError
from frostline.models import Backbone
from frostline.strategies import lr_schedule
from frostline.studies.study_folder import RunFolder, Study
from frostline.training.loop import optimizer, trainer
from frostline.unfreezing import groups
from tiny import PREPROCESSING, tiny_model, write_table

FAST = {"deterministic": True, "augment": "light", "flip": "none"}


def weights(run: frostline.Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder.weights)


# --- law 11: every named strategy runs ----------------------------------------------------------------


@pytest.mark.parametrize("text", [*fs.NAMED, "linear_probe(ridge)", "phases(0@5*0.02, 1@5*0.01, all@5*0.01)"])
def test_every_strategy_runs_and_learns(
    text: str, backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    run = frostline.train(backbone, data, text, study=tmp_path / "study", **FAST)
    assert run.result["strategy"] == text
    assert 0 <= run.low <= run.accuracy <= run.high <= 1
    if text not in ("scratch", "head"):
        assert run.accuracy > 0.5  # chance is a third
    assert run.n_train, run.n_val == (36, 18)
    for name in ("config.json", "plan.json", "environment.json", "result.json", "best.safetensors"):
        assert (run.folder.path / name).is_file()


@pytest.mark.parametrize("head", ["linear", "cosine", "mlp(9)"])
def test_every_head_learns_and_predicts(
    head: str, backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    model = tiny_model()
    run = frostline.train(backbone, data, f"full(head={head}, lr=0.01)", study=tmp_path / "study", **FAST)
    assert run.accuracy > 0.5
    loaded = frostline.load_model(run.folder, module=model)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, weights(run)[name])


# --- law 3: frozen means frozen -----------------------------------------------------------------------


@pytest.mark.parametrize("bn", fs.BN_POLICIES)
@pytest.mark.parametrize("k", [1, 2])
def test_only_what_the_strategy_names_moves(
    bn: str, k: int, backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    """ultralytics #9391: BatchNorm of frozen layers went on counting."""
    run = frostline.train(backbone, data, f"top_k({k}, bn={bn}, epochs=2)", study=tmp_path / "study", **FAST)
    before, after = backbone.model.state_dict(), weights(run)
    first = len(backbone.stages) - 1 - k
    stages = backbone.stage_of(frostline.load_model(run.folder, module=tiny_model()))
    for name, value in after.items():
        if name.startswith("head"):
            continue
        moved = not torch.equal(value, before[name])
        statistics = "running" in name or "num_batches" in name
        affine = ".bn." in name and not statistics
        if stages[name] < first:
            assert not moved, name
        elif statistics:
            assert moved == (bn in ("train", "recalibrate")), name
        elif affine:
            assert moved == (bn != "eval"), name
        else:
            assert moved, name


def test_the_pretrained_backbone_itself_is_left_alone(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    before = {k: v.clone() for k, v in backbone.model.state_dict().items()}
    frostline.train(backbone, data, "full(bn=train, epochs=1)", study=tmp_path / "study", **FAST)
    assert all(torch.equal(v, before[k]) for k, v in backbone.model.state_dict().items())


# --- law 4: groups ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(5))
@pytest.mark.parametrize("bn", fs.BN_POLICIES)
def test_groups_cover_what_learns_once_and_rates_fall_towards_the_input(
    cut: int, bn: str, backbone: Backbone
) -> None:
    model = backbone.adapt(3)
    frostline.models.freeze(backbone, model, backbone.cut(cut), bn)
    known = fs.hyperparameters(fs.full(layer_decay=0.5))
    made = groups(backbone, model, 1e-3, known.layer_decay, known.weight_decay)
    covered = [id(p) for g in made for p in g["params"]]
    assert sorted(covered) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    peaks = {g["stage"]: g["peak"] for g in made}
    assert max(peaks) == len(backbone.stages) - 1
    for stage, peak in peaks.items():
        assert peak == pytest.approx(1e-3 * 0.5 ** (len(backbone.stages) - 1 - stage))
    assert all(g["weight_decay"] == 0 for g in made for p in g["params"] if p.ndim == 1)


def test_moments_survive_a_thaw(backbone: Backbone) -> None:
    """fastai #2133: the optimizer's memory must not be thrown away when more layers learn."""
    model, known = backbone.adapt(3), fs.hyperparameters(fs.full())
    frostline.models.freeze(backbone, model, backbone.cut(4))
    first = optimizer.build(backbone, model, 1e-3, known, None)
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    first.step()
    frostline.models.freeze(backbone, model, backbone.cut(2))
    second = optimizer.build(backbone, model, 1e-3, known, first)
    assert torch.equal(second.state[model.head.weight]["exp_avg"], first.state[model.head.weight]["exp_avg"])
    assert len(second.param_groups) > len(first.param_groups)


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    shares = [lr_schedule.scale(step, 100, 0.1) for step in range(100)]
    assert shares[0] < 0.2
    assert max(shares) == pytest.approx(1.0)
    assert shares[-1] < 0.01
    assert shares[10:] == sorted(shares[10:], reverse=True)


# --- law 12: the test set influences nothing ---------------------------------------------------------


@pytest.mark.parametrize("text", ["linear_probe", "top_k(1, epochs=5)", "full(bn=train, epochs=5, lr=0.01)"])
def test_shuffled_test_labels_change_no_byte_of_the_weights(
    text: str, backbone: Backbone, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "images", val=6)
    rows = table.read_text().splitlines()
    test = [i for i, row in enumerate(rows) if row.endswith("test")]
    labels = [rows[i].split(",")[1] for i in test]
    other = [labels[(i + 3) % len(labels)] for i in range(len(labels))]
    shuffled = list(rows)
    for i, label in zip(test, np.random.default_rng(0).permutation(other), strict=True):
        shuffled[i] = ",".join([rows[i].split(",")[0], label, "test"])
    second = table.with_name("shuffled.csv")
    second.write_text("\n".join(shuffled) + "\n")
    assert rows != shuffled
    runs = []
    for name, path in (("a", table), ("b", second)):
        data = frostline.load_data(path, near_copies=False)
        runs.append(frostline.train(backbone, data, text, study=tmp_path / name, **{**FAST, "flip": "auto"}))
    assert runs[0].accuracy != runs[1].accuracy
    assert runs[0].folder.weights.read_bytes() == runs[1].folder.weights.read_bytes()
    assert runs[0].temperature == runs[1].temperature


# --- studies ------------------------------------------------------------------------------------------


def test_exact_runs_agree_bit_for_bit(backbone: Backbone, data: Manifest, tmp_path: Path) -> None:
    one, two = (
        frostline.train(
            backbone, data, "gradual_unfreeze(epochs=5)", study=tmp_path / name, deterministic=True
        )
        for name in "ab"
    )
    assert one.folder.weights.read_bytes() == two.folder.weights.read_bytes()
    other = frostline.train(
        backbone, data, "gradual_unfreeze(epochs=5)", study=tmp_path / "a", deterministic=True, seed=1
    )
    assert other.folder.weights.read_bytes() != one.folder.weights.read_bytes()


def test_a_finished_run_is_read_back_not_done_again(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = frostline.train(backbone, data, "head(epochs=2)", study=tmp_path / "study", **FAST)
    monkeypatch.setattr(trainer.Trainer, "fit", lambda _: pytest.fail("trained again"))
    again = frostline.train(backbone, data, "head(epochs=2)", study=tmp_path / "study", **FAST)
    assert again.result == first.result


@pytest.mark.parametrize(
    "text", ["gradual_unfreeze(epochs=5)", "full(bn=train, epochs=3)", "full(bn=recalibrate, epochs=3)"]
)
def test_killed_and_resumed_equals_uninterrupted(
    text: str, backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning #21901, #6891: what was thawed stays thawed, and the optimizer's state fits."""
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 1e9)
    whole = frostline.train(backbone, data, text, study=tmp_path / "whole", **FAST)
    total = sum(s.steps for s in fs.schedule(fs.parse(text), stages=5, images=36, batch=32))

    class Killed(BaseException):
        pass

    for stop in (2, total // 2, total - 1):

        def progress(what: str, done: int, of: int, stop: int = stop) -> None:
            if what == "train" and done == stop:
                raise Killed

        place = tmp_path / f"killed at {stop}"
        with pytest.raises(Killed):
            frostline.train(backbone, data, text, study=place, progress=progress, **FAST)
        states = list(place.glob("runs/*/state.safetensors"))
        assert states or stop == 2  # else it would begin anew, and end the same
        resumed = frostline.train(backbone, data, text, study=place, **FAST)
        assert resumed.folder.weights.read_bytes() == whole.folder.weights.read_bytes()
        untimed = [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.folder.metrics()]
        assert untimed == [{k: v for k, v in row.items() if k != "seconds"} for row in whole.folder.metrics()]


def test_resumed_after_an_epochs_last_step_it_notes_the_same_rate(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint holds no rates: those of an epoch without a step left were the peak."""

    class Killed(BaseException):
        pass

    whole = frostline.train(backbone, data, "head(epochs=3)", study=tmp_path / "whole", **FAST)

    validate = trainer.Trainer._validate

    def killed(self: trainer.Trainer) -> dict[str, float]:
        if len(self.epochs) < 2:
            return validate(self)
        self._write_checkpoint()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_validate", killed)
        with pytest.raises(Killed):
            frostline.train(backbone, data, "head(epochs=3)", study=tmp_path / "killed", **FAST)
    resumed = frostline.train(backbone, data, "head(epochs=3)", study=tmp_path / "killed", **FAST)
    rates, expected = ([row["lr"] for row in run.folder.metrics()] for run in (resumed, whole))
    assert rates == expected
    assert rates[-1] < resumed.folder.metrics()[-1]["peak_lr"]


def test_another_split_or_other_data_is_refused(backbone: Backbone, data: Manifest, tmp_path: Path) -> None:
    frostline.train(backbone, data, "linear_probe", study=tmp_path / "study", **FAST)
    other = frostline.load_data(write_table(tmp_path / "other", seed=5), near_copies=False)
    with pytest.raises(StudyError, match="other data"):
        frostline.train(backbone, other, "linear_probe", study=tmp_path / "study", **FAST)
    table = (tmp_path / "images" / "table.csv").read_text()
    swapped = tmp_path / "images" / "swapped.csv"
    swapped.write_text(table.replace("0_000.png,kind 0,train", "0_000.png,kind 0,val"))
    with pytest.raises(StudyError, match="another split"):
        frostline.train(
            backbone,
            frostline.load_data(swapped, near_copies=False),
            "linear_probe",
            study=tmp_path / "study",
            **FAST,
        )


def test_looks_at_a_test_part_are_counted_across_studies(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    looks = [
        frostline.train(backbone, data, text, study=tmp_path / study, **FAST).test_evaluations
        for text, study in (
            ("linear_probe", "a"),
            ("head(epochs=1)", "b"),
            ("head(epochs=1)", "c"),
            ("full(epochs=1)", "a"),
        )
    ]
    assert looks == [1, 2, 2, 3]


def test_predictions_are_kept_and_agree_with_the_figures(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    run = frostline.train(backbone, data, "top_k(2, epochs=4)", study=tmp_path / "study", **FAST)
    for subset, key in (("test", "accuracy"), ("val", "val_accuracy")):
        with open(run.folder.path / f"predictions-{subset}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(data.subset(subset))
        assert np.mean([r["label"] == r["predicted"] for r in rows]) == pytest.approx(run.result[key])
        assert all(abs(sum(float(r[f"p({c})"]) for c in data.classes) - 1) < 1e-4 for r in rows)
    assert list((tmp_path / "study" / "thumbnails").glob("*.jpg"))
    with Image.open(run.folder.path / "augmentation.png") as sheet:
        assert sheet.size == (64, 64)
    assert json.loads((run.folder.path / "plan.json").read_text())["precision"] == "float32"


def test_without_a_val_part_the_schedule_runs_to_its_end(backbone: Backbone, tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images"), near_copies=False)
    run = frostline.train(backbone, data, "top_k(1)", study=tmp_path / "study", **FAST)
    assert (run.n_val, run.val_accuracy, run.best_epoch) == (0, None, None)
    assert len(run.folder.metrics()) == fs.schedule(fs.top_k(1), stages=5, images=36, batch=32)[0].epochs


@pytest.mark.parametrize("kind", ["weights", "sampler", "logit_adjustment"])
def test_treating_imbalance_raises_the_rare_classes_recall(
    kind: str, backbone: Backbone, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "images", train=30, test=20)
    rows = table.read_text().splitlines()
    rare = [r for r in rows if "kind 1,train" in r][6:]
    table.write_text("\n".join(r for r in rows if r not in rare) + "\n")
    data = frostline.load_data(table, near_copies=False)
    recalls = {}
    for name in ("none", kind):
        run = frostline.train(
            backbone, data, "full(lr=0.003)", study=tmp_path / "study", imbalance=name, **FAST
        )
        recalls[name] = run.per_class["kind 1"]["recall"]
    assert recalls[kind] > recalls["none"]


def test_every_mistake_in_a_call_is_named(backbone: Backbone, data: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        frostline.train(
            backbone, data, "full", study=tmp_path, metric="acuracy", flip="sideways", batch_size=0, threads=0
        )
    for word in ("Did you mean 'accuracy'", "sideways", "batch_size", "threads"):
        assert word in str(error.value)
    with pytest.raises(UsageError, match="Did you mean 'light'"):
        frostline.train(backbone, data, "full", study=tmp_path, augment="lihgt")


def test_a_network_without_a_cut_takes_what_freezes_nothing(data: Manifest, tmp_path: Path) -> None:
    loose = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    backbone = frostline.load_backbone(loose.eval(), preprocessing=PREPROCESSING)
    assert len(backbone.cuts) == 1
    for text in ("linear_probe", "head", "top_k(1)", "lp_ft", "gradual_unfreeze"):
        with pytest.raises(UsageError, match="needs a cut: use full or scratch"):
            frostline.train(backbone, data, text, study=tmp_path / "s", **FAST)
    assert frostline.train(backbone, data, "full(epochs=1)", study=tmp_path / "s", **FAST).steps > 0


def test_runs_of_a_copied_study_keep_their_order(tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    for name, ended in (("b", "2026-01-02"), ("a", "2026-01-03"), ("c", "2026-01-01")):
        (study.path / "runs" / name).mkdir(parents=True)
        RunFolder(study.path / "runs" / name).write("result.json", {"ended": ended})
    shutil.copytree(study.path, tmp_path / "copy", copy_function=shutil.copyfile)
    assert [run.name for run in study.runs()] == ["c", "b", "a"]
    assert [run.name for run in Study(tmp_path / "copy").runs()] == ["c", "b", "a"]
