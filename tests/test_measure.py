"""`measure`: one pass, every depth probed honestly, and a modest answer where there is little to say."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import frostline
from frostline import feature_extraction, probe
from frostline import models as bb
from frostline.data import Manifest, Sample
from frostline.data.pixels.decoding import Picture
from frostline.data.sample_reader import SampleReader
from frostline.diagnostics import measure, measurement, similarity, stage_probes, transferability
from frostline.diagnostics.activation_statistics import ActivationRecorder, blocks_of
from frostline.diagnostics.pretraining_similarity import similarity_from
from frostline.diagnostics.stage_features import stage_features
from frostline.errors import ModelError, UsageError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import ForwardConfig, Frozen, padded
from frostline.feature_extraction.image_batches import EVALUATION_BATCH, Images
from frostline.probe import Folds
from frostline.strategies import SEVERAL
from frostline.system import numerics
from tiny import PREPROCESSING, tiny_backbone, write_folder, write_table

PLAN = numerics.exact_plan(1)


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=20), near_copies=False, val_size=0.0)


def calls_of(backbone: bb.Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the images that pass the first convolution."""
    seen: list[int] = []
    stem = backbone.model.get_submodule("stem.conv")
    stem.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return seen


# --- one pass -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_processor")
def test_a_glance_sees_what_every_cut_answers(data: Manifest) -> None:
    backbone = tiny_backbone()
    images = Images(data, data.subset("train")[:10], PREPROCESSING)
    features = stage_features(backbone, images, PLAN)
    (pixels,) = images.batches([[(position, 0) for position in range(10)]])
    x = PLAN.batch(padded(pixels, EVALUATION_BATCH), PREPROCESSING.normalise)
    assert list(features.features) == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    for cut, rows in zip(backbone.cuts[1:], features.features.values(), strict=True):
        with torch.no_grad():
            z = bb.prefix(backbone, backbone.model, cut)(x)[:10]
        direct = z.mean(dim=(2, 3)) if z.ndim == 4 else z
        np.testing.assert_allclose(rows, direct.numpy(), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        top = backbone.model(x).softmax(1).amax(1)[:10]
    np.testing.assert_allclose(features.confidence, top.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        None,
        "timm/vit_tiny_patch16_224",
        "timm/resnet18",
        "timm/convnext_atto",
        pytest.param("timm/densenet121", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("on_processor")
def test_a_glance_sees_what_a_linear_probe_reads(name: str | None, data: Manifest) -> None:
    """Stage by stage, modules of other stages are called, too: the statistics are those of one pass."""
    backbone = tiny_backbone() if name is None else frostline.load_backbone(name, random=True, size=64)
    images = Images(data, data.subset("train")[:6], backbone.preprocessing)
    measured = stage_features(backbone, images, PLAN)
    config = ForwardConfig(PLAN, EVALUATION_BATCH)
    whole = Frozen(backbone, backbone.model, backbone.cuts[-1], config, None, layers=SEVERAL)
    last = list(measured.features.values())[-1]
    np.testing.assert_allclose(
        np.concatenate([last, measured.statistics], axis=1),
        feature_extraction.features_and_statistics(whole, images),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_probe_of_several_stages_is_what_training_finds(data: Manifest, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    several = measure(backbone, data, random=False, rates=False, threads=1).linear_probe
    assert several is not None
    run = frostline.train(
        backbone, data, "linear_probe", study=tmp_path, precision="float32", pixels="auto", threads=1
    )
    assert several.layers == run.layers
    assert 0 <= several.low <= several.accuracy <= several.high <= 1
    assert run.cv_score == pytest.approx(several.accuracy, abs=0.1)  # of other folds


def test_images_that_were_looked_at_are_read(data: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    few, all_ = (Images(data, data.subset("train")[:n], PREPROCESSING) for n in (10, 30))
    with FeatureCache() as cache:
        stage_features(backbone, few, PLAN, cache=cache)
        done_counts: list[int] = []
        features = stage_features(
            backbone, all_, PLAN, cache=cache, progress=lambda what, done, total: done_counts.append(total)
        )
    assert done_counts == [20]  # the ten that are known are not computed again
    fresh = stage_features(backbone, all_, PLAN)
    assert all(np.array_equal(features.features[stage], rows) for stage, rows in fresh.features.items())
    assert np.array_equal(features.confidence, fresh.confidence)


def test_measuring_twice_passes_once(data: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    seen = calls_of(backbone, monkeypatch)
    first = measure(backbone, data, random=False, rates=False)
    assert sum(seen) <= len(data.subset("train")) + EVALUATION_BATCH + 1  # one pass, its last batch filled up
    seen.clear()
    assert measure(backbone, data, random=False, rates=False) == first
    assert not seen


def test_random_weights_are_looked_at_beside_what_is_known(
    data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone()
    plain = measure(backbone, data, random=False, rates=False)
    assert all(row.random is None for row in plain.probe_by_stage)
    monkeypatch.delattr(measurement, "_measure_signals")  # of the pretrained network all is known
    both = measure(backbone, data, rates=False)
    assert all(row.random is not None for row in both.probe_by_stage)
    assert [row.accuracy for row in both.probe_by_stage] == [row.accuracy for row in plain.probe_by_stage]
    assert measure(backbone, data, random=False, rates=False) == plain


def test_of_many_images_a_share_is_probed_by_stage_and_all_give_linear_probe_and_the_curve(
    data: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measurement, "MOST_PROBED", 30)
    monkeypatch.setattr(measurement, "PROBED_A_CLASS", 1)
    backbone = tiny_backbone()
    signals = measure(backbone, data, random=False, rates=False)
    assert signals.n_measured == len(data.subset("train")) == 60
    assert signals.linear_probe is not None
    assert signals.linear_probe.images == 60  # of all, as training computes their features
    assert any("30 of 60" in note for note in signals.notes)
    assert [point.images for point in signals.curve] == pytest.approx([12, 24, 48], abs=1)
    some = measurement.class_balanced_subset(data, data.subset("train"), 30, 0)
    alone = similarity(
        backbone, Images(data, some, PREPROCESSING, fast=True), PLAN, units=data.units(some).tolist()
    )
    assert signals.similarity == alone
    run = frostline.train(backbone, data, "linear_probe", study=tmp_path / "study", flip="none")
    assert run.features["computed"] == len(
        data.subset("test")
    )  # training finds what the curve was drawn from


class ChannelsLast(nn.Module):
    """Passes its maps on as (n, h, w, c), as Swin does, and uses no module that can be hooked."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.body = nn.Linear(6, 10)
        self.scale = nn.Parameter(torch.ones(10))
        self.head = nn.Linear(10, classes)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.stem(x)).permute(0, 2, 3, 1)
        return self.head((torch.relu(self.body(z)) * self.scale).mean((1, 2)))


def test_maps_with_channels_last_are_averaged_over_places(data: Manifest) -> None:
    backbone = frostline.load_backbone(ChannelsLast().eval(), preprocessing=PREPROCESSING)
    images = Images(data, data.subset("train")[:10], PREPROCESSING)
    assert {
        stage: rows.shape[1] for stage, rows in stage_features(backbone, images, PLAN).features.items()
    } == {
        "stem": 6,
        "body": 10,
    }


def test_a_network_that_cannot_be_listened_to_is_measured_without_similarity(data: Manifest) -> None:
    backbone = frostline.load_backbone(ChannelsLast(1).eval(), preprocessing=PREPROCESSING)
    signals = measure(backbone, data, rates=False)
    assert signals.similarity is None
    assert signals.confidence is None  # a head of one number is always sure
    assert len(signals.probe_by_stage) == 2
    assert any("can be hooked" in note for note in signals.notes)
    assert any("random weights is skipped" in note for note in signals.notes)  # `scale` can't be made afresh
    assert all(row.random is None for row in signals.probe_by_stage)


def test_a_network_without_a_cut_is_one_clear_message(data: Manifest) -> None:
    loose = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    backbone = frostline.load_backbone(loose.eval(), preprocessing=PREPROCESSING)
    assert len(backbone.cuts) == 1  # what one image answers depends on the others
    with pytest.raises(ModelError, match="can't be cut"):
        measure(backbone, data)


def test_a_network_in_pieces_is_heard_as_one(data: Manifest) -> None:
    """Its BatchNorm layers stand in the network itself, where a piece that starts later feeds them NaN."""
    flat = nn.Sequential(
        *(
            layer
            for c in ((3, 8), (8, 12), (12, 16))
            for layer in (nn.Conv2d(*c, 3, 2, 1), nn.BatchNorm2d(c[1]))
        ),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    with torch.no_grad():
        flat.train()(torch.randn(64, 3, 16, 16))
    backbone = frostline.load_backbone(flat.eval(), preprocessing=PREPROCESSING)
    assert len(backbone.cuts) > 2
    images = Images(data, data.subset("train"), PREPROCESSING)
    blocks = blocks_of(len(images), None)
    whole = ActivationRecorder(backbone, backbone.model, int(blocks.max()) + 1)
    whole.set_blocks(blocks)
    (pixels,) = images.batches([[(position, 0) for position in range(len(images))]])
    with torch.no_grad(), whole.recording():
        backbone.model(PREPROCESSING.normalise(pixels))
    score = similarity(backbone, images, PLAN)
    assert score.value == pytest.approx(similarity_from(backbone, whole, blocks).value, abs=1e-5)


def test_similarity_is_the_one_that_is_measured_alone(data: Manifest) -> None:
    backbone = tiny_backbone()
    images = Images(data, data.subset("train"), PREPROCESSING, fast=True)
    alone = similarity(backbone, images, PLAN, units=data.units(images.samples).tolist())
    assert measure(backbone, data, random=False, rates=False, threads=1).similarity == alone


# --- what each depth knows ----------------------------------------------------------------------------


def clusters(n: int, width: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % 3
    centres = rng.normal(size=(3, width)) * apart
    return (centres[targets] + rng.normal(size=(n, width))).astype(np.float32), targets


def folds_of(n: int, k: int = 5) -> Folds:
    order = np.random.default_rng(1).permutation(n)
    parts = np.array_split(order, k)
    return [(np.setdiff1d(order, part), part) for part in parts]


def test_a_closed_form_probe_of_more_features_than_images_does_not_flatter_itself() -> None:
    noise, targets = clusters(60, 400, 0.0)
    probes = stage_probes.probe_stages({"noise": noise}, targets, np.arange(60), 3, folds_of(60))[0]
    assert probes.low <= 1 / 3 <= probes.high
    assert probes.random is None


def test_out_of_fold_accuracy_is_what_new_images_get() -> None:
    features, targets = clusters(4000, 300, 0.09)
    few = stage_probes.probe_stages({"x": features[:300]}, targets[:300], np.arange(300), 3, folds_of(300))[0]
    accuracies = []
    for l2 in probe.RIDGE_GRID:
        head = probe.ridge(features[:240], targets[:240], 3, l2=l2)
        accuracies.append((head.logits(features[300:]).argmax(1) == targets[300:]).mean())
    assert min(accuracies) < max(accuracies) < 0.99
    assert few.low <= max(accuracies) <= few.high


def test_probes_see_the_stage_that_knows_and_width_alone_is_not_knowledge() -> None:
    (known, targets), (wide, _) = clusters(150, 20, 1.0), clusters(150, 800, 0.0, seed=3)
    rows = stage_probes.probe_stages(
        {"early": known, "late": wide}, targets, np.arange(150), 3, folds_of(150)
    )
    assert rows[0].accuracy > 0.9 > 0.5 > rows[1].accuracy
    twin = stage_probes.accuracies({"early": wide[:, :20], "late": wide}, targets, 3, folds_of(150))
    assert twin["early"] < 0.5
    assert twin["late"] == rows[1].accuracy  # the same probe
    for name in ("log_me", "h_score", "neighbours"):
        assert getattr(rows[0], name) > getattr(rows[1], name)


def test_a_curve_rises_with_the_images() -> None:
    features, targets = clusters(400, 60, 0.35)
    points = stage_probes.learning_curve(features, targets, np.arange(400), 3, folds_of(400), seed=0)
    assert [point.images for point in points] == pytest.approx([80, 160, 320], abs=3)
    assert points[0].accuracy < points[2].accuracy
    assert all(p.low <= p.accuracy <= p.high for p in points)


def test_log_me_is_the_evidence_of_a_linear_model() -> None:
    """By the definition: y ~ N(0, F Fᵀ / alpha + I / beta), maximised over both."""
    features, targets = clusters(40, 6, 0.5)
    from scipy.optimize import minimize
    from scipy.stats import multivariate_normal

    x, y = features.astype(np.float64), (targets == 0).astype(np.float64)

    def minus_evidence(logs: np.ndarray) -> float:
        alpha, beta = np.exp(logs)
        covariance = x @ x.T / alpha + np.eye(len(x)) / beta
        return -float(multivariate_normal(np.zeros(len(x)), covariance).logpdf(y)) / len(x)

    best = -minimize(minus_evidence, np.zeros(2), method="Nelder-Mead").fun
    each = [transferability.log_me(features, np.where(targets == label, 0, 1), 1) for label in range(3)]
    assert each[0] == pytest.approx(best, abs=1e-3)
    assert transferability.log_me(features, targets, 3) == pytest.approx(np.mean(each), abs=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-5, 1e12])
def test_scores_of_dead_and_of_exploding_features_are_numbers(scale: float) -> None:
    """Random weights of deep networks give both."""
    for width in (6, 400):
        features, targets = clusters(45, width, 0.5)
        score = transferability.log_me((scale * features).astype(np.float32), targets, 3)
        assert np.isfinite(score)
        assert np.isfinite(transferability.h_score((scale * features).astype(np.float32), targets, 3))
        if scale:
            assert score == pytest.approx(transferability.log_me(features, targets, 3), abs=1e-4)


def test_h_score_is_bounded_by_classes() -> None:
    apart, targets = clusters(300, 10, 50.0)
    assert transferability.h_score(apart, targets, 3) == pytest.approx(2.0, abs=0.05)
    mixed, targets = clusters(300, 10, 0.0)
    assert transferability.h_score(mixed, targets, 3) < 0.2


# --- modest answers -----------------------------------------------------------------------------------


def test_signals_are_plain_data_with_what_the_command_promises(data: Manifest) -> None:
    signals = measure(tiny_backbone(), data).as_dict()
    assert {"value", "low", "high", "by_stage"} <= set(signals["similarity"])
    assert signals["n_images"] == len(data.samples)
    assert signals["n_classes"] == 3
    assert [row["stage"] for row in signals["probe_by_stage"]] == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    assert all(0 <= row["random"] <= 1 for row in signals["probe_by_stage"])
    assert signals["best_stage"] in signals["similarity"]["by_stage"]
    assert signals["learning_curve"][-1]["accuracy"] == signals["probe_by_stage"][-1]["accuracy"]
    assert signals["size"]["per_class"] == (20, 20, 20)
    assert signals["size"]["resolution"] == (20, 20)


def test_three_images_get_a_modest_answer(tmp_path: Path) -> None:
    few = frostline.load_data(
        write_folder(tmp_path / "few", classes=3, per_class=1), test_size=0.0, val_size=0.0
    )
    signals = measure(tiny_backbone(), few, rates=False)
    assert signals.similarity is None
    assert signals.best_stage is None
    assert len(signals.notes) == 2


def test_one_group_tells_of_no_other(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=5, test=0)
    lines = table.read_text().splitlines()
    table.write_text("\n".join([f"{lines[0]},group", *(f"{line},one patient" for line in lines[1:])]))
    data = frostline.load_data(table, near_copies=False, val_size=0.0, test_size=0.0)
    signals = measure(tiny_backbone(), data, rates=False)
    assert signals.similarity is not None
    assert (signals.similarity.low, signals.similarity.high) == (0.0, 1.0)
    assert all(0.0 <= near <= 1.0 for near in signals.similarity.by_stage.values())
    assert signals.confidence is not None
    assert (signals.confidence.low, signals.confidence.high) == (0.0, 1.0)


def test_random_weights_and_unproven_networks_say_so(data: Manifest) -> None:
    import timm

    model = timm.create_model("test_vit", num_classes=10, img_size=64).eval()
    backbone = frostline.load_backbone(model, preprocessing=PREPROCESSING.with_size(64))
    signals = measure(backbone, data, random=False, rates=False)
    assert signals.similarity is not None
    assert not signals.similarity.proven
    assert any("was not validated" in note for note in signals.notes)
    described = ForwardConfig(PLAN, EVALUATION_BATCH).describe()
    assert described["precision"] == "float32"


# --- threads ------------------------------------------------------------------------------------------


def pinned_rows(backbone: bb.Backbone, images: Images) -> list[np.ndarray]:
    """Features of each stage by a loop without threads, one image decoded after another."""
    rows: list[list[np.ndarray]] = [[] for _ in backbone.cuts[1:]]
    for start in range(0, len(images), EVALUATION_BATCH):
        places = range(start, min(start + EVALUATION_BATCH, len(images)))
        pixels = torch.stack(
            [images.preprocessing.crop(images.manifest.read(images.samples[p])) for p in places]
        )
        z = PLAN.batch(padded(pixels, EVALUATION_BATCH), images.preprocessing.normalise)
        for values, (early, late) in zip(rows, itertools.pairwise(backbone.cuts), strict=True):
            with torch.no_grad(), bb.between(backbone, backbone.model, early, late) as run:
                z = run(z)
            values.append(bb.over_space(z)[: len(places)].float().numpy())
    return [np.concatenate(values) for values in rows]


@pytest.mark.usefixtures("on_processor")
def test_threads_measure_the_same_bytes(data: Manifest) -> None:
    backbone, samples = tiny_backbone(), data.subset("train")
    plain = pinned_rows(backbone, Images(data, samples, PREPROCESSING))
    assert len(samples) > EVALUATION_BATCH // 2
    for workers in (0, 1, 2, 8, "auto"):
        images = Images(data, samples, PREPROCESSING)
        measured = stage_features(backbone, images, PLAN, workers=workers)
        assert [rows.tobytes() for rows in measured.features.values()] == [r.tobytes() for r in plain]


def test_measuring_decodes_each_image_once(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network, its random twin and the learning curve share the pixels; threads change no signal."""
    monkeypatch.setattr(measurement, "MOST_PROBED", 20)
    monkeypatch.setattr(measurement, "PROBED_A_CLASS", 1)
    picture, decoded, lock = SampleReader.picture, list[str](), threading.Lock()

    def spy(self: SampleReader, sample: Sample, *options: Any) -> Picture:
        with lock:
            decoded.append(sample.path)
        return picture(self, sample, *options)

    monkeypatch.setattr(SampleReader, "picture", spy)
    # Timed anew in each folder, another plan may win.
    config = ForwardConfig(numerics.exact_plan(1), EVALUATION_BATCH)
    monkeypatch.setattr(measurement.rates_of, "forward_config", lambda *_, **__: config)
    signals = []
    for workers in (0, 2):
        decoded.clear()
        monkeypatch.setenv("FROSTLINE_CACHE_DIR", str(tmp_path / f"cache {workers}"))
        signals.append(measure(tiny_backbone(), data, rates=False, workers=workers))
        assert sorted(decoded) == sorted(sample.path for sample in data.subset("train"))
    assert signals[0] == signals[1]
    assert signals[0].best_stage is not None
    assert signals[0].best_stage.random is not None


def test_a_wrong_number_of_threads_is_said(data: Manifest) -> None:
    with pytest.raises(UsageError, match="workers must be"):
        measure(tiny_backbone(), data, workers=-1)


@pytest.mark.parametrize("learned", [20, 40])
def test_what_no_model_learned_from_is_measured_first(
    learned: int, data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "MOST_PROBED", 15)
    monkeypatch.setattr(measurement, "PROBED_A_CLASS", 1)
    digests = [sample.digest for sample in data.subset("train")]
    of_three = learned // 20  # of three images of a class one or two
    before = replace(data, learned=frozenset(d for at, d in enumerate(digests) if at % 3 < of_three))
    signals = measure(tiny_backbone(), before, random=False, rates=False)
    assert any(f"learned from {learned} of 60 images" in note for note in signals.notes)
    assert signals.linear_probe is not None
    assert signals.linear_probe.images == 60 - learned
    assert signals.probe_by_stage
    assert signals.curve
    some = measurement.class_balanced_subset(before, before.subset("train"), 15, 0)
    assert not {sample.digest for sample in some} & before.learned


def test_stages_that_cannot_be_probed_leave_the_other_probes(
    data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "MOST_PROBED", 3)
    monkeypatch.setattr(measurement, "PROBED_A_CLASS", 1)
    signals = measure(tiny_backbone(), data, random=False, rates=False)
    assert not signals.probe_by_stage
    assert any("Of the 3 images that are probed stage by stage, no class" in note for note in signals.notes)
    assert signals.linear_probe is not None
    assert signals.linear_probe.images == 60


def test_the_time_that_measuring_takes_is_foretold_from_the_images_it_takes(
    data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, cache = tiny_backbone(), FeatureCache()
    assert measurement.images_measured(backbone, data, feature_cache=cache) == (60, 0)
    monkeypatch.setattr(measurement, "MOST_PROBED", 20)
    monkeypatch.setattr(measurement, "PROBED_A_CLASS", 1)
    assert measurement.images_measured(backbone, data, feature_cache=cache) == (20, 60)


@pytest.mark.parametrize("layers", ["auto", "last"])
def test_what_training_left_in_the_cache_and_what_is_remembered_is_not_measured_anew(
    layers: str, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "MOST_PROBED", 20)
    monkeypatch.setattr(measurement, "PROBED_A_CLASS", 1)
    backbone, cache = tiny_backbone(), FeatureCache(tmp_path / "cache")
    given = {"threads": 1, "feature_cache": cache}
    strategy = "linear_probe" if layers == "auto" else f"linear_probe(layers={layers})"
    frostline.train(backbone, data, strategy, study=tmp_path / "study", cache="keep", **given)
    assert measurement.images_measured(backbone, data, **given) == (20, 0)
    assert measurement.images_measured(backbone, data, seed=1, **given) == (20, 0)
    measure(backbone, data, random=False, rates=False, **given)
    assert measurement.images_measured(backbone, data, **given) == (0, 0)
    assert measurement.images_measured(backbone, data, seed=1, **given) == (20, 0)
