"""After training each image is decoded and passed once: for figures, doubts, drift and pictures together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import frostline
from frostline.data import Manifest, PredictionInput, Sample, prediction_inputs
from frostline.feature_extraction import ForwardConfig, ForwardPass, image_batches
from frostline.feature_extraction.forward_pass import EvenlyTaken
from frostline.feature_extraction.image_batches import Images, PassRates
from frostline.inference import error_gallery, selective_prediction
from frostline.inference.prediction import predict_probabilities
from frostline.inference.predictor import Predictor
from frostline.models.stage_statistics import TRIED
from frostline.system import numerics
from frostline.training import run_evaluation
from tiny import live_logits, tiny_backbone, write_folder, write_table

TRAIN, VAL, TEST = 30, 12, 15  # images


@pytest.mark.parametrize("strategy", ["full(epochs=1)", "top_k(1, epochs=1)"])
def test_each_image_is_decoded_and_passed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    backbone = tiny_backbone()
    data = frostline.load_data(write_table(tmp_path / "images", train=10, val=4, test=5), near_copies=False)
    assert [len(data.subset(subset)) for subset in ("train", "val", "test")] == [TRAIN, VAL, TEST]
    decoded: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    original, over = backbone.model.get_submodule("blocks.2.conv"), list[bool]()
    predict_subsets, read = run_evaluation.predict_subsets, Manifest.read

    def trained(*arguments: Any) -> Any:
        over.append(True)
        return predict_subsets(*arguments)

    def counted(manifest: Manifest, sample: Sample) -> Any:
        decoded[sample.path] += bool(over)
        return read(manifest, sample)

    def count(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if over and isinstance(module, torch.nn.Conv2d) and module.out_channels == 24:
            passed["original" if module is original else "adapted"] += len(inputs[0])

    monkeypatch.setattr(run_evaluation, "predict_subsets", trained)
    monkeypatch.setattr(Manifest, "read", counted)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    options: dict[str, Any] = {"deterministic": True, "flip": "none", "threads": 1}
    try:
        run = frostline.train(backbone, data, strategy, study=tmp_path / "study", **options)
    finally:
        hook.remove()
    assert over
    assert max(decoded.values()) == 1, "an image was decoded twice after training"
    assert passed["adapted"] <= TRAIN + VAL + TEST + 1  # one tells which layer's maps are pooled
    assert passed["original"] <= VAL + TRIED  # empty images show where stages end
    familiar = selective_prediction.read(run.folder.path)
    assert familiar is not None
    assert (len(familiar.features), len(familiar.distances)) == (TRAIN, VAL)
    assert run.result["drift"]["blocks.2"] > 0
    assert (run.folder.path / "error-gallery.json").is_file()


@pytest.mark.usefixtures("on_processor")
def test_the_pass_gives_what_the_plain_network_gives(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    data = frostline.load_data(write_table(tmp_path / "images", train=4, test=0), test_size=0.0)
    images = Images(data, data.samples, backbone.preprocessing)
    model = backbone.adapt(3, seed=1)
    pixels = torch.stack([images[(position, 0)] for position in range(len(images))])
    with torch.no_grad():
        maps = model.blocks(model.stem(images.preprocessing.normalise(pixels)))  # type: ignore[operator]
    for cut in backbone.cuts:
        forward = ForwardPass(backbone, model, cut, ForwardConfig(numerics.exact_plan(1), 8))
        outputs = list(forward(images))
        assert [batch.positions for batch in outputs] == [range(8), range(8, 12)]
        assert torch.allclose(torch.cat([batch.features for batch in outputs]), maps.mean((2, 3)), atol=1e-5)
        assert np.allclose(forward.logits(images), live_logits(model, images), atol=1e-5)


def test_a_share_of_the_taken_images_is_found_in_its_batches() -> None:
    counts = np.zeros(5, dtype=int)
    for share in (slice(0, 50), slice(50, 100)):
        taken = EvenlyTaken(100, 5, share)
        for first in range(0, 50, 16):
            places, rows = taken.within(range(first, min(first + 16, 50)))
            counts[places] = [share.start + first + row for row in rows]
    assert counts.tolist() == [0, 25, 50, 74, 99]


def test_maps_along_a_pass_are_those_of_a_pass_of_their_own() -> None:
    backbone = tiny_backbone()
    model = backbone.adapt(3, seed=1)
    pixels = torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8)
    along = error_gallery.ClassMaps(backbone, model, pixels[:1])
    with along.recording(), torch.no_grad():
        model(backbone.preprocessing.normalise(pixels))
    maps, own = along.of([1, 3], [0, 2]), error_gallery.class_maps(backbone, model, pixels[[1, 3]], [0, 2])
    assert maps is not None
    assert own is not None
    assert np.allclose(maps, own, atol=1e-4)


def test_two_models_are_asked_about_an_image_that_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone()
    models = [
        Predictor(backbone.adapt(3, seed=seed), ["a", "b", "c"], backbone.preprocessing) for seed in (1, 2)
    ]
    inputs = prediction_inputs(write_folder(tmp_path / "images", per_class=2))
    decoded: Counter[str] = Counter()
    picture = PredictionInput.picture

    def counted(item: PredictionInput) -> Any:
        decoded[item.name] += 1
        return picture(item)

    monkeypatch.setattr(PredictionInput, "picture", counted)
    both = predict_probabilities(models, inputs)
    assert sorted(decoded.values()) == [1] * 6
    for model, predicted in zip(models, both, strict=True):
        assert np.array_equal(
            predicted.probabilities, predict_probabilities([model], inputs)[0].probabilities
        )
    assert not np.allclose(both[0].probabilities, both[1].probabilities)


# --- rates --------------------------------------------------------------------------------------------


def test_a_run_says_what_decoding_and_the_network_take(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=10, val=4, test=5), near_copies=False)
    run = frostline.train(tiny_backbone(), data, "full(epochs=2)", study=tmp_path / "s", workers=2, threads=1)
    assert run.decoding["workers"] == 2
    assert run.decoding["images_per_s"] > 0
    assert run.decoding["network_images_per_s"] > 0
    assert run.decoding["waited_s"] >= 0


def test_rates_are_of_threads_and_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images decoded in 2 s by four threads are 20 a second; waiting is no part of the network's rate."""
    clock = iter([0.0, 3.0, 4.0, 6.0, 7.0, 7.0])
    rates = PassRates(decoded=10, decoding_s=2.0)
    monkeypatch.setattr(image_batches, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert len(list(rates.of_pass(iter([torch.zeros(6, 3), torch.zeros(4, 3)])))) == 2
    assert rates.as_dict(4) == {
        "images_per_s": 20.0,
        "network_images_per_s": 5.0,
        "waited_s": 5.0,
        "by_torchcodec": 0,
    }
    doubled = rates + rates
    assert (doubled.decoded, doubled.passed, doubled.waited_s) == (20, 20, 10.0)


def test_a_starved_device_is_said() -> None:
    starved, fed = PassRates(passing_s=1.0, waited_s=3.0), PassRates(passing_s=3.0, waited_s=1.0)
    assert "cuda:0 waited 3 s for pixels and computed 1 s: decoding by 2 threads" in starved.starved(
        2, "cuda:0"
    )
    assert fed.starved(2, "cuda:0") == ""
    assert starved.starved(2, "cpu") == ""  # its cores decode
    assert "by 1 thread is too slow for it. Give more workers, smaller" in starved.starved(0, "cuda:0")
