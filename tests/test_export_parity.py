"""infer.py and the golden images: the same pixels, tensors and probabilities where frostline is not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import frostline
from deep_examples import png, tiff
from frostline.cli.main import cli
from frostline.errors import DataError, ModelError, StudyError, UsageError
from frostline.exports import golden_images, infer, quantisation
from frostline.training import Run
from tiny import picture, write_folder, write_table

SIDE = 32
# A process without these: importing them fails, as where they are not installed.
BLOCKER = """
import runpy, sys

class Filter:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, path, target)

BLOCKED = set(sys.argv[1].split(","))
sys.meta_path[:] = map(Filter, sys.meta_path)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
WITHOUT = {
    "torch": "frostline,timm,torchvision,numpy,onnxruntime,scipy,yaml",
    "onnx": "frostline,timm,torchvision,torch,onnx,scipy,yaml",
}


# --- a program and its golden images ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures as they come: turned, transparent, of 16 bits, long; with names that tell of people."""
    root = tmp_path_factory.mktemp("mixed") / "photos"
    for kind in range(3):
        rng = np.random.default_rng(kind)
        for number in range(15):
            image = picture(kind, rng)
            name = root / ("train", "val", "test")[number // 5] / f"kind {kind}" / f"Jane Doe {number}"
            name.parent.mkdir(parents=True, exist_ok=True)
            if number % 5 == 0:
                exif = Image.Exif()
                exif[0x0112] = 6
                image.resize((50, 31)).save(f"{name}.jpg", exif=exif, quality=95)
            elif number % 5 == 1:
                Path(f"{name}.png").write_bytes(png(np.asarray(image).astype(np.uint16) * 16))
            elif number % 5 == 2:
                image.putalpha(Image.fromarray(np.asarray(image)[..., 0]))
                image.save(f"{name}.png")
            elif number % 5 == 3:
                Path(f"{name}.tif").write_bytes(tiff(np.asarray(image)[..., 1].astype(np.uint16) * 14))
            else:
                image.resize((21, 64)).convert("L").save(f"{name}.webp", lossless=True)
    return root


@pytest.fixture(scope="module")
def run(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on the mixed pictures, with a temperature, of a network with random weights."""
    place = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(place / "cache"))
        data = frostline.load_data(mixed)
        backbone = frostline.load_backbone("timm/test_efficientnet", size=SIDE, random=True)
        return frostline.train(
            backbone, data, "top_k(1, epochs=1)", study=place / "study", deterministic=True, temperature=1.7
        )


@pytest.fixture(scope="module")
def program(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("program") / "out"
    return frostline.export(run.study.path, to="torch", output=out).path


def script(folder: Path, *arguments: str | Path, to: str = "torch") -> subprocess.CompletedProcess[str]:
    """Run infer.py where frostline and other libraries are not there."""
    command = [sys.executable, "-I", "-c", BLOCKER, WITHOUT[to], str(folder / "infer.py")]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, cwd=folder.parent, timeout=240
    )


def requires_parity(run: Run, folder: Path, files: list[Path], to: str, refused: Sequence[Path] = ()) -> str:
    """Assert that infer.py prints what `predict` answers, where frostline is not there.

    Returns what it says of the files that it is given beside them, and refuses.
    """
    expected = frostline.predict(run.study.path, files)
    process = script(folder, *files, *refused, to=to)
    assert process.returncode == bool(refused), process.stderr
    rows = [line.split("\t") for line in process.stdout.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in files]
    assert [row[1] for row in rows] == [prediction.label for prediction in expected]
    probabilities = [prediction.probability for prediction in expected]
    np.testing.assert_allclose([float(row[2]) for row in rows], probabilities, atol=1e-4)
    return process.stderr


def test_torch_alone_answers_as_predict_does(run: Run, program: Path, mixed: Path) -> None:
    """Without numpy, pictures of 8 bits; those of 16 are refused with a reason."""
    eight_bits = sorted([*mixed.rglob("*.jpg"), *mixed.rglob("*.webp")])
    deep = next(mixed.rglob("*.tif"))
    stderr = requires_parity(run, program, eight_bits, "torch", refused=[deep, program])
    errors = stderr.splitlines()
    assert f"{deep} holds uint16 values: images of more than 8 bits need numpy" in errors
    assert f"{program} is a folder, not a file" in errors
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_it_ends_quietly_where_its_reader_has_enough(program: Path, mixed: Path) -> None:
    picture = next(mixed.rglob("*.jpg"))
    command = [sys.executable, "-I", "-c", BLOCKER, WITHOUT["torch"], str(program / "infer.py")]
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` when it has enough
    ended = subprocess.run(
        [*command, str(picture)], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=240
    )
    os.close(writer)
    assert ended.returncode == 0
    assert "BrokenPipe" not in ended.stderr


@pytest.mark.slow
def test_with_numpy_every_picture_is_answered(
    run: Run, program: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WITHOUT, "torch", "frostline,timm,torchvision,onnxruntime")
    requires_parity(run, program, sorted(path for path in mixed.rglob("*") if path.is_file()), "torch")
    process = script(program, "--check")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "8 of 8 tensors are equal bit for bit." in process.stdout
    assert process.stdout.splitlines()[-1] == "They agree."


@pytest.mark.slow
def test_it_can_be_imported(run: Run, program: Path, mixed: Path) -> None:
    files = sorted(mixed.rglob("*.png"))[:3]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from infer import predict\n"
        "for row in predict(sys.argv[2:]): print(row.label, row.probability, sum(row.probabilities.values()))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(program), *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
    )
    for line, expected in zip(
        process.stdout.splitlines(), frostline.predict(run.study.path, files), strict=True
    ):
        label, probability, total = line.rsplit(" ", 2)
        assert label == expected.label
        assert float(probability) == pytest.approx(expected.probability, abs=1e-4)
        assert float(total) == pytest.approx(1)


def test_golden_images_are_the_most_different_of_val_without_their_names(run: Run, program: Path) -> None:
    from frostline.data import Manifest

    expected = json.loads((program / "golden" / "expected.json").read_text())
    data = Manifest.load(run.study.path / "manifest.jsonl")
    val = {sample.digest for sample in data.subset("val")}
    files = [program / "golden" / row["file"] for row in expected["images"]]
    assert expected["of"] == "validation images"
    assert len(files) == min(8, len(val))
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in files} <= val
    decoded = {frostline.data.pixels.decoding.picture(path.read_bytes()).kind for path in files}
    assert len(decoded) >= 3  # 8 bits, transparent, deep
    texts = [path.name for path in program.rglob("*")] + [(program / "golden" / "expected.json").read_text()]
    assert "Jane" not in " ".join(texts)
    with np.load(program / "golden" / "tensors.npz", allow_pickle=False) as tensors:
        assert set(tensors.files) == {row["file"] for row in expected["images"]}
        assert all(tensors[name].shape == (3, SIDE, SIDE) for name in tensors.files)


@pytest.mark.slow
def test_without_val_golden_images_are_training_images(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "data", train=4, test=2))
    backbone = frostline.load_backbone("timm/test_resnet", size=SIDE, random=True)
    run = frostline.train(backbone, data, "linear_probe", study=tmp_path / "study", views=0)
    export = frostline.export(run.study.path, to="torch", output=tmp_path / "out", with_preprocessing=True)
    assert export.golden == {"images": 8, "source": "training images", "tolerance": 1e-4}
    assert infer.agrees(infer.check(infer.Model(tmp_path / "out")))
    with np.load(tmp_path / "out" / "golden" / "tensors.npz", allow_pickle=False) as tensors:
        assert {tensors[name].dtype.name for name in tensors.files} == {"uint8"}
    files = sorted((tmp_path / "data").glob("*.png"))
    requires_parity(run, tmp_path / "out", files, "torch")


@pytest.fixture
def changed(program: Path, tmp_path: Path) -> Path:
    """A copy of the program, to be changed."""
    return Path(shutil.copytree(program, tmp_path / "out"))


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_check_tells_what_differs(changed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def agreement() -> infer.Agreement:
        return infer.check(infer.Model(changed))

    assert infer.agrees(agreement())
    golden, config = changed / "golden", changed / "config.json"
    original = config.read_text()

    edit(config, lambda content: content["preprocessing"].update(interpolation="nearest"))
    result = agreement()
    assert not infer.agrees(result)
    assert result.equal_tensors < result.images
    assert result.apart_from_tensors <= 1e-4
    assert "They do NOT agree." in infer.report(result)
    config.write_text(original)

    def reorder(content: Any) -> None:
        content["label_names"] = content["label_names"][::-1]

    edit(config, reorder)
    result = agreement()
    assert result.equal_tensors == result.images
    assert result.apart_from_tensors > 1e-4
    assert not infer.agrees(result)
    config.write_text(original)

    first = golden / "image-1.webp"
    first = first if first.exists() else next(golden.glob("image-1.*"))
    first.write_bytes(b"damaged")
    result = agreement()
    assert "is not an image" in result.faults[0]
    assert not infer.agrees(result)


def test_another_decoder_may_differ_by_rounding_alone(changed: Path) -> None:
    """Another version of Pillow: one level at some pixels is let pass, and said; a shift of all is not."""
    expected = changed / "golden" / "expected.json"
    edit(expected, lambda content: content["decoder"].update(pillow="1.0"))
    path = changed / "golden" / "tensors.npz"
    with np.load(path, allow_pickle=False) as tensors:
        arrays = dict(tensors)
    std = json.loads((changed / "config.json").read_text())["preprocessing"]["std"]
    level = 1 / (255 * max(std))
    name = next(iter(arrays))
    rounded = arrays[name].copy()
    rounded[:, ::4] += level
    for values, passes in ((rounded, True), (arrays[name] + np.float32(2.5 * level), False)):
        np.savez_compressed(path, **{**arrays, name: values})
        result = infer.check(infer.Model(changed))
        assert result.equal_tensors == result.images - 1
        # probabilities of the stored tensors are those of other pixels now: left out of this test
        relaxed = result._replace(apart_from_tensors=0.0)
        assert infer.agrees(relaxed) is passes
        assert not infer.agrees(relaxed._replace(decoder_differs=()))
        assert "pillow" in infer.report(result)
    assert not infer.agrees(relaxed._replace(apart_from_tensors=float("nan")))


def test_a_threshold_decides_for_or_against_its_class(changed: Path, mixed: Path) -> None:
    file = next(mixed.rglob("*.jpg"))
    plain = infer.Model(changed).predict([file])[0]
    least = min(plain.probabilities, key=plain.probabilities.__getitem__)

    def labelled(label: str, probability: float) -> str:
        threshold = {"label": label, "probability": probability}
        edit(changed / "config.json", lambda content: content.update(threshold=threshold))
        prediction = infer.Model(changed).predict([file])[0]
        assert prediction.probability == prediction.probabilities[prediction.label]
        return prediction.label

    assert labelled(least, 0.0) == least
    assert labelled(plain.label, 1.0) not in (plain.label, least)


COSTS = {  # a missed kind 2 is dear, a false alarm cheap
    "kind 0": {"kind 0": 0.0, "kind 1": 1.0, "kind 2": 0.1},
    "kind 1": {"kind 0": 1.0, "kind 1": 0.0, "kind 2": 0.1},
    "kind 2": {"kind 0": 9.0, "kind 1": 9.0, "kind 2": 0.0},
}


@pytest.mark.parametrize(
    "to",
    [pytest.param("torch", marks=pytest.mark.slow), pytest.param("onnx", marks=pytest.mark.ecosystem)],
)
@pytest.mark.parametrize(
    "point", [{"costs": COSTS}, {"positive": "kind 1", "min_precision": 0.2}], ids=["costs", "threshold"]
)
def test_the_rule_is_the_same_in_predict_evaluate_and_the_script(
    run: Run, mixed: Path, tmp_path: Path, to: str, point: dict[str, Any]
) -> None:
    """By it some pictures get another label than by the highest probability."""
    study = tmp_path / "study"
    shutil.copytree(run.study.path, study)
    backbone = frostline.load_backbone("timm/test_efficientnet", size=SIDE, random=True)
    options: dict[str, Any] = {"study": study, "deterministic": True, "temperature": 1.7, **point}
    same = frostline.train(backbone, frostline.load_data(mixed), "top_k(1, epochs=1)", **options)
    assert same.reused
    files = sorted([*mixed.rglob("*.jpg"), *mixed.rglob("*.webp")])
    predicted = frostline.predict(study, files, all_probabilities=True)
    labels = [row.label for row in predicted]
    assert predicted.probabilities is not None
    assert labels != [predicted.classes[place] for place in predicted.probabilities.argmax(axis=1)]
    export = frostline.export(study, to=to, output=tmp_path / "out")
    process = script(export.path, *files, to=to)
    assert process.returncode == 0, process.stderr
    assert [line.split("\t")[1] for line in process.stdout.splitlines()] == labels
    table = tmp_path / "table.csv"
    table.write_text("path,label\n" + "".join(f"{file},{file.parent.name}\n" for file in files))
    evaluation = frostline.evaluate(study, table)
    label_of = dict(zip(files, labels, strict=True))  # images that were learned from stand apart
    assert [evaluation.classes[place] for place in evaluation.predicted] == [
        label_of[tmp_path / path] for path in evaluation.paths
    ]
    assert len(evaluation.paths) == sum("test" in file.parts for file in files)
    (sentence,) = (line for line in predicted.decided_by if line.startswith("It predicts"))
    rule = "It predicts the class of the least expected cost" if "costs" in point else sentence.split(":")[0]
    card = (export.path / "README.md").read_text()
    assert rule in card.replace("\\", "")
    assert f"`{'costs' if 'costs' in point else 'threshold'}` in config.json" in card


def test_names_of_files_cannot_break_a_line(
    program: Path,
    mixed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hostile = tmp_path / "a\tb\nc\x1b[31m\u202e.jpg"
    shutil.copy(next(mixed.rglob("*.jpg")), hostile)
    monkeypatch.setattr(infer, "FOLDER", program)
    assert infer.main([str(hostile)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.count("\t") == 2
    assert "a\\tb\\nc\\x1b[31m\\u202e.jpg" in line


def test_usage_is_told_in_one_message(changed: Path) -> None:
    shutil.rmtree(changed / "golden")
    for arguments, message in (
        (["--check"], "--no-golden"),
        ([], "name image files"),
        (["--check", "x"], "or"),
    ):
        process = script(changed, *arguments)
        assert process.returncode == 2
        assert message in process.stderr
        assert "Traceback" not in process.stderr


def test_golden_images_can_be_left_out(run: Run, tmp_path: Path) -> None:
    options = ["export", str(run.study.path), "--to", "torch", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, [*options, "--no-golden", "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["golden"] is None
    assert answer["int8"] is None
    assert not (tmp_path / "out" / "golden").exists()
    assert (tmp_path / "out" / "infer.py").is_file()


def test_an_earlier_export_with_golden_images_is_replaced_alone(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    frostline.export(run.study.path, to="torch", output=out)
    (out / "golden" / "mine.txt").write_text("mine")
    with pytest.raises(StudyError, match=r"golden/mine\.txt"):
        frostline.export(run.study.path, to="torch", output=out)
    (out / "golden" / "mine.txt").unlink()
    export = frostline.export(run.study.path, to="torch", output=out)
    names = {row["name"] for row in export.files}
    assert {"infer.py", "golden/expected.json", "golden/tensors.npz"} <= names
    assert "python infer.py --check" in (out / "README.md").read_text()


def test_an_export_that_the_script_answers_otherwise_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer, "squared", lambda image, config: image.resize((SIDE, SIDE)))
    with pytest.raises(ModelError, match=r"infer\.py does not give"):
        frostline.export(run.study.path, to="torch", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_image_files_there_are_none_and_a_note_says_so(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", per_class=4)
    backbone = frostline.load_backbone("timm/test_resnet", size=SIDE, random=True)
    run = frostline.train(
        backbone, frostline.load_data(photos), "linear_probe", study=tmp_path / "s", views=0
    )
    photos.rename(tmp_path / "moved")
    export = frostline.export(run.study.path, to="torch", output=tmp_path / "out")
    assert export.golden is None
    assert any("no golden images" in note for note in export.notes)
    given = frostline.export(run.study.path, to="torch", output=tmp_path / "given", images=tmp_path / "moved")
    assert given.golden is not None
    assert given.golden["source"] == golden_images.GIVEN


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "torch", "int8": True}, "INT8 is for ONNX"),
        ({"to": "delta", "golden": False}, "Golden images come with a program"),
        ({"to": "onnx", "max_loss": 2.0}, "no effect without"),
        ({"to": "onnx", "int8": True, "max_loss": -1.0}, "0 to 100 points"),
        ({"to": "onnx", "int8": True, "max_loss": float("nan")}, "0 to 100 points"),
    ],
)
def test_options_of_int8_that_cannot_be_meant(
    run: Run, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        frostline.export(run.study.path, output=tmp_path / "out", **options)


@pytest.mark.ecosystem
@pytest.mark.parametrize("included", [False, True])
def test_onnx_runtime_alone_answers_as_predict_does(
    run: Run, mixed: Path, tmp_path: Path, included: bool
) -> None:
    export = frostline.export(run.study.path, to="onnx", output=tmp_path / "out", with_preprocessing=included)
    requires_parity(run, export.path, sorted(path for path in mixed.rglob("*") if path.is_file()), "onnx")
    process = script(export.path, "--check", to="onnx")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "8 of 8 tensors are equal bit for bit." in process.stdout


@pytest.mark.ecosystem
def test_int8_is_measured_on_val_and_written_with_its_figures(run: Run, tmp_path: Path) -> None:
    import onnx

    out = tmp_path / "out"
    options = ["export", str(run.study.path), "--to", "onnx", "--int8", "--max-loss", "100", "--json"]
    result = CliRunner().invoke(cli, [*options, "--output", str(out)])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)["int8"]
    data = frostline.data.Manifest.load(run.study.path / "manifest.jsonl")
    assert figures["of"] == "validation images"
    assert figures["new_images"] is True
    assert figures["images"] == len(data.subset("val"))
    assert figures["calibration_images"] == len(data.subset("train"))
    assert figures["loss"] == pytest.approx(100 * (figures["accuracy_float"] - figures["accuracy_int8"]))
    labels = {str(data.root / sample.path): sample.label for sample in data.subset("val")}
    predictions = frostline.predict(run.study.path, list(labels))
    right = [prediction.label == labels[prediction.path] for prediction in predictions]
    assert figures["accuracy_float"] == pytest.approx(np.mean(right))
    int8_right = [row.label == labels[row.path] for row in infer.Model(out).predict(labels)]
    assert figures["accuracy_int8"] == pytest.approx(np.mean(int8_right))
    assert min(figures["latency_float_ms"], figures["latency_int8_ms"]) > 0
    model = onnx.load(out / "model.onnx")
    operators = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    assert {"label_names", "preprocessing"} <= {entry.key for entry in model.metadata_props}
    assert sorted(path.name for path in out.glob("*.onnx")) == ["model.onnx"]
    card = (out / "README.md").read_text()
    assert f"{100 * figures['accuracy_int8']:.1f} %" in card
    assert "in float32" in card
    process = script(out, "--check", to="onnx")
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.ecosystem
def test_int8_that_loses_too_much_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_logits = quantisation.onnx_logits

    def wrong(path: Path, *arguments: Any) -> Any:
        logits = real_logits(path, *arguments)
        return (lambda pixels: np.roll(logits(pixels), 1, axis=1)) if "int8" in path.name else logits

    monkeypatch.setattr(quantisation, "onnx_logits", wrong)
    monkeypatch.setattr(
        quantisation, "_subsets", lambda data: (list(data.subset("train")),) * 2 + ("images",)
    )
    with pytest.raises(ModelError, match=r"INT8 loses .* a loss of at most 0\.5 points\. .*max_loss"):
        frostline.export(run.study.path, to="onnx", output=tmp_path / "out", int8=True, max_loss=0.5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ecosystem
def test_int8_that_loses_too_much_recall_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it keeps its accuracy: a threshold was chosen for the recall of a class."""
    half = quantisation.PositiveClass("kind 2", "recall", 4, 1.0, 0.5, 1.0, 1.0)
    monkeypatch.setattr(quantisation, "_positive", lambda *arguments: half)
    expected = r"Recall of kind 2 .* 50\.0 % after.* at most 40 points of accuracy and of recall\."
    with pytest.raises(ModelError, match=expected):
        frostline.export(run.study.path, to="onnx", output=tmp_path / "out", int8=True, max_loss=40)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ecosystem
def test_int8_without_val_is_a_loss_of_quantising(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "data", train=8, test=2))
    backbone = frostline.load_backbone("timm/test_resnet", size=SIDE, random=True)
    run = frostline.train(backbone, data, "linear_probe", study=tmp_path / "study", views=0)
    export = frostline.export(
        run.study.path, to="onnx", output=tmp_path / "out", int8=True, max_loss=100, with_preprocessing=True
    )
    assert export.int8 is not None
    assert export.int8["calibration_images"] + export.int8["images"] == 24
    assert export.int8["new_images"] is False
    text = " ".join(export.notes)
    assert "training images that calibration did not use" in text
    assert "not accuracy on new images" in text
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="INT8 is calibrated"):
        frostline.export(run.study.path, to="onnx", output=tmp_path / "more", int8=True)


