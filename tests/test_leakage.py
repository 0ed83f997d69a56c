"""What a model learned from never judges it, through any number of generations."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import frostline
from frostline.cli.main import cli
from frostline.data import Manifest
from frostline.data.seen_images import NAME, Fingerprints
from frostline.errors import DataError, ModelError, StudyError
from frostline.integrations.sklearn import FrostlineClassifier
from tiny import PREPROCESSING, tiny_backbone, write_folder

SIDE = 32
PROBE = "linear_probe(layers=last)"  # whose run timm, and another run, can go on from
TIMM = "timm/test_efficientnet"
EXACT: dict[str, Any] = {"deterministic": True, "threads": 1}
CLASSES, OLD, NEW = 3, 10, 8  # images a class


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, a study that learned from some of them, and a folder that holds them and new ones.

    The new ones are of other names, and the old ones, too: half of them were saved anew.
    """
    place = tmp_path_factory.mktemp("lineage")
    old = write_folder(place / "old", classes=CLASSES, per_class=OLD)
    both = write_folder(place / "both", classes=CLASSES, per_class=NEW, seed=1)
    for number, path in enumerate(sorted(old.rglob("*.png"))):
        target = both / path.parent.name / f"old-{path.stem}"
        if number % 2:
            Image.open(path).save(target.with_suffix(".bmp"))
        else:
            shutil.copy(path, target.with_suffix(".png"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(place / "cache"))
        backbone = frostline.load_backbone(TIMM, size=SIDE, random=True)
        frostline.train(backbone, frostline.load_data(old), PROBE, study=place / "study", **EXACT)
        frostline.export(place / "study", output=place / "export")
        frostline.export(place / "study", "delta", output=place / "delta")
    return place


def names_of(data: Manifest, subsets: Iterable[str]) -> set[str]:
    """Names without suffix of the old images in some subsets, such as "kind 0/old-003"."""
    paths = (Path(s.path) for s in data.samples if s.split in subsets)
    return {f"{path.parent.name}/old-{path.stem}" for path in paths}


@pytest.fixture
def learned(place: Path) -> set[str]:
    """What the first study learned from, by the names that it has beside the new images."""
    data = Manifest.load(place / "study" / "manifest.jsonl")
    assert len(data.subset("test")) > 2
    return names_of(data, ("train", "val"))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of all images that a fold held out."""
    names: set[str] = set()
    real = Manifest.folds

    def spy(self: Manifest, samples: Any, k: int, seed: int) -> Any:
        pairs = real(self, samples, k, seed)
        names.update(named(samples[i].path) for _, hold in pairs for i in hold.tolist())
        return pairs

    monkeypatch.setattr(Manifest, "folds", spy)
    return names


def named(path: str) -> str:
    return f"{Path(path).parent.name}/{Path(path).stem}"


def judged(study: Path) -> set[str]:
    """Names of all images that a table of predictions in a study holds, whatever made it."""
    tables = [*study.rglob("predictions-*.csv"), *study.rglob("out-of-fold.csv")]
    names = set()
    for table in tables:
        with open(table, newline="") as file:
            names |= {named(row["path"]) for row in csv.DictReader(file)}
    return names


def demand_apart(names: set[str], learned: set[str]) -> None:
    """New images judged, old test images may have, and nothing that was learned from did."""
    assert names
    assert not names & learned


@pytest.mark.parametrize("source", ["study", "export", "export/model.safetensors", "delta"])
def test_a_run_that_goes_on_is_judged_by_new_images(
    place: Path, learned: set[str], held: set[str], source: str, tmp_path: Path
) -> None:
    backbone = frostline.load_backbone(str(place / source))
    data = frostline.load_data(place / "both")
    assert names_of(data, ("val", "test")) & {
        f"kind {i}/old-old-{j:03}" for i in range(3) for j in range(OLD)
    }
    run = frostline.train(backbone, data, PROBE, study=tmp_path / "next", **EXACT)
    demand_apart(judged(tmp_path / "next") | held, learned)
    assert run.learned_before == len(learned)
    second = Manifest.load(tmp_path / "next" / "manifest.jsonl")
    assert learned <= {named(s.path) for s in second.subset("train")}
    old_test = {f"kind {i}/old-{j:03}" for i in range(CLASSES) for j in range(OLD)} - learned
    assert old_test <= {named(s.path) for s in second.subset("test")}, "a test image stays one"
    assert any(f"learned from {len(learned)} of these {len(data.samples)} images" in n for n in second.notes)


def test_what_was_learned_is_inherited_through_generations(
    place: Path, learned: set[str], held: set[str], tmp_path: Path
) -> None:
    only_new = write_folder(tmp_path / "new", classes=CLASSES, per_class=NEW, seed=1)
    backbone = frostline.load_backbone(str(place / "study"))
    frostline.train(backbone, frostline.load_data(only_new), PROBE, study=tmp_path / "two", **EXACT)
    third = frostline.load_backbone(str(tmp_path / "two"))
    newest = write_folder(tmp_path / "newest", classes=CLASSES, per_class=12, seed=2)
    for path in sorted((place / "both").rglob("old-*")):
        shutil.copy(path, newest / path.parent.name / path.name)
    held.clear()
    frostline.train(third, frostline.load_data(newest), PROBE, study=tmp_path / "three", **EXACT)
    demand_apart(judged(tmp_path / "three") | held, learned)


@pytest.mark.slow
def test_a_comparison_and_a_fit_that_go_on_are_judged_by_new_images(
    place: Path, learned: set[str], held: set[str], tmp_path: Path
) -> None:
    backbone = frostline.load_backbone(str(place / "study"))
    lines: list[str] = []
    frostline.compare(
        backbone,
        frostline.load_data(place / "both"),
        [PROBE, "head(epochs=1)"],
        repeats=1,
        study=tmp_path / "compared",
        log=lines.append,
        **EXACT,
    )
    demand_apart(judged(tmp_path / "compared") | held, learned)
    assert any("are never held out" in line for line in lines)
    held.clear()
    frostline.fit(
        place / "both",
        model=str(place / "study"),
        strategies=[PROBE, "head(epochs=1)"],
        repeats=1,
        minutes=5,
        study=tmp_path / "fitted",
        log=lines.append,
        **EXACT,
    )
    demand_apart(judged(tmp_path / "fitted") | held, learned)


def test_an_estimator_that_goes_on_is_judged_by_new_images(
    place: Path, learned: set[str], held: set[str], tmp_path: Path
) -> None:
    paths = sorted((place / "both").rglob("*.*"))
    labels = [path.parent.name for path in paths]
    FrostlineClassifier(str(place / "study"), study=tmp_path / "fits", deterministic=True).fit(paths, labels)
    demand_apart(judged(tmp_path / "fits") | held, learned)
    old = [path for path in paths if named(str(path)) in learned]
    with pytest.raises(ValueError, match=f"learned from {len(old)} of these {len(old)} images"):
        FrostlineClassifier(str(place / "study")).fit(old, [path.parent.name for path in old])


def test_a_measurement_asks_no_probe_of_what_was_learned(
    place: Path, learned: set[str], held: set[str]
) -> None:
    backbone = frostline.load_backbone(str(place / "study"))
    signals = frostline.measure(backbone, frostline.load_data(place / "both"), rates=False, random=False)
    demand_apart(held, learned)
    assert any("no probe is evaluated on them" in note for note in signals.notes)
    everything = frostline.load_data(place / "old", test_size=0.0)
    signals = frostline.measure(backbone, everything, rates=False, random=False)
    assert signals.probe_by_stage != () or any("No class has two new images" in n for n in signals.notes)


def test_nothing_left_to_judge_by_is_refused(place: Path, tmp_path: Path) -> None:
    backbone = frostline.load_backbone(str(place / "study"))
    train = {s.path for s in Manifest.load(place / "study" / "manifest.jsonl").subset("train")}
    for path in train:
        (tmp_path / "seen" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place / "old" / path, tmp_path / "seen" / path)
    data = frostline.load_data(tmp_path / "seen")
    with pytest.raises(DataError, match=r"too few others are left to evaluate it on.*Add new images"):
        frostline.train(backbone, data, PROBE, study=tmp_path / "next", **EXACT)
    assert not (tmp_path / "next").exists()
    with pytest.raises(DataError, match="too few others are left"):
        frostline.fit(tmp_path / "seen", model=backbone, study=tmp_path / "fit")


def test_a_named_test_part_with_learned_images_is_refused(
    place: Path, learned: set[str], tmp_path: Path
) -> None:
    data = frostline.load_data(place / "both")
    rows = ["path,label,split"]
    for number, sample in enumerate(data.samples):
        rows.append(f"{place / 'both' / sample.path},{sample.label},{'test' if number % 3 == 0 else 'train'}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    named_subsets = frostline.load_data(tmp_path / "table.csv")
    inside = [s for s in named_subsets.subset("test") if named(s.path) in learned]
    backbone = frostline.load_backbone(str(place / "study"))
    with pytest.raises(
        DataError, match=rf"test set that the source names holds {len(inside)} image"
    ) as error:
        frostline.train(backbone, named_subsets, PROBE, study=tmp_path / "next", **EXACT)
    assert sum(sample.path in str(error.value) for sample in inside) == 3


def test_a_module_is_known_by_its_weights_where_the_study_made_it(tmp_path: Path) -> None:
    old = write_folder(tmp_path / "old", per_class=10)
    both = write_folder(tmp_path / "both", per_class=8, seed=1)
    for path in old.rglob("*.png"):
        shutil.copy(path, both / path.parent.name / f"old-{path.name}")
    study = tmp_path / "study"
    first = frostline.train(tiny_backbone(), frostline.load_data(old), PROBE, study=study, **EXACT)
    module = frostline.load_model(study, module=tiny_backbone().model)
    again = frostline.load_backbone(module, preprocessing=PREPROCESSING)
    data = frostline.load_data(both)
    with pytest.raises(StudyError, match="study of other data"):  # the old one knows the weights, no other
        frostline.train(again, data, PROBE, study=study, **EXACT)
    assert again.fingerprints is not None
    run = frostline.train(again, data, PROBE, study=tmp_path / "next", **EXACT)
    assert run.learned_before == first.n_train + first.n_val
    stranger = frostline.load_backbone(tiny_backbone(seed=3).model, preprocessing=PREPROCESSING)
    assert frostline.train(stranger, data, PROBE, study=tmp_path / "own", **EXACT).learned_before == 0


def test_near_copies_of_learned_images_are_counted_and_stay(place: Path, tmp_path: Path) -> None:
    both = write_folder(tmp_path / "both", per_class=10, seed=1)
    for path in sorted((place / "old").rglob("*.png")):
        smooth = Image.open(path).resize((64, 64), Image.Resampling.BICUBIC)
        smooth.save(tmp_path / f"{path.parent.name}-{path.stem}.png")
        smooth.save(both / path.parent.name / f"copy-{path.stem}.jpg", quality=90)
    first = tmp_path / "first"
    for path in sorted(tmp_path.glob("kind*.png")):
        (first / path.name[:6]).mkdir(parents=True, exist_ok=True)
        path.rename(first / path.name[:6] / path.name)
    backbone = frostline.load_backbone(TIMM, size=SIDE, random=True)
    data = frostline.load_data(first)
    frostline.train(backbone, data, PROBE, study=tmp_path / "study", **EXACT)
    again = frostline.load_backbone(str(tmp_path / "study"))
    run = frostline.train(again, frostline.load_data(both), PROBE, study=tmp_path / "next", **EXACT)
    assert run.learned_before == 0
    notes = Manifest.load(tmp_path / "next" / "manifest.jsonl").notes
    assert any("look almost like one that the model learned from" in note for note in notes)


def test_an_export_without_fingerprints_says_that_nothing_can_be_told(place: Path, tmp_path: Path) -> None:
    frostline.export(place / "study", output=tmp_path / "bare", fingerprints=False)
    assert not (tmp_path / "bare" / NAME).exists()
    backbone = frostline.load_backbone(str(tmp_path / "bare"))
    run = frostline.train(
        backbone, frostline.load_data(place / "both"), PROBE, study=tmp_path / "next", **EXACT
    )
    notes = Manifest.load(tmp_path / "next" / "manifest.jsonl").notes
    assert any("carries no fingerprints" in note for note in notes)
    assert run.learned_before == 0


def test_forgetting_keeps_learned_images_apart(place: Path, learned: set[str]) -> None:
    backbone = frostline.load_backbone(str(place / "study"))
    everything = frostline.load_data(place / "old", test_size=0.0)
    lost = frostline.forgetting(backbone, backbone.adapt(3), everything)
    assert lost.learned is not None
    assert lost.learned["n_images"] == len(learned)
    assert lost.n_images == len(everything.samples) - len(learned)


def test_a_program_and_a_damaged_export_are_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "export", tmp_path / "damaged")
    (tmp_path / "damaged" / NAME).write_bytes(b"nothing of use")
    with pytest.raises(StudyError, match="is damaged"):
        frostline.load_backbone(str(tmp_path / "damaged"))
    config = json.loads((place / "export" / "config.json").read_text())
    config["frostline"]["export"] = "onnx"
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="holds a program"):
        frostline.load_backbone(str(tmp_path / "program"))


def test_fingerprints_add_up_and_are_read_back(tmp_path: Path) -> None:
    digests = [f"{number:064x}" for number in (1 << 200, 2 << 200, 3 << 200)]
    one = Fingerprints.of(digests[:2], [b"a" * 8, b""], [b"h" * 32, b""], ["test", "train"])
    other = Fingerprints.of(digests[:1] + digests[2:], [b"a" * 8, b"c" * 8], [b"", b""], ["train", "val"])
    whole = one + other
    assert len(whole) == 3
    assert whole.sides_of(digests, [b""] * 3) == ["train", "train", "val"]
    assert whole.sides_of(["f" * 64] * 3, [b"c" * 8, b"", bytes(8)]) == ["val", "", ""]
    assert len(one.learned) == 1
    whole.write(tmp_path / NAME)
    back = Fingerprints.read(tmp_path)
    assert back is not None
    assert all(
        np.array_equal(getattr(back, k), getattr(whole, k)) for k in ("files", "pixels", "hashes", "sides")
    )
    assert Fingerprints.read(tmp_path / "nowhere") is None


def test_the_command_line_says_what_was_learned(place: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    call = ["train", str(place / "both"), "--model", str(place / "study"), "--study", str(tmp_path / "next")]
    outcome = CliRunner().invoke(cli, [*call, "--strategy", PROBE, "--threads", "1"])
    assert outcome.exit_code == 0, outcome.output
    assert "are never held out" in outcome.output
