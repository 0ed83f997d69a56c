"""No one is let in: nothing is unpickled, names stay in their folder, sizes have limits, nothing calls out.

The readers are fuzzed at length by benchmarks/fuzz.py; here its targets run on seeds damaged at random, and
what it found has a test each.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import json
import os
import pickle
import random
import socket
import sqlite3
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save, save_file

import frostline
import studies
from frostline.data import Manifest, Sample
from frostline.data.pixels import decoding
from frostline.data.sources import file_listing
from frostline.data.sources.table_cells import MAX_COLUMNS
from frostline.data.sources.tables import read_table
from frostline.errors import CacheWarning, DamagedImage, DataError, FrostlineError, ModelError, StudyError
from frostline.feature_cache import FeatureCache, Form, key_of, shard_file
from frostline.models import Preprocessing
from frostline.models.zoo import architectures
from frostline.reports import study_reader
from frostline.studies.best_run import best_of
from frostline.studies.study_folder import Study
from frostline.training.resilience import checkpoint
from tiny import PREPROCESSING, tiny_backbone, tiny_model, write_folder, write_table

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import fuzz

SOURCES = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))


# --- nothing is unpickled ---------------------------------------------------------------------------------

FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
    "runpy",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}  # as bare names: `model.eval()` is another thing
HARMLESS = {  # the name of an error, to catch it; a count of cores
    ("pickle", "UnpicklingError"),
    ("joblib", "cpu_count"),
    ("yaml", "safe_load"),  # plain values alone
    ("yaml", "safe_dump"),
    ("yaml", "YAMLError"),
    ("yaml", "compose"),  # the text's nodes, before anything is made of them
    ("yaml", "MappingNode"),
}


def forbidden(tree: ast.AST) -> Iterator[str]:
    """Say what in a source could run a file's content as a program."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            yield from (a.name for a in node.names if (node.module, a.name) not in HARMLESS)
        elif isinstance(node, ast.Call):
            yield from _forbidden_call(node)


def _forbidden_call(node: ast.Call) -> Iterator[str]:
    keywords = {word.arg: word.value for word in node.keywords}
    name = ast.unparse(node.func)
    if name in FORBIDDEN_CALLS:
        yield name
    if name == "torch.load" or name.endswith(("get_state_dict", "load_state_dict_from_url")):
        value = keywords.get("weights_only")
        if not (isinstance(value, ast.Constant) and value.value is True):
            yield f"{name} without weights_only=True"
    if name.endswith(
        ("np.load", "numpy.load", "read_pickle", "torch.jit.load", "torch.hub.load", "torch.package")
    ):
        yield name
    if "allow_pickle" in keywords or "trust_remote_code" in keywords or "shell" in keywords:
        yield f"{name} with {', '.join(keywords)}"


def test_no_source_can_run_what_it_reads() -> None:
    calls_by_file = {path.name: list(forbidden(ast.parse(path.read_text()))) for path in SOURCES}
    assert len(calls_by_file) > 100
    assert {name: calls for name, calls in calls_by_file.items() if calls} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "eval(text)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_the_scan_would_find_it(line: str) -> None:
    assert list(forbidden(ast.parse(line)))


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """What the payload would make; a test that leaves it has let someone in."""
    path = tmp_path / "owned"
    yield path
    assert not path.exists()


def evil(path: Path, mark: Path, *, new: bool = True) -> Path:
    """Write a torch file that carries a payload."""
    torch.save(
        {"state_dict": {"a": torch.zeros(1)}, "b": Payload(mark)}, path, _use_new_zipfile_serialization=new
    )
    return path


def test_the_payload_works(tmp_path: Path) -> None:
    torch.load(evil(tmp_path / "a.pth", tmp_path / "made"), weights_only=False)
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("ending", ["pth", "pt", "bin", "safetensors", "PTH"])
@pytest.mark.parametrize("new", [True, False])
def test_a_malicious_file_of_weights_is_refused(tmp_path: Path, mark: Path, ending: str, new: bool) -> None:
    path = evil(tmp_path / f"weights.{ending}", mark, new=new)
    with pytest.raises(ModelError, match=r"holds more than tensors|not a readable \.safetensors"):
        frostline.load_backbone(str(path), architecture="timm/test_resnet")
    path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(ModelError):
        frostline.load_backbone(str(path), architecture="timm/test_resnet")


