"""Nothing is fetched without being asked for. The hub is one on this machine; no test reaches another."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import save
from torch.utils.flop_counter import FlopCounterMode

import frostline
from frostline.cli.main import cli
from frostline.errors import ModelError, UsageError
from frostline.models import zoo
from frostline.models.zoo import architectures, downloading, hub_access
from frostline.models.zoo.catalogue import ENTRIES
from hub import Hub, standing_in

NAME = "timm/test_resnet.r160_in1k"
SIZE = "about 2 MB, licence apache-2.0"


@pytest.fixture(scope="module")
def weights() -> bytes:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return save(timm.create_model("test_resnet").state_dict())


@pytest.fixture
def hub(weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has one network; nothing was fetched from it yet."""
    with standing_in({f"{NAME}/model.safetensors": weights, f"{NAME}/config.json": b"{}"}) as standing:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        for name, value in {
            "HF_HUB_OFFLINE": False,
            "ENDPOINT": standing.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": standing.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))
        yield standing


def answering(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Have a person at a terminal who writes this line."""
    stdin, stderr = io.StringIO(line), io.StringIO()
    for stream in (stdin, stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(sys, "stderr", stderr)


def test_a_program_is_refused_in_one_sentence_that_names_the_option(hub: Hub) -> None:
    for download in (None, False):
        with pytest.raises(ModelError, match="not on this machine") as caught:
            frostline.load_backbone(NAME, download=download)
        assert "--download" in str(caught.value)
        assert "download=True" in str(caught.value)
        assert f"{SIZE}, from {hub.address}/{NAME}" in str(caught.value)
        assert "On this disk: lite0" in str(caught.value)
    assert not hub.asked  # not even whether it is there


def test_what_is_asked_for_is_announced_fetched_once_and_right(
    hub: Hub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = frostline.load_backbone(NAME, download=True)
    assert f"Fetching {NAME}: {SIZE}, from {hub.address}/{NAME}." in capfd.readouterr().err
    assert hub.fetched() == [f"{NAME}/model.safetensors"]
    count = len(hub.asked)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    start = time.perf_counter()
    again = frostline.load_backbone(NAME, download=False)  # is there: no hub is asked about it
    assert time.perf_counter() - start < 4
    assert len(hub.asked) == count
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plain = timm.create_model("test_resnet").eval()
    assert all(
        torch.equal(value, fetched.model.state_dict()[key]) for key, value in plain.state_dict().items()
    )
    assert again.digest == fetched.digest
    assert "state_dict" not in fetched.model.pretrained_cfg
    assert NAME in zoo.on_disk()


@pytest.mark.parametrize("line", ["y\n", "Yes\n"])
def test_a_person_who_says_yes_gets_it(line: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, line)
    frostline.load_backbone(NAME)
    assert f"{SIZE}, from {hub.address}/{NAME}.\nFetch it? [y/N]" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert hub.fetched()


@pytest.mark.parametrize("line", ["\n", "n\n", "", "what?\n"])
def test_a_person_who_says_anything_else_does_not(
    line: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, line)
    with pytest.raises(ModelError, match="were not fetched"):
        frostline.load_backbone(NAME)
    assert not hub.fetched()


@pytest.mark.parametrize("source", [NAME, "hf/someone/thing", "torchvision/resnet18"])
def test_without_a_network_it_is_said_at_once(source: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nobody)
    monkeypatch.setattr("frostline.models.zoo.architectures.TORCHVISION_FILES", nobody)
    start = time.perf_counter()
    with pytest.raises(ModelError, match=f"{nobody} does not respond within 4 s. On this disk: lite0"):
        frostline.load_backbone(source, download=True)
    assert time.perf_counter() - start < 5


def test_a_network_that_swallows_everything_is_waited_for_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up a name takes no heed of time-outs: a resolver that is gone holds it for half a minute."""
    monkeypatch.setattr(hub_access, "forbidden", lambda: False)
    monkeypatch.setattr(hub_access, "TIMEOUT_S", 0.1)
    over = threading.Event()

    def swallow(*_: object, **__: object) -> None:
        over.wait(10)
        raise OSError("no such name")

    monkeypatch.setattr("urllib.request.urlopen", swallow)
    start = time.perf_counter()
    assert not hub_access.online("http://swallowed.invalid")
    assert time.perf_counter() - start < 1
    over.set()


def test_offline_is_respected_and_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ModelError, match=r"no hub is contacted, since HF_HUB_OFFLINE is set. On this disk: lite0"
    ):
        frostline.load_backbone(NAME, download=True)
    assert not hub.asked


def test_what_breaks_off_leaves_nothing_that_looks_whole(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, weights: bytes
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    hub.broken_after = len(weights) // 2
    with pytest.raises(ModelError, match="could not be fetched"):
        frostline.load_backbone(NAME, download=True)
    assert NAME not in zoo.on_disk()
    hub.broken_after = None
    frostline.load_backbone(NAME, download=True)
    assert NAME in zoo.on_disk()


def test_what_the_hub_has_not_is_said(hub: Hub) -> None:
    hub.files.clear()
    with pytest.raises(ModelError, match=r"could not be fetched \(.*404"):
        frostline.load_backbone(NAME, download=True)


@pytest.mark.parametrize("right", [True, False])
def test_torchvisions_files_are_fetched_whole_or_not_at_all(
    right: bool, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = architectures._torchvision_weights("squeezenet1_1")
    model = architectures.architecture("torchvision/squeezenet1_1").build_seeded()
    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    digest = hashlib.sha256(content.getvalue() if right else b"another").hexdigest()[:8]
    name = f"squeezenet1_1-{digest}.pth"
    hub.files[name] = content.getvalue()
    url = f"{hub.address}/{name}"
    load = partial(torch.hub.load_state_dict_from_url, url)
    shown = SimpleNamespace(url=url, meta=real.meta, transforms=real.transforms, get_state_dict=load)
    monkeypatch.setattr(architectures, "_torchvision_weights", lambda name: shown)
    monkeypatch.setattr(architectures, "TORCHVISION_FILES", hub.address)
    if right:
        fetched = frostline.load_backbone("torchvision/squeezenet1_1", size=64, download=True)
        assert torch.equal(fetched.model.features[0].weight, model.features[0].weight)  # type: ignore[index, union-attr]
        frostline.load_backbone("torchvision/squeezenet1_1", size=64)
        assert hub.fetched() == [name]
    else:
        with pytest.raises(ModelError, match=r"could not be fetched \(RuntimeError: invalid hash"):
            frostline.load_backbone("torchvision/squeezenet1_1", size=64, download=True)
        assert not list((tmp_path / "torch").rglob("*.pth*"))


def test_fit_asks_before_it_reads_images(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not on this machine"):
        frostline.fit(tmp_path / "nothing there", models=["lite0", NAME])
    with pytest.raises(UsageError, match="on disk"):
        frostline.fit(tmp_path, models="auto", download=True)


@pytest.mark.slow
def test_the_command_line_end_to_end(weights: bytes, tmp_path: Path) -> None:
    """In a process of its own, where huggingface_hub takes the hub's address from the environment."""
    with standing_in({f"{NAME}/model.safetensors": weights}) as standing:
        own = {"HF_ENDPOINT": standing.address, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-m", "frostline", "stages", NAME, "--download", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | own)
    assert done.returncode == 0, done.stderr
    assert f"Fetching {NAME}: {SIZE}, from {standing.address}/{NAME}." in done.stderr
    assert json.loads(done.stdout)["stages"]
    assert standing.fetched() == [f"{NAME}/model.safetensors"]


def test_the_command_line_refuses_without_the_option(hub: Hub, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["train", str(tmp_path), "--model", NAME])
    assert done.exit_code == 1
    assert re.search(r"not on this machine.*--download", done.output)


# --- the list


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_list_says_what_timm_says(entry: zoo.catalogue.Entry) -> None:
    name = entry.config.removeprefix("timm/")
    config = timm.get_pretrained_cfg(name)
    assert config.license == entry.licence
    assert config.input_size == (3, entry.input_size, entry.input_size)
    assert config.hf_hub_id == entry.config
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *config.input_size))
    assert sum(value.numel() for value in model.parameters()) == entry.parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(entry.gmacs, abs=0.006)


def test_models_lists_what_is_here(hub: Hub, warm_cache: Path) -> None:
    frostline.load_backbone(NAME, download=True)
    done = CliRunner().invoke(cli, ["models", "--json"])
    rows = {row["name"]: row for row in json.loads(done.stdout)["models"]}
    assert rows["lite0"]["on_disk"]
    assert not rows["timm/resnet50.a1_in1k"]["on_disk"]
    assert json.loads(done.stdout)["others_on_disk"] == [NAME]
    shown = CliRunner().invoke(cli, ["models"]).stdout
    assert f"Also on this disk: {NAME}." in shown
    assert "about 102 MB" in shown


def test_a_licence_that_is_not_known_is_not_invented() -> None:
    offer = hub_access.Offer("hf/a/b", "https://hub/a/b", "https://hub")
    assert "licence not stated here, from https://hub/a/b" in downloading.how(offer)
