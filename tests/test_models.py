"""Which backbone: measured limits, out-of-fold probes, and a race of (network, strategy) pairs."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save
from torch import Tensor, nn

import frostline
from frostline import probe
from frostline.cli.main import cli
from frostline.data import Manifest
from frostline.errors import ModelError, UsageError
from frostline.models import Backbone, zoo
from frostline.models.heads import MultiStageHead
from frostline.models.zoo import efficientnet_lite, load_backbone
from frostline.selection import Limits, backbone_screening, screen
from frostline.strategies import parse_list
from frostline.studies.study_folder import digest_of
from tiny import PREPROCESSING, TinyNet, tiny_model, write_folder, write_table

pytestmark = pytest.mark.usefixtures("tiny_store")

OPTIONS = {"deterministic": True, "flip": "none", "threads": 1}
STRATEGIES = ("linear_probe", "top_k(1, epochs=1)")


def network(name: str, seed: int = 0) -> Backbone:
    """A TinyNet by another name."""
    return load_backbone(tiny_model(seed), preprocessing=PREPROCESSING, name=name)


def blind(name: str) -> Backbone:
    """A TinyNet that sees nothing: its features are 1 for every image."""
    model = tiny_model()
    nn.init.zeros_(model.blocks[2].bn.weight)
    nn.init.ones_(model.blocks[2].bn.bias)
    return frostline.load_backbone(model, preprocessing=PREPROCESSING, name=name)


class Slow(TinyNet):
    """A TinyNet that takes `pause_s` and more for one image."""

    pause_s = 0.0

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.pause_s if len(x) == 1 else 0.0)
        return super().forward(x)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """36 images to learn from, 24 to judge by, 6 to test on: with a val set a repeat is one run."""
    return write_table(tmp_path / "images", train=12, val=8, test=2)


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    """36 images to learn from, 18 to test on."""
    return frostline.load_data(write_table(tmp_path / "images", train=12, test=6), val_size=0.0)


def rows_of(
    results: list[backbone_screening.ScreeningResult],
) -> dict[str, backbone_screening.ScreeningResult]:
    return {row.model: row for row in results}


# --- measuring


@pytest.mark.usefixtures("on_processor")
def test_latency_is_of_one_image_and_size_of_the_weights_as_saved() -> None:
    slow = frostline.load_backbone(Slow().eval(), preprocessing=PREPROCESSING)
    quick_ms, size_mb, _ = backbone_screening.measure_costs(slow, classes=3, threads=1)
    slow.model.pause_s = quick_ms / 1e3 + 0.02
    slow_ms, _, given = backbone_screening.measure_costs(slow, classes=3, threads=1)
    assert slow_ms >= quick_ms + 20
    assert given < 0.7  # asleep, as if others had the processor
    saved = {classes: len(save(slow.adapt(classes).state_dict())) for classes in (3, 7)}
    assert saved[3] - 4096 < size_mb * 1e6 < saved[3]  # a file begins with names and shapes
    assert saved[7] - saved[3] == 4 * 25 * 4


@pytest.mark.usefixtures("on_processor")
def test_limits_hold_for_the_head_that_the_model_will_have(
    data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = network("one")
    n_stages = len(several.stages)
    assert backbone_screening.stages_read(several, []) is None
    assert backbone_screening.stages_read(several, parse_list("linear_probe(layers=last), top_k(1)")) is None
    for strategies, layers in (
        ("linear_probe", 4),
        ("linear_probe(layers=last), lp_ft(refit_layers=2)", 2),
        ("linear_probe(layers=auto)", n_stages),
        ("linear_probe(layers=99)", n_stages),
    ):
        assert backbone_screening.stages_read(several, parse_list(strategies)) == layers

    listen, heard = MultiStageHead._collect, list[int]()

    def slow(self: MultiStageHead, stage: int, *rest: Any) -> None:
        heard.append(stage)
        time.sleep(0.01)
        listen(self, stage, *rest)

    monkeypatch.setattr(MultiStageHead, "_collect", slow)
    rows = []
    for text in ("linear_probe(layers=last)", "linear_probe"):
        assert not heard
        strategies = parse_list(text)
        rows += screen([several], data, Limits(), strategies=strategies, threads=1, deterministic=True)
    plain, deep = rows
    assert len(set(heard)) == 4
    assert deep.latency_ms > 40.0  # of four stages that sleep 10 ms each
    saved = len(save(several.adapt(3, layers=4).state_dict()))
    assert saved - 4096 < deep.size_mb * 1e6 < saved
    limits = Limits(size_mb=(plain.size_mb + deep.size_mb) / 2)
    options = {"threads": 1, "deterministic": True}
    with pytest.raises(UsageError, match="Every network is over a limit"):
        screen([several], data, limits, strategies=parse_list("linear_probe"), **options)
    assert screen([several], data, limits, strategies=parse_list("linear_probe(layers=last)"), **options)


def test_over_a_limit_is_left_out_before_it_looks_at_an_image(
    data: Manifest, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {"slow": 20.04, "quick": 20.0, "again": 1.0}
    monkeypatch.setattr(
        backbone_screening, "measure_costs", lambda backbone, *_: (taken[backbone.name], 1.0, 1.0)
    )
    both = [network("slow", seed=2), network("quick")]
    rows = rows_of(screen(both, data, Limits(latency_ms=20.0), threads=1, deterministic=True))
    passes = len(calls)
    assert rows["quick"].selected
    assert not rows["slow"].selected
    assert rows["slow"].probe_accuracy is None
    assert rows["slow"].reason == "20.04 ms an image, over the limit of 20 ms"
    calls.clear()
    screen([network("again", seed=1)], data, Limits(), threads=1, deterministic=True)
    assert passes == len(calls) > 0  # of one network, not of two


def test_where_all_are_over_a_limit_it_says_what_was_found_and_allowed(data: Manifest) -> None:
    both = [network("one"), network("other")]
    with pytest.raises(
        UsageError, match=r"one 0\.0263\d MB, over the limit of 0\.001 MB; other 0\.0263\d MB"
    ):
        screen(both, data, Limits(size_mb=0.001), threads=1)
    with pytest.raises(UsageError, match="max_latency_ms must be above 0"):
        screen(both, data, Limits(latency_ms=-1.0), threads=1)


# --- asking


def test_the_best_probe_and_those_not_separated_from_it_go_on(data: Manifest) -> None:
    results = screen(
        [blind("blind"), network("sees"), network("twin")], data, Limits(), threads=1, deterministic=True
    )
    assert [row.model for row in results] == ["sees", "twin", "blind"]  # of equals the one named first
    sees, twin, poor = results
    assert (sees.selected, twin.selected, poor.selected) == (True, True, False)
    assert twin.probe_accuracy == sees.probe_accuracy
    assert "not significantly different from sees" in twin.reason
    assert poor.separated
    assert poor.reason.startswith("significantly worse than sees, by ")
    assert poor.probe_accuracy is not None
    assert poor.probe_accuracy < 0.5 < sees.low < sees.probe_accuracy <= sees.high
    assert sees.logme > poor.logme


def test_the_best_and_the_largest_not_separated_from_it_race(
    data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"one": 1.0, "two": 2.0, "three": 3.0, "blind": 4.0}
    monkeypatch.setattr(
        backbone_screening, "measure_costs", lambda backbone, *_: (1.0, sizes[backbone.name], 1.0)
    )
    several = [network("one"), network("two"), network("three"), blind("blind")]
    results = screen(several, data, Limits(), threads=1, deterministic=True)
    assert [row.model for row in results if row.selected] == ["one", "three"]
    two = rows_of(results)["two"]
    assert not two.separated
    assert "only 2 are trained, the best and the largest such" in two.reason


def test_looking_takes_a_share_of_the_minutes(data: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {"slow": 100.0, "one": 10.0, "two": 15.0, "three": 10.0}
    monkeypatch.setattr(backbone_screening, "_screening_s", lambda backbone, *_: needed[backbone.name])
    several = [network(name, seed) for seed, name in enumerate(needed)]
    results = screen(
        several, data, Limits(), threads=1, deterministic=True, left_s=70.0
    )  # 21 s of them for looking
    rows = rows_of(results)
    assert {name for name, row in rows.items() if row.probe_accuracy is not None} == {"one", "three"}
    assert rows["two"].reason.startswith("no time to screen it: that takes about 15 s, and 1 s are left")
    assert not rows["slow"].selected
    unasked = screen(several, data, Limits(), threads=1, deterministic=True, left_s=3.0)
    assert [(row.model, row.reason) for row in unasked if row.selected] == [
        ("one", "the quickest: there is no time to screen any")
    ]
    assert all(row.probe_accuracy is None for row in unasked)


def test_probes_are_asked_out_of_fold_and_copies_stay_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "photos", per_class=12)
    for file in sorted(folder.glob("*/*.png")):
        file.with_name(f"copy of {file.name}").write_bytes(file.read_bytes())
    data = frostline.load_data(folder, val_size=0.0, test_size=0.0)
    requests: list[Any] = []
    real = probe.answers

    def spy(seen: Any, targets: Any, classes: int, folds: Any, **rest: Any) -> Any:
        requests.extend(folds)
        return real(seen, targets, classes, folds, **rest)

    monkeypatch.setattr(probe, "answers", spy)
    screen([network("one")], data, Limits(), threads=1, deterministic=True)
    units = data.units(data.samples)
    assert len(requests) == 5
    assert sorted(np.concatenate([held for _, held in requests])) == list(range(72))
    for learned, held in requests:
        assert not set(units[learned]) & set(units[held])


def test_the_test_part_says_nothing(data: Manifest) -> None:
    turned = tuple(
        replace(s, label=data.classes[(data.classes.index(s.label) + 1) % 3]) if s.split == "test" else s
        for s in data.samples
    )
    both = [network("one"), network("other", seed=1)]
    found, other = (
        rows_of(screen(both, some, Limits(), threads=1, deterministic=True))
        for some in (data, replace(data, samples=turned))
    )
    for name, row in found.items():
        assert replace(row, latency_ms=0.0) == replace(other[name], latency_ms=0.0)


# --- racing


def fitted(images: Path, study: Path, models: Any, **more: Any) -> Any:
    options = {"strategies": STRATEGIES, "repeats": 1, "minutes": 5.0, "study": study, **OPTIONS, **more}
    return frostline.fit(images, models=models, **options)


@pytest.mark.slow
def test_survivors_race_and_go_on_after_an_interruption(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, three = tmp_path / "study", [network("first"), blind("blind"), network("second")]
    runs: list[str] = []

    def stop(line: str) -> None:
        runs.extend([line] if "(repeat 1)" in line else [])
        if len(runs) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(images, study, three, log=stop)
    before = (study / "models.json").read_text()
    monkeypatch.setattr(backbone_screening, "measure_costs", None)  # calling it would fail
    heard: list[str] = []
    result = fitted(images, study, three, log=heard.append)
    assert result.comparison.finished
    assert (study / "models.json").read_text() == before
    assert len(list(study.glob("comparisons/*"))) == 1
    assert sum("(repeat 1)" in line for line in heard) == 2  # the third was told before it was written down
    raced = {(row["model"], row["strategy"]) for row in result.tried}
    assert raced == {(m, str(frostline.parse(s))) for m in ("first", "second") for s in STRATEGIES}
    assert [row["model"] for row in result.models] == ["first", "second", "blind"]
    assert [row["selected"] for row in result.models] == [True, True, False]
    assert result.model == result.run.model == result.comparison.model in ("first", "second")
    _tells_of_all(result, study, images.parent)


def _tells_of_all(result: Any, study: Path, folder: Path) -> None:
    """The study's files, its answers and its page name the network that won, and the others."""
    document = json.loads((study / "fit.json").read_text())
    assert document["models"] == result.models
    assert document["options"]["models"] == ["first", "blind", "second"]
    assert json.loads((study / "backbone.json").read_text())["model"] == result.model
    assert frostline.predict(study, folder, module=tiny_model()).run == result.run.folder.name
    page = (study / "report.html").read_text()
    for name in ("first", "second"):
        assert f"linear_probe on {name}" in page
    assert "blind (significantly worse than first" in page
    assert f"on {result.model} has an accuracy" in " ".join(frostline.report(study).lines)
    assert "--models first,blind,second" in page
    result.plot()