def test_a_torch_file_of_tensors_alone_is_read(tmp_path: Path) -> None:
    model = architectures.architecture("timm/test_resnet").build_seeded()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pth")
    backbone = frostline.load_backbone(str(tmp_path / "a.pth"), architecture="timm/test_resnet")
    mine, theirs = backbone.model.state_dict(), model.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_weights_that_the_hub_left_on_disk_are_not_unpickled(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    path = str(evil(tmp_path / "pytorch_model.bin", mark))
    config = timm.get_pretrained_cfg("test_resnet")
    assert config is not None
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda _id, _name: path)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *_, **__: path)
    monkeypatch.setattr("timm.models._hub._get_safe_alternatives", lambda _name: [])
    with pytest.raises(ModelError, match="holds more than tensors"):
        frostline.load_backbone("timm/test_resnet")


def test_weights_that_torchvision_left_on_disk_are_not_unpickled(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import SqueezeNet1_1_Weights

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    evil(tmp_path / "checkpoints" / SqueezeNet1_1_Weights.DEFAULT.url.rsplit("/", 1)[-1], mark)
    with pytest.raises(ModelError, match="holds more than tensors"):
        frostline.load_backbone("torchvision/squeezenet1_1")


def test_a_malicious_checkpoint_is_not_gone_on_from(tmp_path: Path, mark: Path) -> None:
    evil(tmp_path / checkpoint.STATE, mark)
    with pytest.raises(StudyError, match="damaged"):
        checkpoint.read(tmp_path, tiny_model())


def test_malicious_weights_of_a_study_are_refused(tmp_path: Path, mark: Path) -> None:
    place = strangers(tmp_path, {})
    evil(best_of(Study(place)).folder.weights, mark)
    with pytest.raises(StudyError, match="cannot be loaded"):
        frostline.load_model(place)
    with pytest.raises(StudyError, match="cannot be loaded"):
        frostline.load_backbone(str(place))


def test_a_compressed_torch_file_is_refused_before_it_grows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(50_000_000))
    with pytest.raises(ModelError, match="is compressed"):
        frostline.load_backbone(str(tmp_path / "a.pth"), architecture="timm/test_resnet")


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 90_000_000) + b"{}",
        save({"a": torch.zeros(4), "b": torch.zeros(4)}).replace(b"[16,32]", b"[0,16] "),  # overlapping
        save({"a": torch.zeros(4)}).replace(b"[4]", b"[9]"),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not a readable"):
        frostline.load_backbone(str(tmp_path / "a.safetensors"), architecture="timm/test_resnet")


# --- a study from a stranger ------------------------------------------------------------------------------


def strangers(tmp_path: Path, config: dict[str, Any], answer: Any = None) -> Path:
    """A study whose answering run says of itself what is given."""
    place = studies.fitted(tmp_path / "study")
    run = best_of(Study(place)).folder
    source = {
        "kind": "timm",
        "architecture": "test_resnet",
        "size": None,
        "preprocessing": PREPROCESSING.as_dict(),
    }
    right = {**run.read("config.json"), "preprocessing": PREPROCESSING.as_dict(), "source": source}
    studies.write(run.path / "config.json", {**right, **config})
    studies.write(run.path / "result.json", {**run.read("result.json"), "temperature": 1.0})
    save_file({"a": torch.zeros(1)}, run.weights)
    if answer is not None:
        studies.write(place / "answer.json", answer)
    return place


@pytest.mark.parametrize(
    "where",
    [
        "../../elsewhere",
        "/etc",
        "runs/../../..",
        "runs",
        "runs/..",
        "runs/a\0b",
        "runs/" + "x" * 300,
        7,
        None,
        ["runs/a"],
    ],
)
def test_an_answer_outside_of_the_study_is_refused(tmp_path: Path, where: Any) -> None:
    place = strangers(tmp_path, {}, {"run": where, "why": "because"})
    (outcome,) = place.glob("comparisons/*/comparison.json")
    document = json.loads(outcome.read_text())
    for at_work in (False, True):  # a winner's place, and that of the leader of a comparison at work
        if at_work:
            outcome.unlink()
        else:
            studies.write(outcome, {**document, "run": where})
        for ask in (frostline.load_model, lambda p: frostline.predict(p, tmp_path)):
            with pytest.raises(StudyError, match=r"as one of its runs|cannot be read"):
                ask(place)
        assert frostline.report(place).path.parent == place


