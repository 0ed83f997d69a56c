"""Arguments of another kind get one message that names what is expected; what stands for a study is one."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frostline
from frostline.errors import DataError, FrostlineError, ModelError, StudyError, UsageError
from frostline.system import directories
from tiny import tiny_backbone, tiny_model, write_folder

BACKBONE = r"backbone must be a Backbone, as load_backbone\(\"lite0\"\) returns it, found "
DATA = r"data must be a Manifest, as load_data\(\"photos/\"\) returns it, found "


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("kinds") / "photos", per_class=8)


Call = Callable[[Any, Any], Any]


@pytest.mark.parametrize(
    "call",
    [
        lambda backbone, data: frostline.train(backbone, data, "linear_probe"),
        lambda backbone, data: frostline.compare(backbone, data, ["linear_probe", "head"]),
        frostline.measure,
        frostline.plan,
        lambda backbone, data: frostline.lr_find(backbone, data, "head"),
        frostline.extract_features,
        lambda backbone, data: frostline.fill_cache(backbone, data, "head"),
        lambda backbone, data: frostline.forgetting(backbone, tiny_model(), data),
    ],
)
def test_networks_and_images_are_named(
    call: Call, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backbone, data = tiny_backbone(), frostline.load_data(photos)
    for wrong, named in (("lite0", "'lite0'"), (data, "a Manifest"), (tiny_model(), "a TinyNet")):
        with pytest.raises(UsageError, match=BACKBONE + named):
            call(wrong, data)
    for wrong, named in (("photos/", "'photos/'"), (backbone, "a Backbone"), (None, "None")):
        with pytest.raises(UsageError, match=DATA + named):
            call(backbone, wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": ["linear_probe"]}, r"strategy must be a strategy or its name, .*, found a list"),
        ({"study": 7}, "study must be a study or its folder, found 7"),
        ({"minutes": "1"}, "minutes must be a number, found '1'"),
        ({"minutes": True}, "minutes must be a number, found True"),
        ({"seed": False}, "seed must be a whole number, found False"),
        ({"seed": "1"}, "seed must be a whole number, found '1'"),
        ({"config": {"lr": 1}}, "config must be a Config, or options by name, found a dict"),
    ],
)
def test_options_of_train_are_named(
    options: dict[str, Any], message: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"strategy": "linear_probe", **options}
    with pytest.raises(UsageError, match=message):
        frostline.train(tiny_backbone(), frostline.load_data(photos), given.pop("strategy"), **given)


@pytest.mark.parametrize("field", [field.name for field in fields(frostline.Config)])
def test_no_option_takes_a_value_of_another_kind(field: str, photos: Path, tmp_path: Path) -> None:
    """`threads="2"` ended in a TypeError of Python's, `views=True` was taken for 1."""
    data, network = frostline.load_data(photos), tiny_backbone()
    for wrong in (object(), [1], *([] if isinstance(getattr(frostline.Config, field), bool) else [True])):
        with pytest.raises(FrostlineError, match=field.split("_")[0]):
            frostline.train(network, data, "top_k(1, epochs=1)", study=tmp_path / "s", **{field: wrong})
    assert not (tmp_path / "s" / "runs").exists()


def test_numbers_of_numpy_are_numbers(photos: Path, tmp_path: Path) -> None:
    data = frostline.load_data(photos, seed=np.int64(0))
    run = frostline.train(
        tiny_backbone(), data, "linear_probe", study=tmp_path, seed=np.int64(1), minutes=np.float32(3)
    )
    again = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path, seed=1, minutes=3.0)
    assert (again.reused, again.run) == (True, run.run)


def test_options_of_loading_are_named(photos: Path) -> None:
    for name, value, expected in (
        ("test_size", "0.2", "a share, such as 0.2"),
        ("val_size", None, "a share, such as 0.2"),
        ("seed", 1.5, "a whole number"),
    ):
        with pytest.raises(UsageError, match=f"{name} must be {expected}, found {value!r}"):
            frostline.load_data(photos, **{name: value})
    with pytest.raises(UsageError, match=r"size must be a whole number of pixels a side, found \(64, 64\)"):
        frostline.load_backbone("lite0", size=(64, 64))