def test_each_pair_is_its_own_in_the_standings(tmp_path: Path, images: Path) -> None:
    """A network that sees nothing must not be given the other's figures, nor the winner's mark."""
    data = frostline.load_data(images)
    comparison = frostline.compare(
        [blind("blind"), network("sees")],
        data,
        {"blind": ["linear_probe(layers=last)"], "sees": STRATEGIES},
        repeats=1,
        study=tmp_path / "study",
        **OPTIONS,
    )
    accuracy = {(row["model"], row["strategy"]): row["accuracy"] for row in comparison.standings}
    assert len(accuracy) == 3
    assert accuracy["blind", "linear_probe(layers=last)"] < 0.5 < accuracy["sees", "linear_probe"]
    assert comparison.model == "sees"
    assert comparison.verdict[0].startswith(f"{comparison.winner} on sees ")
    page = frostline.report(comparison.study)
    assert page.lines[0].startswith(f"{comparison.winner} on sees has an accuracy ")


def test_one_survivor_is_the_race_of_one_and_its_folder_is_what_it_was(tmp_path: Path, images: Path) -> None:
    """Studies of earlier versions go on: these keys, and no others, name the folder."""
    sees = network("sees")
    result = fitted(images, tmp_path / "study", [blind("blind"), sees])
    expected = {
        "candidates": [[str(frostline.parse(name)), "standard"] for name in STRATEGIES],
        "model": sees.digest,
        "preprocessing": sees.preprocessing.as_dict(),
        "repeats": 1,
        "seed": 0,
        "thorough": False,
        "metric": "accuracy",
        "flip": "none",
        "imbalance": "none",
        "batch_size": 32,
        "deterministic": True,
        "precision": "auto",
    }
    assert result.comparison.folder.name == digest_of(expected)[:12]
    assert "models" not in result.comparison.result
    assert "model" not in result.tried[0]
    assert [row["model"] for row in result.models] == ["sees", "blind"]