def test_a_run_that_is_a_link_out_of_the_study_is_refused(tmp_path: Path) -> None:
    place = strangers(tmp_path, {})
    (place / "runs").mkdir(exist_ok=True)
    (place / "runs" / "out").symlink_to(tmp_path)
    with pytest.raises(StudyError, match="as one of its runs"):
        Study(place).run_at("runs/out")


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "timm", "architecture": "hf-hub:someone/model"},
        {"kind": "timm", "architecture": "local-dir:/tmp"},
        {"kind": "torchvision", "architecture": "os.system"},
        {"kind": "os", "architecture": "system"},
        {"kind": "timm", "architecture": "test_resnet", "num_classes": 10**12},
        {"kind": "timm", "architecture": "vit_base_patch16_224", "size": 10**9},
        {"kind": "timm", "architecture": ["test_resnet"]},
        {"kind": "hf"},
        {"kind": "hf", "config": {"model_type": "vit", "auto_map": {"AutoModel": "someone/code--m.M"}}},
        {"kind": "hf", "config": {"model_type": "timm_wrapper", "architecture": "hf-hub:someone/model"}},
        {},
    ],
)
def test_a_study_builds_only_networks_that_are_listed(
    tmp_path: Path, source: dict[str, Any], no_network: list[str]
) -> None:
    place = strangers(tmp_path, {"source": {"preprocessing": PREPROCESSING.as_dict(), **source}})
    with pytest.raises((ModelError, StudyError)):
        frostline.load_model(place)
    with pytest.raises((ModelError, StudyError)):
        frostline.load_backbone(str(place))
    assert not no_network


@pytest.mark.parametrize(
    "config",
    [
        {"classes": "cat"},
        {"classes": [1, 2]},
        {"classes": ["a"] * 100_001},
        {"source": "timm"},
        {"strategy": None},
        {"strategy": "__import__('os')"},
        {"source": {"kind": "timm", "architecture": "test_resnet", "preprocessing": {"size": 10**9}}},
        {"source": {"kind": "timm", "architecture": "test_resnet"}},
    ],
)
def test_a_run_that_says_nonsense_of_itself_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(FrostlineError):
        frostline.load_model(strangers(tmp_path, config))
    with pytest.raises(FrostlineError):
        frostline.load_backbone(str(tmp_path / "study"))


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "text", [DEEP, "NaN", "[]", '{"run": NaN}', "", "\ufffd", '{"a": 1, "a": 2}', "1" * 5000]
)
@pytest.mark.parametrize(
    "name", ["study.json", "answer.json", "fit.json", "manifest.jsonl", "comparisons/abc/comparison.json"]
)
def test_any_text_in_a_study_is_borne(tmp_path: Path, name: str, text: str) -> None:
    place = studies.fitted(tmp_path / "study")
    (place / name).write_text(text)
    study_reader.read(place)
    study = Study.existing(place)
    for ask in (lambda: study.card, lambda: best_of(study), lambda: Manifest.load(place / name)):
        with contextlib.suppress(FrostlineError):
            ask()


def test_a_study_of_another_format_is_refused_in_one_sentence(tmp_path: Path) -> None:
    place = studies.fitted(tmp_path / "study")
    card = json.loads((place / "study.json").read_text())
    (place / "study.json").write_text(json.dumps({**card, "format": 1}))
    pictures = write_folder(tmp_path / "photos", per_class=4)
    for ask in (
        lambda: frostline.predict(place, pictures),
        lambda: frostline.report(place),
        lambda: frostline.export(place, output=tmp_path / "out"),
        lambda: frostline.load_backbone(str(place)),
        lambda: frostline.train(tiny_backbone(), frostline.load_data(pictures), "head", study=place),
    ):
        with pytest.raises(
            StudyError, match=r"another version of frostline \(study format 1, this one reads 2\)"
        ):
            ask()


