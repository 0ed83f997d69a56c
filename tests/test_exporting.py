"""A model to take away: the same probabilities in every format, the same bits where bits are promised."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from markdown_it import MarkdownIt
from PIL import Image

import frostline
from frostline import metrics
from frostline.cli.main import cli
from frostline.errors import ModelError, StudyError, UsageError
from frostline.exports import code_examples, model_card, onnx_and_torch, verification
from frostline.exports.exported_model import calibrated, load_exported_model
from frostline.inference.predictor import Predictor
from frostline.models import heads, zoo
from frostline.models.zoo import delta
from frostline.training import Run
from studies import EVIL
from tiny import picture, tiny_backbone, tiny_model, write_folder

SIDE = 32
TIMM = "timm/test_efficientnet"
# Names that break out of folders, tables, headings, code and reading direction.
HOSTILE = (
    "a/../x",
    "b\nc | d\n# e",
    '<img src=x onerror="alert(1)">',
    "x" * 300,
    "\u202egnp",
    "[y](http://z)`",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos") / "photos", per_class=10)


@pytest.fixture(scope="module")
def runs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run for each kind of head, on a network of timm's with random weights; and one of a module."""
    place = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(place / "cache"))
        data = frostline.load_data(photos)
        backbone = frostline.load_backbone(TIMM, size=SIDE, random=True)
        strategies = {
            "linear": "linear_probe(layers=last)",
            "cosine": "head(epochs=1, head=cosine)",
            "mlp": "head(epochs=1, head=mlp(8))",
            "thawed": "top_k(1, epochs=1, bn=train)",
        }
        options: dict[str, Any] = {"deterministic": True, "views": 0, "temperature": 1.7}
        trained = {
            name: frostline.train(backbone, data, text, study=place / name, **options)
            for name, text in strategies.items()
        }
        trained["module"] = frostline.train(
            tiny_backbone(), data, "linear_probe(layers=last)", study=place / "module", **options
        )
    return trained


def predicted(run: Run, module: torch.nn.Module | None = None) -> tuple[torch.Tensor, np.ndarray]:
    """Pixels of the study's images, and what `predict` says of them."""
    predictor = Predictor.of_run(run.folder, module)
    check_images = verification.load_check_images(
        run.study.path, predictor.preprocessing, None, predictor.rendering
    )
    assert check_images.source == "images of the study"
    return check_images.pixels, predictor(check_images.pixels)


def softmaxed(model: torch.nn.Module, run: Run, pixels: torch.Tensor) -> np.ndarray:
    preprocessing = frostline.Preprocessing.from_dict(run.folder.read("config.json")["preprocessing"])
    with torch.no_grad():
        return metrics.softmax(model.eval()(preprocessing.normalise(pixels)).numpy())