# --- asking for them


def test_what_makes_no_sense_is_refused_before_anything_is_loaded() -> None:
    nowhere = "no such folder"
    with pytest.raises(UsageError, match="not both"):
        frostline.fit(nowhere, model="lite0", models=["lite1"])
    with pytest.raises(UsageError, match="a list of names or 'auto', found 'lite0'"):
        frostline.fit(nowhere, models="lite0")
    with pytest.raises(UsageError, match="names no backbone"):
        frostline.fit(nowhere, models=[])
    with pytest.raises(UsageError, match="architecture is for one"):
        frostline.fit(nowhere, models=["lite0"], architecture="timm/resnet18")
    with pytest.raises(UsageError, match="max_size_mb must be above 0"):
        frostline.fit(nowhere, max_size_mb=0.0)


def test_names_are_told_apart_or_refused(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "photos", per_class=6)
    with pytest.raises(UsageError, match="same name: same, same"):
        frostline.fit(images, models=[network("same"), network("same", seed=1)], study=tmp_path / "s")
    with pytest.raises(ModelError, match=r"'lite9' is unknown.*Did you mean 'lite"):
        frostline.fit(images, models=["lite9"], study=tmp_path / "s")


def test_auto_is_what_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hub"
    for name, file in (("timm--tiny.a1", "model.safetensors"), ("timm--bare", "config.json")):
        place = cache / f"models--{name}" / "snapshots" / ("0" * 40)
        place.mkdir(parents=True)
        (place / file).write_bytes(b"weights")
        (cache / f"models--{name}" / "refs").mkdir()
        (cache / f"models--{name}" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))

    def packaged(package: efficientnet_lite.Package) -> Path:
        if package.name != "lite0":
            raise ModelError("not installed")
        return cache / "models--timm--bare" / "refs" / "main"

    monkeypatch.setattr(efficientnet_lite, "_packaged", packaged)
    assert zoo.on_disk() == ["lite0", "timm/tiny.a1"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    assert zoo.on_disk() == ["lite0"]


def test_auto_skips_what_cannot_be_loaded_and_says_so(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "on_disk", lambda: ["lite0", "timm/no such"])

    def load(name: str, **shape: Any) -> Backbone:
        if name != "lite0":
            raise ModelError(f"timm has no model called {name!r}.")
        return network(name)

    monkeypatch.setattr("frostline.pipelines.backbone_request.zoo.load_backbone", load)
    monkeypatch.setattr(
        "frostline.pipelines.fit_pipeline.measuring_s", lambda *_, **__: 1e4
    )  # the probe alone
    heard: list[str] = []
    result = fitted(images, tmp_path / "study", "auto", log=heard.append)
    assert [row["model"] for row in result.models] == ["lite0"]
    assert any("timm/no such is skipped: timm has no model called" in line for line in heard)
    assert result.result["options"]["models"] == "auto"
    monkeypatch.setattr(zoo, "on_disk", list)
    with pytest.raises(ModelError, match="No pretrained network is on this machine"):
        frostline.fit(images, models="auto", study=tmp_path / "other")


def ended(images: Path, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["fit", str(images), *words])
    return result.exit_code, result.output


def test_the_prompt_says_what_is_wrong(
    tmp_path: Path, warm_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = write_folder(tmp_path / "photos", per_class=6)
    code, said = ended(images, "--model", "lite0", "--models", "lite1")
    assert (code, "not both" in said) == (2, True)
    code, said = ended(images, "--models", " , ")
    assert (code, "names no network" in said) == (2, True)
    code, said = ended(images, "--models", "lite0,lite9", "--size", "32")
    assert code == 1
    assert "Model 'lite9' is unknown" in said
    code, said = ended(images, "--models", "lite0", "--size", "32", "--max-size-mb", "2.5")
    assert code == 2
    assert re.search(r"Every network is over a limit: lite0 13\.\d+ MB, over the limit of 2.5 MB", said)
    code, said = ended(images, "--models", "lite0", "--max-latency-ms", "0")
    assert (code, "x>0" in said) == (2, True)


def test_torch_is_left_as_it_was() -> None:
    threads = torch.get_num_threads()
    backbone_screening.measure_costs(network("one"), classes=3, threads=1)
    assert torch.get_num_threads() == threads