def test_metrics_that_are_no_text_are_said(tmp_path: Path) -> None:
    run = Study(studies.trained(tmp_path / "study")).runs()[0]
    (run.path / "metrics.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(StudyError, match=r"metrics\.jsonl cannot be read"):
        run.metrics()
    (run.path / "metrics.jsonl").write_text(DEEP)
    assert run.metrics() == []


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "../../../../outside"},
        {"digest": "A" * 64},
        {"label": 7},
        {"split": "elsewhere"},
        {"label": "of no class"},
        {"path": None},
    ],
)
def test_a_manifest_with_other_than_words_is_refused(change: dict[str, Any]) -> None:
    row = {"path": "a.png", "label": "a", "digest": "0" * 64, "group": "", "split": "train", **change}
    made = Manifest(None, (Sample(**row),), ("a", "b"))
    with pytest.raises(DataError, match="damaged"):
        Manifest.from_json(made.to_json())


# --- names ------------------------------------------------------------------------------------------------

NAMES = [
    "../../x",
    "..",
    "CON",
    "nul.png",
    "a:b",
    "x" * 200,
    "a\nb",
    "\u202egnp",
    "-rf",
    "{{7*7}}",
    "%2e%2e%2f",
]


def test_labels_of_any_kind_write_nothing_outside_of_the_study(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    write_table(inside / "images", classes=2, train=6, test=2)
    with open(inside / "images" / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = ["../../x", "/" + "y" * 300 + "\u202e"]
    table = inside / "images" / "odd.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "group"])
        for number, row in enumerate(rows):
            writer.writerow([row["path"], labels[int(row["label"][-1])], row["split"], f"../{number}"])
    before = files_of(tmp_path, but=inside / "study")
    backbone = frostline.load_backbone(tiny_model(), preprocessing=PREPROCESSING, name="../../net")
    data = frostline.load_data(table, near_copies=False)
    run = frostline.train(backbone, data, "head(epochs=1)", study=inside / "study", flip="none", threads=1)
    frostline.report(inside / "study")
    assert set(data.classes) == set(labels)
    assert run.folder.path.parent == inside / "study" / "runs"
    assert files_of(tmp_path, but=inside / "study") == before


def files_of(folder: Path, but: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if but not in (path, *path.parents)}


@pytest.mark.parametrize("name", NAMES)
def test_a_class_folder_of_any_name_is_a_label(tmp_path: Path, name: str) -> None:
    if "/" in name or name == "..":
        return
    write_folder(tmp_path, classes=1, per_class=4)
    (tmp_path / name).mkdir()
    Image.new("RGB", (9, 9), (0, 200, 0)).save(tmp_path / name / "a.png")
    assert name in frostline.load_data(tmp_path, near_copies=False).classes


def test_pipes_sockets_loops_and_links_out_are_borne(tmp_path: Path) -> None:
    root, outside = tmp_path / "images", tmp_path / "outside"
    write_folder(root, classes=2, per_class=4)
    outside.mkdir()
    Image.new("RGB", (9, 9), (200, 200, 0)).save(outside / "linked.png")
    place = root / "kind 0"
    os.mkfifo(place / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as door:
        here = Path.cwd()
        os.chdir(place)  # a socket's name has 108 bytes
        try:
            door.bind("door.jpg")
        finally:
            os.chdir(here)
    (place / "zero.jpg").symlink_to("/dev/zero")
    (place / "itself.jpg").symlink_to("itself.jpg")
    (place / "up").symlink_to(root)
    (place / "out").symlink_to(outside)
    data = frostline.load_data(root, near_copies=False)
    gone = {Path(one.path).name: one.reason for one in data.set_aside}
    assert set(gone) == {"pipe.jpg", "door.jpg", "zero.jpg", "itself.jpg"}
    assert "pipe or a device" in gone["zero.jpg"]
    assert len(data.samples) == 9  # the linked picture counts: the person put the link there


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_damaged_archives_are_no_source(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError):
        frostline.load_data(tmp_path / name)


def test_paths_too_long_for_a_file_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        file_listing.find_images(tmp_path / ("x" * 300))
    long = "x" * 300
    (tmp_path / "a.csv").write_text(f"path,label\n{long}\\a.png,cat\n../{long},dog\na\0b,cat\n")
    assert len(read_table(tmp_path / "a.csv").images) == 3


def test_a_store_from_a_stranger_deletes_nothing_outside(tmp_path: Path) -> None:
    place, victim = tmp_path / "store", tmp_path / "victim"
    victim.write_text("mine")
    with FeatureCache(place) as store:
        shelf = store.prefix({"a": 1})
        shelf.put([key_of("0" * 64, "0")], np.zeros((1, 16), dtype=np.uint8), Form("float32", (4,)))
        shelf.flush()
    with sqlite3.connect(place / "index.sqlite") as connection:
        connection.execute("UPDATE shards SET name = '../victim'")
    connection.close()
    with FeatureCache(place) as store, pytest.warns(CacheWarning, match="names the file"):
        store.clear()
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    "form", ['["float32", [-1, -4], 0]', '["float32", [4611686018427387904], 0]', DEEP, "7", "[[], 1, 2]"]
)
def test_forms_of_rows_that_no_layer_has_are_refused(form: str) -> None:
    with pytest.raises(ValueError):
        Form.from_json(form)


def test_a_shard_that_names_no_shelf_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file as save_arrays

    about = {"format": str(shard_file.FORMAT), "form": '["float32", [4], false]', "keys": "", "checks": ""}
    save_arrays({"rows": np.zeros((0, 16), dtype=np.uint8)}, tmp_path / "a", metadata=about)
    with pytest.raises(ValueError, match="not a whole shard"):
        shard_file.contents(tmp_path / "a")


# --- sizes ------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes) -> bytes:
    """A PNG that declares a size and holds whatever chunks are wanted before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = zlib.compress(b"".join(b"\0" + bytes(3 * min(width, 64)) for _ in range(min(height, 64))))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


BOMB = zlib.compress(bytes(200_000_000), 9)


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (1, 1), (0, 5)])
def test_a_declared_size_out_of_range_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DamagedImage):
        decoding.decode(png(*size))


@pytest.mark.parametrize(
    "extra",
    [chunk(b"zTXt", b"a\0\0" + BOMB), chunk(b"iCCP", b"a\0\0" + BOMB), chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)],
)
def test_chunks_that_would_unpack_to_hundreds_of_megabytes_do_not(extra: bytes) -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        with contextlib.suppress(DamagedImage):
            decoding.decode(png(8, 8, extra))
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_animations_give_their_first_frame_and_large_exif_is_borne() -> None:
    frames = [Image.new("RGB", (16, 16), (n, 0, 0)) for n in range(200)]
    made = io.BytesIO()
    frames[0].save(made, format="WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decoding.decode(made.getvalue()).getpixel((0, 0)) == (0, 0, 0)
    made = io.BytesIO()
    frames[0].save(made, format="JPEG", exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff" + bytes(60_000))
    assert decoding.decode(made.getvalue()).size == (16, 16)


@pytest.mark.parametrize(
    "content", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7"]
)
def test_formats_that_are_programs_are_refused(content: bytes) -> None:
    with pytest.raises(DamagedImage):
        decoding.decode(content)


def test_a_file_too_large_to_be_an_image_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(decoding.MAX_FILE_BYTES + 1)  # a hole: no disk is filled
    with pytest.raises(DamagedImage, match="cannot be decoded"):
        decoding.open_image(tmp_path / "a.jpg")


def test_preprocessing_has_a_largest_size() -> None:
    with pytest.raises(ModelError, match="4096"):
        Preprocessing.from_dict({**PREPROCESSING.as_dict(), "size": 10**6})
    with pytest.raises(ModelError, match="not a preprocessing"):
        Preprocessing.from_dict({**PREPROCESSING.as_dict(), "size": "64"})


def test_tables_have_a_largest_width_and_a_short_message(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"column{n}" for n in range(1_000_000)) + "\n")
    with pytest.raises(DataError, match="1,000,000 columns") as caught:
        read_table(tmp_path / "a.csv")
    assert len(str(caught.value)) < 2000
    names = ["path", "label", *(f"c{n}" for n in range(MAX_COLUMNS - 2))]
    (tmp_path / "b.csv").write_text(",".join(names) + "\n" + "a.png,x\n" * 20_000)
    assert len(read_table(tmp_path / "b.csv").images) == 1  # and 20,000 rows didn't grow to 200 million cells
    (tmp_path / "c.csv").write_text("path,label\n" + "x" * 200_000 + ",cat\n")
    with pytest.raises(DataError, match="field larger than field limit"):
        read_table(tmp_path / "c.csv")


def test_a_parquet_file_that_claims_billions_of_rows_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    from frostline.data.sources import table_cells

    table = pyarrow.table({"path": ["a"] * 100, "label": ["x"] * 100})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_cells, "MAX_ROWS", 99)
        with pytest.raises(DataError, match="100 rows"):
            read_table(tmp_path / "a.parquet")


# --- nothing calls out ------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuse every connection and every look-up of a name; returns what was tried, Unix sockets aside."""
    tried: list[str] = []
    connect = socket.socket.connect

    def refused(*value: Any, **_: Any) -> NoReturn:
        tried.append(str(value))
        raise OSError("no network in this test")

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_UNIX:
            connect(self, address)
        else:
            refused(address)

    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refused)
    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket.socket, "connect_ex", refused)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # the guard must hold without it
    return tried