def test_a_model_is_a_name_a_path_or_a_module(tmp_path: Path) -> None:
    for wrong, named in ((None, "None"), (3, "3"), (True, "True"), (type(tiny_model()), "a type")):
        expected = f"model must be a model's name, a path or an instance of nn.Module, found {named}"
        with pytest.raises(UsageError, match=expected):
            frostline.load_backbone(wrong)
    with pytest.raises(ModelError, match=r"nothing\.safetensors"):
        frostline.load_backbone(tmp_path / "nothing.safetensors")


def test_a_run_stands_for_its_folder(photos: Path, tmp_path: Path) -> None:
    data = frostline.load_data(photos)
    runs = [
        frostline.train(tiny_backbone(), data, name, study=tmp_path / "s", threads=1)
        for name in ("linear_probe", "linear_probe(layers=last)")
    ]
    for run in runs:
        for study in (run, run.folder, str(run.folder.path)):
            predictions = frostline.predict(study, photos, module=tiny_model())
            assert predictions.run == run.folder.name
    assert frostline.load_model(runs[0].folder.path, module=tiny_model()) is not None
    exported = frostline.export(runs[1], output=tmp_path / "e", module=tiny_model())
    assert runs[1].folder.name in (exported.path / "config.json").read_text()
    assert frostline.report(runs[0]).path == tmp_path / "s/report.html"
    for refused in (lambda: frostline.predict(tiny_model(), photos), lambda: frostline.report(3)):
        with pytest.raises(UsageError, match="study must be a study"):
            refused()
    with pytest.raises(UsageError, match="study must be a study or its folder"):
        frostline.train(tiny_backbone(), data, "linear_probe", study=tiny_model())
    with pytest.raises(StudyError, match="does not exist"):
        frostline.predict(tmp_path / "nowhere", photos)


def test_a_list_of_paths_and_labels_is_data(photos: Path) -> None:
    folder = frostline.load_data(photos)
    items = [(photos / sample.path, sample.label) for sample in folder.samples]
    data = frostline.load_data(items)
    assert [sample.digest for sample in data.samples] == [sample.digest for sample in folder.samples]
    assert data.classes == folder.classes


def test_a_data_frame_is_asked_for_as_a_file(photos: Path, tmp_path: Path) -> None:
    frame = type("DataFrame", (), {"__module__": "pandas.core.frame", "__len__": lambda _: 3})()
    with pytest.raises(DataError, match="Found a DataFrame in memory; expected the path of a table"):
        frostline.load_data(frame)
    data = frostline.load_data(photos)
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "s", threads=1)
    with pytest.raises(DataError, match="Found a DataFrame in memory"):
        frostline.predict(run, frame, module=tiny_model())


def test_a_study_of_other_data_says_what_differs(photos: Path, tmp_path: Path) -> None:
    def rows(change: Callable[[int, str], str | None]) -> list[tuple[str, str]]:
        of_folder = [(path, path.parent.name) for path in sorted(photos.glob("*/*.png"))]
        labels = [change(place, label) for place, (_, label) in enumerate(of_folder)]
        return [(str(path), label) for (path, _), label in zip(of_folder, labels, strict=True) if label]

    def train(change: Callable[[int, str], str | None]) -> None:
        data = frostline.load_data(rows(change), near_copies=False)
        frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "s", threads=1)

    train(lambda place, label: label if place else None)
    with pytest.raises(StudyError, match=r"other data: 1 image\(s\) are gone, 1 image\(s\) are new\."):
        train(lambda place, label: label if place != 5 else None)
    changed = r"other data: 2 image\(s\) are of another label \(such as .*001\.png\)\."
    with pytest.raises(StudyError, match=changed):
        train(lambda place, label: None if not place else "kind 2" if place in (1, 2) else label)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(directories.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        directories.write_atomically(tmp_path / "result.json", b"{}")
    assert caught.value.filename == str(tmp_path / "result.json")
    assert not list(tmp_path.iterdir())