def test_a_damaged_picture_among_those_to_check_on_is_passed_over(
    tmp_path: Path, runs: dict[str, Run]
) -> None:
    folder = write_folder(tmp_path / "given", classes=1, per_class=3) / "kind 0"
    predictor = Predictor.of_run(runs["linear"].folder)

    def pixels() -> torch.Tensor:
        given = verification.load_check_images(
            tmp_path / "no study", predictor.preprocessing, folder, predictor.rendering
        )
        assert given.source == "given images"
        return given.pixels

    whole = pixels()
    content = (folder / "000.png").read_bytes()
    (folder / "000.png").write_bytes(content[: len(content) // 2])
    assert torch.equal(pixels(), whole[1:])


@pytest.mark.parametrize("kind", ["linear", "cosine", "mlp(5)"])
def test_dividing_a_head_divides_its_logits(kind: str) -> None:
    head, features = heads.build_head(kind, 6, 4, seed=1), torch.randn(9, 6)
    for value in head.parameters():
        torch.nn.init.normal_(value)
    before = head(features)
    heads.divide(torch.nn.Sequential(torch.nn.Identity(), head, torch.nn.Flatten(1)), 2.5)
    torch.testing.assert_close(head(features), before / 2.5)


def test_a_head_that_two_places_share_is_divided_once() -> None:
    backbone = frostline.load_backbone("timm/deit_tiny_distilled_patch16_224", size=32, random=True)
    assert backbone.classifier.twin
    model = backbone.adapt(3, seed=1)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(calibrated(model, backbone, 2.0)(images), model(images) / 2.0)


@pytest.mark.usefixtures("on_processor")
def test_timm_loads_it_in_one_line_without_frostline(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["thawed"]
    export = frostline.export(run.study.path, output=tmp_path / "out")
    assert export.check["answers_changed"] == 0
    assert export.check["largest_difference"] < 1e-5
    pixels, expected = predicted(run)
    exported = load_exported_model(run.study.path, None, None)
    torch.save(exported.preprocessing.normalise(pixels), tmp_path / "x.pt")
    script = (
        "import sys, torch, timm\nsys.modules['frostline'] = None\ntorch.set_num_threads(1)\n"
        "m = timm.create_model('local-dir:' + sys.argv[1], pretrained=True).eval()\n"
        "x = torch.load(sys.argv[2], weights_only=True)\n"
        "with torch.no_grad(): torch.save(m(x), sys.argv[3])\n"
        "c = timm.data.resolve_model_data_config(m)\nprint(c['input_size'], c['crop_pct'], c['mean'])\n"
    )
    files = [str(tmp_path / name) for name in ("out", "x.pt", "y.pt")]
    process = subprocess.run(
        [sys.executable, "-c", script, *files], check=True, capture_output=True, text=True
    )
    preprocessing = exported.preprocessing
    assert (
        process.stdout.strip() == f"[3, {SIDE}, {SIDE}] {preprocessing.crop_pct} {list(preprocessing.mean)}"
    )
    logits = torch.load(tmp_path / "y.pt", weights_only=True)
    with torch.no_grad():
        assert torch.equal(logits, exported.model(exported.preprocessing.normalise(pixels)))
    np.testing.assert_allclose(metrics.softmax(logits.numpy()), expected, atol=1e-6)


@pytest.mark.parametrize("crop_mode", ["center", "floor", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_the_code_of_the_card_makes_the_pixels_of_the_study(crop_mode: str, crop_pct: float) -> None:
    preprocessing = frostline.Preprocessing(
        33, crop_pct, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_mode
    )
    code = code_examples.squaring_code(preprocessing)
    for size in ((20, 20), (91, 40), (40, 91), (33, 33), (300, 7)):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
        space: dict[str, Any] = {"image": image, "Image": Image, "np": np}
        exec(code + code_examples._batch(preprocessing, as_bytes=False), space)
        np.testing.assert_array_equal(np.asarray(space["image"]), preprocessing.crop(image).permute(1, 2, 0))
        np.testing.assert_allclose(space["pixels"][0], preprocessing.evaluation()(image), atol=1e-6)
        exec(code_examples._batch(preprocessing, as_bytes=True), space)
        assert space["pixels"].shape == (1, 33, 33, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("linear", {}),
        ("several", {}),
        ("cosine", {}),
        ("linear", {"to": "torch"}),
        ("linear", {"to": "torch", "with_preprocessing": False}),
        ("linear", {"to": "onnx"}),
        ("linear", {"to": "onnx", "with_preprocessing": False}),
    ],
)
def test_the_code_that_is_printed_answers_as_predict(
    runs: dict[str, Run], kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """Pasted into a fresh interpreter, with a photograph that is neither square nor upright."""
    if kind == "several":
        backbone = frostline.load_backbone(TIMM, size=SIDE, random=True, resize="pad")
        data = frostline.load_data(run_images(runs["linear"]))
        run = frostline.train(backbone, data, "linear_probe", study=tmp_path / "several", deterministic=True)
    else:
        run = runs[kind]
    if options.get("to") == "onnx":
        pytest.importorskip("onnxruntime")
    export = frostline.export(run.study.path, output=tmp_path / "out", **options)
    photo, exif = picture(1, np.random.default_rng(3)).resize((90, 41)), Image.Exif()
    exif[274] = 6  # lies on its side
    photo.save(tmp_path / "photo.jpg", exif=exif)
    code = export.usage.replace(code_examples.FOLDER, str(tmp_path / "out"))
    code = code.replace(code_examples.FILE, str(tmp_path / "photo.jpg"))
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint([float(p) for p in probabilities])"],
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
    )
    (row,) = frostline.predict(run.study.path, [tmp_path / "photo.jpg"])
    names = json.loads((tmp_path / "out" / "config.json").read_text())["label_names"]
    answers = dict(zip(names, json.loads(printed.stdout), strict=True))
    assert max(answers, key=answers.__getitem__) == row.label
    assert answers[row.label] == pytest.approx(row.probability, abs=1e-5)
    assert export.usage in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("kind", ["cosine", "mlp", "module"])
@pytest.mark.usefixtures("on_processor")
def test_other_models_come_with_what_builds_them(runs: dict[str, Run], kind: str, tmp_path: Path) -> None:
    run, module = runs[kind], tiny_model() if kind == "module" else None
    export = frostline.export(run.study.path, output=tmp_path / "out", module=module)
    assert "load.py" in export.notes[0]
    namespace: dict[str, Any] = {}
    real_import = builtins.__import__

    def import_without_frostline(name: str, *rest: Any) -> Any:
        assert not name.startswith("frostline")
        return real_import(name, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "__import__", import_without_frostline)
        exec(compile((tmp_path / "out" / "load.py").read_text(), "load.py", "exec"), namespace)
        model = namespace["load"](tmp_path / "out", module)
    pixels, expected = predicted(run, tiny_model() if module else None)
    np.testing.assert_allclose(softmaxed(model, run, pixels), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "cosine", "mlp", "thawed"])
def test_a_delta_gives_the_same_bits_again(runs: dict[str, Run], kind: str, tmp_path: Path) -> None:
    run = runs[kind]
    export = frostline.export(run.study.path, to="delta", output=tmp_path / "out")
    state = load_exported_model(run.study.path, None, None).model.state_dict()
    loaded = frostline.load_model(tmp_path / "out").state_dict()
    assert delta.digest_of(loaded) == delta.digest_of(state)
    delta_bytes = next(row["bytes"] for row in export.files if row["name"] == delta.WEIGHTS)
    weights_bytes = (run.folder.weights).stat().st_size
    assert delta_bytes < (weights_bytes if kind == "thawed" else 20_000)
    photos = sorted(Path(frostline.load_data(run_images(run)).root or "").rglob("*.png"))[:4]
    study_predictions, delta_predictions = (
        frostline.predict(run.study.path, photos),
        frostline.predict(tmp_path / "out", photos),
    )
    assert delta_predictions.run == study_predictions.run
    assert [row.label for row in study_predictions] == [row.label for row in delta_predictions]
    np.testing.assert_allclose(
        [r.probability for r in study_predictions], [r.probability for r in delta_predictions], atol=1e-6
    )


def run_images(run: Run) -> Path:
    from frostline.data import Manifest

    root = Manifest.load(run.study.path / "manifest.jsonl").root
    assert root is not None
    return root


def test_a_delta_refuses_other_base_weights_and_changed_tensors(runs: dict[str, Run], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    frostline.export(runs["module"].study.path, to="delta", output=tmp_path / "out", module=tiny_model())
    assert frostline.load_model(tmp_path / "out", base=tiny_model())
    with pytest.raises(ModelError, match="other base weights"):
        frostline.load_model(tmp_path / "out", base=tiny_model(seed=1))
    with pytest.raises(ModelError, match="Pass them"):
        frostline.load_model(tmp_path / "out")
    with pytest.raises(ModelError, match="other base weights"):
        frostline.export(
            runs["module"].study.path, to="delta", output=tmp_path / "other", module=tiny_model(seed=1)
        )
    assert not (tmp_path / "other").exists()
    tensors = load_file(tmp_path / "out" / delta.WEIGHTS)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] + 1}, tmp_path / "out" / delta.WEIGHTS)
    with pytest.raises(StudyError, match="changed or damaged"):
        frostline.load_model(tmp_path / "out", base=tiny_model())
    save_file({**tensors, "stranger": torch.zeros(1)}, tmp_path / "out" / delta.WEIGHTS)
    with pytest.raises(StudyError, match="stranger"):
        frostline.load_model(tmp_path / "out", base=tiny_model())


@pytest.mark.parametrize(
    "change",
    [
        {"frostline": {"export": "delta"}},
        {"label_names": None},
        {"preprocessing": {"size": 3}},
        {"preprocessing": []},
    ],
)
def test_a_damaged_delta_gives_one_message(
    runs: dict[str, Run], tmp_path: Path, change: dict[str, Any]
) -> None:
    frostline.export(runs["linear"].study.path, to="delta", output=tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(StudyError, match="damaged"):
        frostline.load_model(tmp_path / "out")


@pytest.mark.parametrize("included", [False, True])
@pytest.mark.usefixtures("on_processor")
def test_a_program_of_torch_takes_any_number_of_images(
    runs: dict[str, Run], tmp_path: Path, included: bool
) -> None:
    run = runs["linear"]
    export = frostline.export(
        run.study.path, to="torch", output=tmp_path / "out", with_preprocessing=included
    )
    assert export.check["images"] == 30
    extra = {"config.json": ""}
    program = torch.export.load(tmp_path / "out" / "model.pt2", extra_files=extra).module()
    config = json.loads(extra["config.json"])
    assert config["label_names"] == ["kind 0", "kind 1", "kind 2"]
    pixels, expected = predicted(run)
    preprocessing = frostline.Preprocessing.from_dict(run.folder.read("config.json")["preprocessing"])
    inputs = pixels.permute(0, 2, 3, 1) if included else preprocessing.normalise(pixels)
    for count in (1, 2, 7):
        with torch.no_grad():
            probabilities = metrics.softmax(program(inputs[:count]).numpy())
        np.testing.assert_allclose(probabilities, expected[:count], atol=1e-5)
    assert b"site-packages" not in (tmp_path / "out" / "model.pt2").read_bytes()
    with zipfile.ZipFile(tmp_path / "out" / "model.pt2") as archive:
        first_bytes = [archive.read(name)[:4] for name in archive.namelist()]
    assert not [start for start in first_bytes if start.startswith((b"\x80", b"PK"))], (
        "something is pickled in it"
    )


@pytest.mark.ecosystem
@pytest.mark.parametrize("included", [False, True])
def test_onnx_runtime_answers_the_same(runs: dict[str, Run], tmp_path: Path, included: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run = runs["thawed"]
    frostline.export(run.study.path, to="onnx", output=tmp_path / "out", with_preprocessing=included)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["label_names"]) == ["kind 0", "kind 1", "kind 2"]
    pixels, expected = predicted(run)
    preprocessing = frostline.Preprocessing.from_dict(run.folder.read("config.json")["preprocessing"])
    inputs = (
        pixels.permute(0, 2, 3, 1).contiguous() if included else preprocessing.normalise(pixels)
    ).numpy()
    for count in (1, 2, 7):
        probabilities = metrics.softmax(session.run(["logits"], {"images": inputs[:count]})[0])
        np.testing.assert_allclose(probabilities, expected[:count], atol=1e-5)
    assert b"site-packages" not in (tmp_path / "out" / "model.onnx").read_bytes()


@pytest.mark.ecosystem
def test_transformers_loads_it(runs: dict[str, Run], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run = runs["thawed"]
    frostline.export(run.study.path, output=tmp_path / "out")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert model.config.id2label == {0: "kind 0", 1: "kind 1", 2: "kind 2"}
    exported = load_exported_model(run.study.path, None, None)
    x = exported.preprocessing.normalise(predicted(run)[0])
    with torch.no_grad():
        assert torch.equal(model(x).logits, exported.model(x))


def test_without_the_extra_there_is_one_message(
    runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_and_torch, "ONNX_PACKAGES", ("onnx_that_is_not_installed",))
    result = CliRunner().invoke(cli, ["export", str(runs["linear"].study.path), "--to", "onnx"])
    assert result.exit_code == 2
    assert 'pip install "frostline[export]"' in result.output


def test_a_changed_answer_is_refused_and_nothing_is_left(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_logits = onnx_and_torch.module_logits

    def wrong(*arguments: Any) -> Any:
        logits = real_logits(*arguments)
        return lambda pixels: -logits(pixels)

    monkeypatch.setattr(onnx_and_torch, "module_logits", wrong)
    with pytest.raises(ModelError, match="predictions differ from PyTorch's"):
        frostline.export(runs["linear"].study.path, to="torch", output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_only_an_earlier_export_is_replaced(runs: dict[str, Run], tmp_path: Path) -> None:
    study, out = runs["linear"].study.path, tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(StudyError, match="not empty"):
        frostline.export(study, output=out)
    (out / "thesis.txt").unlink()
    frostline.export(study, output=out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    frostline.export(study, output=out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(StudyError, match="no earlier delta"):
        frostline.export(study, to="delta", output=out)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(StudyError, match=r"thesis\.txt"):
        frostline.export(study, output=out)
    assert (out / "thesis.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_the_earlier_export(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out = runs["linear"].study.path, tmp_path / "out"
    frostline.export(study, output=out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("frostline.system.directories.write_atomically", full)
    with pytest.raises(StudyError, match="No space left"):
        frostline.export(study, output=out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_makes_no_sense_is_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    study = runs["linear"].study.path
    with pytest.raises(UsageError, match="Did you mean 'onnx'"):
        frostline.export(study, to="onx")
    with pytest.raises(UsageError, match="not of delta"):
        frostline.export(study, to="delta", with_preprocessing=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="is a file"):
        frostline.export(study, output=tmp_path / "file")
    with pytest.raises(StudyError, match="folder you are in"):
        frostline.export(study, output=".")


def test_the_card_is_ready_for_the_hub_and_names_no_place(runs: dict[str, Run], tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    run = runs["linear"]
    frostline.export(run.study.path, output=tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-classification", "unknown")
    assert "unknown licence. Check it" in text
    for word in (run.folder.read("config.json")["weights"], run.folder.name, "predicts", "Limits"):
        assert word in text
    for place in (str(tmp_path), str(run.study.path), str(run_images(run)), str(Path.home())):
        assert place not in text + (tmp_path / "out" / "config.json").read_text()


def test_licences_are_stated_only_where_they_are_known() -> None:
    source = {"kind": "timm", "architecture": "tf_efficientnet_lite0", "name": "lite0"}
    assert zoo.licence(source) == "apache-2.0"
    assert zoo.licence({**source, "random": True}) is None
    assert zoo.licence({**source, "name": "somebodys-file"}) is None
    assert zoo.licence({**source, "kind": "torchvision"}) is None


@pytest.mark.parametrize(
    "name", [*HOSTILE, *EVIL, "1. one", "- two", "@who www.x.y https://z :smile: _a_ **b**"]
)
def test_names_stay_text_in_markdown(name: str) -> None:
    escaped_name = model_card.escaped(name)
    html = MarkdownIt("gfm-like", {"linkify": False}).render(
        f"- {escaped_name}\n\n| a | b |\n|---|---|\n| {escaped_name} | 1 |"
    )
    tags = {
        tag.strip("</ >\n").split()[0].lower() for tag in html.split("<")[1:] for tag in [tag.split(">")[0]]
    }
    assert tags <= {"ul", "li", "p", "table", "thead", "tbody", "tr", "th", "td"}
    assert html.count("<li>") == 1
    assert html.count("<td>") == 2


def test_hostile_class_names_pass_through_every_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = frostline.load_data([(picture(k, rng), name) for k, name in enumerate(HOSTILE) for _ in range(6)])
    backbone = frostline.load_backbone(TIMM, size=SIDE, random=True)
    run = frostline.train(
        backbone, data, "linear_probe(layers=last)", study=tmp_path / "study", deterministic=True
    )
    export = frostline.export(run.study.path, output=tmp_path / "out")
    assert export.check["of"] == "small copies in the study"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["label_names"] == sorted(HOSTILE)
    assert timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).num_classes == len(HOSTILE)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "<img" not in card
    assert "\u202e" not in card
    frostline.export(run.study.path, to="delta", output=tmp_path / "delta")
    assert frostline.predict(tmp_path / "delta", tmp_path / "study" / "thumbnails").rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["delta", "out", "study"]


def test_the_command_line_says_the_same(runs: dict[str, Run], tmp_path: Path) -> None:
    arguments = ["export", str(runs["linear"].study.path), "--to", "delta", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, [*arguments, "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    output = json.loads(result.stdout)
    assert output["format"] == "delta"
    names = {"README.md", "config.json", "delta.safetensors", "fingerprints.safetensors"}
    assert {row["name"] for row in output["files"]} == names
    assert CliRunner().invoke(cli, arguments).exit_code == 0