@pytest.mark.slow
def test_the_whole_story_calls_nobody(tmp_path: Path, no_network: list[str]) -> None:
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("example.org", 80))
    no_network.clear()
    data = frostline.load_data(write_folder(tmp_path / "images", classes=2, per_class=20), near_copies=False)
    frostline.load_backbone("timm/test_resnet", random=True, size=32)
    backbone, module = tiny_backbone(), tiny_model()
    frostline.measure(backbone, data)
    study = tmp_path / "study"
    frostline.train(backbone, data, "head(epochs=1)", study=study, flip="none", threads=1)
    comparison = frostline.compare(
        backbone, data, ["linear_probe", "head(epochs=1)"], study=tmp_path / "c", repeats=1
    )
    frostline.report(study)
    frostline.report(comparison.study)
    assert len(frostline.predict(study, tmp_path / "images", module=module)) == 40
    assert no_network == []


# --- the readers, damaged at random -----------------------------------------------------------------------


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_damaged_input_is_answered_or_refused(name: str) -> None:
    rng = random.Random(name)
    seeds = fuzz.seeds(name)
    for data in [
        *seeds,
        *(fuzz.damaged(rng.choice(seeds), rng) for _ in range(2 if name in ("page", "study") else 25)),
    ]:
        if (error := fuzz.once(name, data)) is not None:
            raise error