@pytest.fixture(scope="module")
def winner(tmp_path_factory: pytest.TempPathFactory) -> frostline.Comparison:
    """The winner of a comparison, which has learned from all images of train and val."""
    place = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(place / "cache"))
        data = frostline.load_data(write_table(place / "data", train=8, val=4, test=2))
        backbone = frostline.load_backbone("timm/test_resnet", size=SIDE, random=True)
        strategies = "linear_probe,head(epochs=1)"
        comparison = frostline.compare(backbone, data, strategies, study=place / "study", repeats=1)
    assert comparison.every_image
    return comparison


def test_golden_images_of_a_winner_are_training_images(winner: frostline.Comparison, tmp_path: Path) -> None:
    """It has learned from val, too."""
    export = frostline.export(winner.study.path, to="torch", output=tmp_path / "out")
    assert export.golden is not None
    assert export.golden["source"] == "training images"
    expected = json.loads((export.path / "golden" / "expected.json").read_text())
    assert expected["of"] == "training images"
    assert not any("validation images" in note for note in export.notes)


@pytest.mark.ecosystem
def test_int8_of_a_winner_is_a_loss_of_quantising(winner: frostline.Comparison, tmp_path: Path) -> None:
    """None of the images that it has learned from, val among them, is called new."""
    export = frostline.export(
        winner.study.path, to="onnx", output=tmp_path / "out", int8=True, max_loss=100, golden=False
    )
    assert export.int8 is not None
    assert export.int8["of"] == "training images that calibration did not use"
    assert export.int8["calibration_images"] + export.int8["images"] == 3 * (8 + 4)
    assert json.loads((export.path / "config.json").read_text())["int8"]["new_images"] is False
    text = " ".join(export.notes)
    assert "not accuracy on new images" in text
    assert "validation images" not in text
    card = (export.path / "README.md").read_text()
    assert "The figures in this list were measured with the float32 model" in card


