"""No one is let in: nothing is unpickled, a stranger's study is only data, nothing calls out."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pickle
import socket
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import save, save_file

import frostline
import studies
from frostline.data import Manifest, Sample
from frostline.errors import DataError, FrostlineError, ModelError, StudyError
from frostline.models.zoo import architectures
from frostline.reports import study_reader
from frostline.studies.best_run import best_of
from frostline.studies.study_folder import FORMAT, Study
from frostline.training.resilience import checkpoint
from tiny import PREPROCESSING, tiny_backbone, tiny_model, write_folder

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

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


@pytest.mark.parametrize("older", range(1, FORMAT))
def test_a_study_of_another_format_is_refused_in_one_sentence(tmp_path: Path, older: int) -> None:
    place = studies.fitted(tmp_path / "study")
    card = json.loads((place / "study.json").read_text())
    (place / "study.json").write_text(json.dumps({**card, "format": older}))
    manifest = place / "manifest.jsonl"
    header, *samples = manifest.read_text().splitlines()
    keys = json.loads(header)
    earlier = {"set_aside": keys.pop("skipped"), "said": keys.pop("findings")}
    before = json.dumps({**keys, **earlier, "frostline_manifest": 1})
    manifest.write_text("\n".join([before, *samples]))
    pictures = write_folder(tmp_path / "photos", per_class=4)
    for ask in (
        lambda: frostline.predict(place, pictures),
        lambda: frostline.report(place),
        lambda: frostline.export(place, output=tmp_path / "out"),
        lambda: frostline.load_backbone(str(place)),
        lambda: frostline.train(tiny_backbone(), frostline.load_data(pictures), "head", study=place),
    ):
        formats = rf"\(study format {older}, this one reads {FORMAT}\)"
        with pytest.raises(StudyError, match=f"another version of frostline {formats}"):
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