def test_the_short_form_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fuzz.TARGETS, "csv", lambda data, folder: json.loads("{"))
    assert isinstance(fuzz.once("csv", b""), ValueError)
    monkeypatch.setitem(fuzz.TARGETS, "csv", lambda data, folder: os.write(2, b"a decoder's own words"))
    assert isinstance(fuzz.once("csv", b""), fuzz.StrayOutput)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS, WORDS, st.sampled_from(["train", "val", "test"])), max_size=5))
def test_a_manifest_of_any_words_reads_back(rows: list[tuple[str, str, str, str]]) -> None:
    samples = tuple(
        Sample(path, label, f"{n:064x}", group, part) for n, (path, label, group, part) in enumerate(rows)
    )
    made = Manifest(None, samples, tuple(sorted({label for _, label, _, _ in rows})))
    assert Manifest.from_json(made.to_json()) == made


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("runs/plit.0\\ab-_\0 ~"), max_size=30))
def test_a_run_is_never_found_outside(where: str) -> None:
    study = Study("/somewhere/study")
    try:
        path = study.run_at(where).path
    except StudyError:
        return
    assert path.is_relative_to(study.path)
    assert ".." not in path.parts


@settings(max_examples=50, deadline=None)
@given(WORDS, WORDS)
def test_keys_of_rows_differ_where_image_or_view_does(one: str, other: str) -> None:
    a, b = key_of("0" * 64, one), key_of("0" * 64, other)
    assert len(a) == shard_file.KEY_BYTES
    assert (a == b) == (one == other)