@pytest.mark.ecosystem
@pytest.mark.parametrize("by", ["threshold", "costs"])
def test_int8_is_counted_as_the_model_decides(run: Run, mixed: Path, tmp_path: Path, by: str) -> None:
    """By its threshold or costs, before and after; recall and precision of the class stand beside it."""
    study, out = tmp_path / "study", tmp_path / "out"
    shutil.copytree(run.study.path, study)
    point: dict[str, Any] = {"costs": COSTS}
    if by == "threshold":
        point = {"positive": "kind 2", "min_precision": 0.2}
    backbone = frostline.load_backbone("timm/test_efficientnet", size=SIDE, random=True)
    options: dict[str, Any] = {"study": study, "deterministic": True, "temperature": 1.7, **point}
    assert frostline.train(backbone, frostline.load_data(mixed), "top_k(1, epochs=1)", **options).reused
    export = frostline.export(study, to="onnx", output=out, int8=True, max_loss=100, golden=False)
    figures = export.int8
    assert figures is not None
    data = frostline.data.Manifest.load(study / "manifest.jsonl")
    labels = {str(data.root / sample.path): sample.label for sample in data.subset("val")}
    truth = list(labels.values())
    predictions = frostline.predict(study, list(labels), all_probabilities=True)
    before = [row.label for row in predictions]
    after = [row.label for row in infer.Model(out).predict(labels)]
    assert predictions.probabilities is not None
    highest = [predictions.classes[place] for place in predictions.probabilities.argmax(axis=1)]
    assert np.mean(np.array(before) == truth) != np.mean(np.array(highest) == truth)
    assert figures["decided_by"] == by
    assert figures["accuracy_float"] == pytest.approx(np.mean(np.array(before) == truth))
    assert figures["accuracy_int8"] == pytest.approx(np.mean(np.array(after) == truth))
    assert figures["changed"] == np.sum(np.array(before) != after)
    text, card = " ".join(export.notes), (out / "README.md").read_text()
    assert f"validation images, decided by its {by}: {100 * figures['accuracy_float']:.1f} % before" in text
    promise = ", and the recall or precision that it promises," if by == "threshold" else ""
    assert f"The figures in this list{promise} were measured with the float32 model" in card
    assert json.loads((out / "config.json").read_text())["int8"]["positive"] == figures["positive"]
    if by == "costs":
        assert figures["positive"] is None
        return
    own = np.array(truth) == "kind 2"
    positive = figures["positive"]
    assert (positive["label"], positive["images"]) == ("kind 2", own.sum())
    for name, answers in (("float", before), ("int8", after)):
        predicted = np.array(answers) == "kind 2"
        found = (own & predicted).sum()
        assert positive[f"recall_{name}"] == pytest.approx(found / own.sum())
        assert positive[f"precision_{name}"] == pytest.approx(found / predicted.sum())
    sentence = f"Recall of kind 2 (5 of these images): {100 * positive['recall_float']:.1f} % before"
    assert sentence in text
    assert sentence in card


