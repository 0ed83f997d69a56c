"""Export works for whatever made the study, and for every kind of network; a killed one leaves nothing."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import frostline
from frostline.exports import output_folder
from frostline.models import Backbone
from tiny import tiny_backbone, tiny_model, write_folder

QUICK: dict[str, Any] = {"deterministic": True, "flip": "none", "threads": 1}
STRATEGIES = ["linear_probe", "top_k(1, epochs=1)"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "photos", per_class=10)


def check_export(study: Path, run: frostline.Run, to: str, out: Path, **options: Any) -> None:
    """Export what answers for a study; it is that run, and says what the run says."""
    export = frostline.export(study, to=to, output=out, **options)
    assert export.run == run.folder.name
    assert export.check["images"] >= 10
    assert export.check["largest_difference"] < 1e-4
    assert (out / "README.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["compare", "fit"])
def test_studies_of_compare_and_fit_can_be_taken_away(verb: str, photos: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    common: dict[str, Any] = {"strategies": STRATEGIES, "minutes": 3.0, "repeats": 1, "study": study, **QUICK}
    if verb == "compare":
        data = frostline.load_data(photos, near_copies=False)
        run = frostline.compare(tiny_backbone(), data, **common).run
    else:
        run = frostline.fit(photos, model=tiny_backbone(), **common).run
    for to in ("safetensors", "delta"):
        options = {"base": tiny_model()} if to == "delta" else {}
        check_export(study, run, to, tmp_path / to, module=tiny_model(), **options)
    delta_predictions = frostline.predict(tmp_path / "delta", photos, base=tiny_model())
    for study_row, delta_row in zip(run.predict(photos), delta_predictions, strict=True):
        assert study_row.label == delta_row.label
        assert study_row.probability == pytest.approx(delta_row.probability, abs=1e-5)


def hugging_face(place: Path) -> Backbone:
    from test_hugging_face import save

    return frostline.load_backbone(str(save(place / "vit")))


NETWORKS = {
    "vit": lambda place: frostline.load_backbone("timm/test_vit", size=32, random=True),
    "torchvision": lambda place: frostline.load_backbone("torchvision/resnet18", size=32, random=True),
    "hugging face": hugging_face,
}


Trained = Callable[[str], tuple[Backbone, frostline.Run]]


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A network of each kind and its run, trained once for all exports, which change neither."""

    @functools.cache
    def of_kind(kind: str) -> tuple[Backbone, frostline.Run]:
        place = tmp_path_factory.mktemp("trained")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FROSTLINE_CACHE_DIR", str(place / "cache"))
            backbone = NETWORKS[kind](place)
            data = frostline.load_data(photos, near_copies=False)
            return backbone, frostline.train(
                backbone, data, "linear_probe", study=place / "study", deterministic=True, temperature=1.5
            )

    return of_kind


@pytest.mark.parametrize(
    "to",
    [
        "safetensors",
        "delta",
        "torch",
        pytest.param("onnx", marks=pytest.mark.ecosystem),
    ],
)
@pytest.mark.parametrize(
    "kind", ["vit", "torchvision", pytest.param("hugging face", marks=pytest.mark.ecosystem)]
)
def test_every_kind_of_network_can_be_taken_away(
    kind: str, to: str, trained: Trained, tmp_path: Path
) -> None:
    backbone, run = trained(kind)
    options = {"base": backbone} if to == "delta" else {}
    check_export(run.study.path, run, to, tmp_path / "out", **options)


@pytest.mark.ecosystem
@pytest.mark.parametrize("head", ["linear", "mlp(8)"])
def test_a_model_of_transformers_goes_back_to_transformers(head: str, photos: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    data = frostline.load_data(photos, near_copies=False)
    run = frostline.train(
        hugging_face(tmp_path),
        data,
        f"head(epochs=1, head={head})",
        study=tmp_path / "study",
        deterministic=True,
    )
    export = frostline.export(run.study.path, output=tmp_path / "out")
    assert ("AutoModelForImageClassification" in export.usage) == (head == "linear")
    assert bool(export.notes) == (head != "linear")
    if head == "linear":
        model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
        assert model.config.id2label == {0: "kind 0", 1: "kind 1", 2: "kind 2"}


SWAPPING = """when = 1
real = pathlib.Path.rename
def rename(old, new):
    if new.name == "out":
        os.kill(os.getpid(), 9)
    return real(old, new)
pathlib.Path.rename = rename
"""


def killed(place: Path, when: str) -> None:
    """Let another process begin an export to `place` and be killed at once."""
    code = (
        "import os, sys, pathlib, shutil\n"
        "from frostline.exports import output_folder\n"
        f"{when}\n"
        "with output_folder.atomic_folder(pathlib.Path(sys.argv[1])) as new:\n"
        "    (new / 'model.safetensors').write_text('half')\n"
        "    if not when: os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.run([sys.executable, "-c", code, str(place)], check=False)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL there")
def test_what_a_killed_export_left_goes_with_the_next(tmp_path: Path) -> None:
    place = tmp_path / "out"
    killed(place, "when = 0")
    assert len(list(tmp_path.iterdir())) == 1
    strange = tmp_path / f".out.{'0' * 8}-1.tmp"  # another machine's, perhaps at work
    strange.mkdir()
    with output_folder.atomic_folder(place) as new:
        (new / "model.safetensors").write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [strange.name, "out"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL there")
def test_an_export_that_was_put_aside_comes_back(tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "model.safetensors").write_text("earlier")
    killed(place, SWAPPING)
    assert not place.exists()
    with pytest.raises(KeyError), output_folder.atomic_folder(place):
        raise KeyError
    assert (place / "model.safetensors").read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.ecosystem
def test_a_hugging_face_network_goes_into_a_pipeline_as_it_is(photos: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    data = frostline.load_data(photos, near_copies=False)
    run = frostline.train(
        hugging_face(tmp_path),
        data,
        "linear_probe(layers=last)",
        study=tmp_path / "study",
        deterministic=True,
        temperature=1.5,
    )
    frostline.export(run.study.path, to="safetensors", output=tmp_path / "out")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    pipeline = transformers.pipeline(
        "image-classification", model=str(tmp_path / "out"), image_processor=processor
    )
    for row in run.predict(photos):
        (best,) = pipeline(row.path, top_k=1)
        assert best["label"] == row.label
        assert best["score"] == pytest.approx(row.probability, abs=1e-4)