def test_a_figure_of_no_image_is_unknown() -> None:
    """No image is of the class, or none is predicted as it."""
    none, zeros, ones = np.array([0, 0]), np.array([0, 0]), np.array([1, 0])
    positive = quantisation.PositiveClass.of("x", "recall", 1, none, zeros, ones)
    assert (positive.recall_float, positive.precision_float) == (None, None)
    assert (positive.recall_int8, positive.precision_int8) == (None, 0.0)
    assert positive.text == (
        "Recall of x (0 of these images): unknown before and unknown after; precision: unknown before and "
        "0.0 % after."
    )


@pytest.mark.parametrize(("aim", "loss"), [("recall", 50.0), ("precision", 0.0)])
def test_what_a_threshold_was_chosen_for_has_a_loss(aim: str, loss: float) -> None:
    """Recall falls from both images to one; both answers are right where they name the class."""
    targets, before, after = np.array([1, 1, 0]), np.array([1, 1, 0]), np.array([1, 0, 0])
    positive = quantisation.PositiveClass.of("x", aim, 1, targets, before, after)
    assert positive.loss == pytest.approx(loss)


NETWORKS = (
    "test_byobnet",
    "test_convnext",
    "test_efficientnet",
    "test_mambaout",
    "test_nfnet",
    "test_resnet",
    "test_vit",
    "lcnet_035",
    "mobilenetv3_small_050",
    "resnet10t",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_ten_networks_three_exports(name: str, mixed: Path, tmp_path: Path) -> None:
    """Torch, ONNX and INT8, each asked where frostline is not there; random weights."""
    data = frostline.load_data(mixed)
    size = 64 if name in ("lcnet_035", "mobilenetv3_small_050", "resnet10t") else SIDE
    backbone = frostline.load_backbone(f"timm/{name}", size=size, random=True)
    run = frostline.train(backbone, data, "linear_probe", study=tmp_path / "study", views=0)
    files = sorted(path for path in mixed.rglob("*") if path.is_file())
    eight_bits = [path for path in files if path.suffix in (".jpg", ".webp")]
    for to, int8 in (("torch", False), ("onnx", False), ("onnx", True)):
        options: dict[str, Any] = {"int8": True, "max_loss": 100.0} if int8 else {}
        out = tmp_path / f"{to}{' int8' * int8}"
        export = frostline.export(run.study.path, to=to, output=out, **options)
        print(name, out.name, export.check["largest_difference"], export.golden, export.int8)
        if not int8:
            requires_parity(run, out, files if to == "onnx" else eight_bits, to)
        if to == "onnx":
            process = script(out, "--check", to=to)
            assert process.returncode == 0, process.stdout + process.stderr
