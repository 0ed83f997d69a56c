"""Heads that read several stages: statistics, kept and computed alike, and a plain module at the end."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import nn

import frostline
from feature_examples import FAST, frozen_at, way
from frostline import models as bb
from frostline import probe, strategies
from frostline.cli.main import cli
from frostline.data import Manifest
from frostline.errors import StudyError, UsageError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Frozen, features, features_and_statistics
from frostline.feature_extraction.image_batches import Images
from frostline.inference import error_gallery
from frostline.models import stage_statistics
from frostline.models.stage_statistics import statistics
from tiny import PREPROCESSING, TinyNet, live_logits, tiny_backbone, write_table

RANDOM = (
    "timm/vit_tiny_patch16_224",
    "timm/resnet18",
    "timm/convnext_atto",
    "timm/swin_tiny_patch4_window7_224",
)


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=12, val=4), near_copies=False)


@pytest.fixture
def images(data: Manifest) -> Images:
    return Images(data, data.subset("train"), PREPROCESSING)


def reading(layers: int, *, cache: bool = True) -> Frozen:
    return frozen_at(4, cache=cache).reading(layers)


def hits() -> dict[str, int]:
    """Return how often rows of each kind were read, by the name of their cut."""
    return {usage.about["cut"]: usage.hits for usage in FeatureCache().holdings()}


def test_what_is_read_with_statistics_or_on_the_way_counts_as_used(images: Images) -> None:
    """`cache prune` deleted what linear_probe had read last: it counted as never used."""
    features_and_statistics(reading(2), images)
    before = hits()
    assert len(before) > 2
    features_and_statistics(reading(2), images)
    after = hits()
    used = [cut for cut in before if after[cut] >= before[cut] + len(images)]
    assert len(used) == 3  # the features, and the statistics of two stages
    FeatureCache().clear()
    items = [(position, 1) for position in range(len(images))]
    frozen_at(2).fill(images, items)
    frozen_at(3).fill(images, items)  # from the rows at cut 2
    (early,) = (count for cut, count in hits().items() if cut == tiny_backbone().cut(2).name)
    assert early >= len(images)


# --- statistics ---------------------------------------------------------------------------------------


def test_a_map_gives_mean_and_spread_of_each_channel() -> None:
    maps = torch.randn(2, 3, 4, 4)
    expected = np.concatenate([maps.numpy().mean((2, 3)), maps.numpy().std((2, 3))], axis=1)
    np.testing.assert_allclose(statistics(maps), expected, atol=1e-5)
    np.testing.assert_allclose(statistics(maps.permute(0, 2, 3, 1)), expected, atol=1e-5)
    np.testing.assert_allclose(statistics(maps, last=True), expected[:, 3:], atol=1e-5)


def test_tokens_give_the_class_token_and_statistics_of_the_patches() -> None:
    tokens = torch.randn(2, 17, 5)  # 4 × 4 patches behind a class token
    patches = tokens[:, 1:].numpy()
    expected = np.concatenate([tokens[:, 0], patches.mean(1), patches.std(1)], axis=1)
    np.testing.assert_allclose(statistics(tokens), expected, atol=1e-5)
    assert statistics(tokens[:, 1:]).shape == (2, 10)  # no class token before 16 patches
    assert torch.equal(statistics(tokens[:, 0]), tokens[:, 0])


def test_what_does_not_vary_has_a_gradient() -> None:
    still = torch.ones(1, 2, 3, 3, requires_grad=True)
    statistics(still).sum().backward()
    assert still.grad is not None
    assert still.grad.isfinite().all()


def test_stages_are_read_the_last_one_first() -> None:
    backbone = tiny_backbone()
    assert [(tap.stage, tap.width) for tap in bb.stage_taps(backbone)] == [(3, 24), (2, 32), (1, 24), (0, 16)]
    backbone.cuts = tuple(cut for cut in backbone.cuts if cut.index != 2)
    other = tiny_backbone()
    other.cuts = backbone.cuts
    assert [tap.stage for tap in bb.stage_taps(other)] == [3, 2, 0]  # no cut, no tap


def test_every_statistic_varies_alike() -> None:
    values = np.random.default_rng(0).normal(size=(50, 6)) * [1, 1, 1, 9, 9, 9]
    scaled = values * probe.block_scales(values, [3, 3])
    np.testing.assert_allclose([scaled[:, :3].var(0).sum(), scaled[:, 3:].var(0).sum()], 1.0)
    assert probe.block_scales(np.zeros((5, 2)), [2]).tolist() == [1.0, 1.0]
    still = 1.0 + 1e-7 * values[:, :1]  # varies by rounding alone, which must not be scaled up
    np.testing.assert_allclose(probe.block_scales(still, [1]), 100.0, rtol=1e-4)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "224" in name else []) for name in RANDOM]
)
def test_other_architectures_have_finite_statistics(name: str, data: Manifest) -> None:
    backbone = frostline.load_backbone(name, random=True, size=None if "224" in name else 64)
    images = Images(data, data.subset("val"), backbone.preprocessing)
    last = backbone.cuts[-1].index
    values = features_and_statistics(frozen_at(last, way(batch=4), backbone=backbone, cache=False), images)
    taps = bb.stage_taps(backbone)[:4]
    assert values.shape == (len(images), backbone.feature_width + sum(tap.width for tap in taps))
    assert np.isfinite(values).all()
    assert len(taps) == 4
    widths = [backbone.feature_width, *(width for tap in taps for width in tap.widths)]
    blocks = np.split(values, np.cumsum(widths)[:-1], axis=1)
    assert all(block.std(axis=0).max() > 1e-4 for block in blocks)  # a pooled map's deviation is a constant


class Windows(nn.Module):
    """A stage that ends with what is pooled, and begins with windows: four rows an image."""

    def __init__(self) -> None:
        super().__init__()
        self.windows, self.conv, self.pool = (
            nn.Unfold(2, stride=4),
            nn.Conv2d(3, 5, 3),
            nn.AdaptiveAvgPool2d(1),
        )
        self.cut, self.tokens = nn.Identity(), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cut(self.windows(x).transpose(1, 2).reshape(4 * len(x), -1, 3))
        maps = self.conv(x)
        pooled: torch.Tensor = self.pool(maps)
        self.tokens(pooled.flatten(2).transpose(1, 2).transpose(0, 1))  # tokens before images
        return pooled


def test_a_stage_is_read_before_it_is_pooled_and_one_row_an_image() -> None:
    modules = ("cut", "conv", "pool", "tokens")
    backbone: Any = SimpleNamespace(
        model=Windows(),
        cuts=[SimpleNamespace(index=0), SimpleNamespace(index=1)],
        stages=[SimpleNamespace(modules=modules), SimpleNamespace(modules=())],
        preprocessing=SimpleNamespace(size=8),
    )
    (tap,) = stage_statistics._find(backbone)
    assert (tap.module, tap.widths) == ("conv", (5,))


def test_a_last_stage_that_answers_with_a_vector_adds_nothing(data: Manifest, tmp_path: Path) -> None:
    backbone = frostline.load_backbone("timm/test_vit3", size=32, random=True)
    assert bb.stage_taps(backbone)[0].width == 0
    runs = [
        frostline.train(backbone, data, "linear_probe(layers=2)", study=tmp_path / cache, cache=cache, **FAST)
        for cache in ("keep", "compute")
    ]
    assert runs[0].weights_digest == runs[1].weights_digest
    model = frostline.load_model(runs[0].folder)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.zeros(2, 3, 32, 32),), dynamic_shapes={"x": {0: batch}})
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(pixels), model(pixels))


def test_threads_may_ask_one_network_at_the_same_time() -> None:
    model = adapted()
    batches = [torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(n)) for n in range(40)]
    with torch.no_grad():
        alone = [model(batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(torch.no_grad()(model), batches * 4))
    assert all(torch.equal(one, other) for one, other in zip(alone * 4, together, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_computes_in_half_precision(dtype: torch.dtype) -> None:
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = adapted()
    with torch.no_grad():
        expected, half = model(pixels), model.to(dtype)(pixels.to(dtype))
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1)


# --- kept and computed --------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_read_equals_computed(layers: int, images: Images, calls: list[int]) -> None:
    live = features_and_statistics(reading(layers, cache=False), images)
    np.testing.assert_array_equal(features_and_statistics(reading(layers), images), live)
    calls.clear()
    np.testing.assert_array_equal(features_and_statistics(reading(layers), images), live)
    assert calls == []


def test_the_first_columns_are_the_features_before_the_head(images: Images) -> None:
    np.testing.assert_array_equal(
        features_and_statistics(reading(2), images)[:, :24], features(frozen_at(4), images)
    )


def test_a_pass_that_fills_rows_of_a_cut_leaves_the_statistics_below(
    images: Images, calls: list[int]
) -> None:
    live = features_and_statistics(reading(4, cache=False), images)
    items = [(position, view) for position in range(len(images)) for view in (0,)]
    frozen_at(2).fill(images, items)
    calls.clear()
    np.testing.assert_array_equal(features_and_statistics(reading(4), images), live)
    assert len(calls) == 1  # one batch, to see that rows of that cut lead to the same bits


def test_stages_that_are_not_there_yet_cost_one_pass(images: Images, calls: list[int]) -> None:
    features_and_statistics(reading(1), images)
    whole = len(calls)
    frozen = reading(4)
    features_and_statistics(frozen, images)
    assert len(calls) == 2 * whole
    assert frozen.counts.computed == len(images)


def test_networks_that_differ_above_a_stage_share_what_lies_below(images: Images) -> None:
    features_and_statistics(reading(4), images)
    tuned = tiny_backbone()
    with torch.no_grad():
        for parameter in tuned.model.blocks[2].parameters():  # type: ignore[index,operator,union-attr]
            parameter.mul_(1.5)
    frozen = frozen_at(4, backbone=tuned)
    assert frozen.statistics is not None
    keys = [len(rows.missing([b"0" * 16])) for rows in frozen.statistics.parts]
    assert keys == [1, 1, 1, 1]
    forms = [rows.form is not None for rows in frozen.statistics.parts]
    assert forms == [False, True, True, True]  # the last stage learned: its rows are another network's


# --- the head -----------------------------------------------------------------------------------------


def adapted(classes: int = 3, layers: int = 3) -> nn.Module:
    model = tiny_backbone().adapt(classes, layers=layers)
    head = bb.multi_stage_head_in(model)
    assert head is not None
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1, 1, head.weight.numel()).reshape(head.weight.shape))
    return model


def test_a_copy_listens_to_its_own_stages() -> None:
    model, x = adapted(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before, other = model(x), copy.deepcopy(model)
        for parameter in other.blocks.parameters():  # type: ignore[union-attr]
            parameter.mul_(1.1)
        assert torch.equal(model(x), before)
        assert not torch.equal(other(x), before)


def test_the_head_holds_nothing_of_a_batch() -> None:
    model = adapted()
    model(torch.randn(2, 3, 16, 16))
    head = bb.multi_stage_head_in(model)
    assert head is not None
    assert head._pass.collected == {}
    copy.deepcopy(model)  # refused by torch where a tensor with history is held


def test_gradients_reach_every_stage() -> None:
    model = adapted().train()
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_it_can_be_exported_and_compiled() -> None:
    model, x = adapted(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        live = model(x)
        exported = torch.export.export(model, (x,)).module()(x)
        compiled = torch.compile(model, backend="eager")(x)
    torch.testing.assert_close(exported, live)
    torch.testing.assert_close(compiled, live)


def test_another_head_stops_the_listening() -> None:
    several = frostline.load_backbone(adapted(), preprocessing=PREPROCESSING)
    plain = several.adapt(2)
    assert bb.multi_stage_head_in(plain) is None
    assert not any(module._forward_hooks for module in plain.modules())


# --- training -----------------------------------------------------------------------------------------


@pytest.fixture
def run(data: Manifest, tmp_path: Path) -> frostline.Run:
    return frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "study", **FAST)


def test_the_plain_model_gives_the_figures_of_the_run(run: frostline.Run, data: Manifest) -> None:
    model = frostline.load_model(run.folder, module=TinyNet())
    images = Images(data, data.subset("val"), PREPROCESSING)
    logits = torch.from_numpy(live_logits(model, images)) / run.result["temperature"]
    lines = (run.folder.path / "predictions-val.csv").read_text().splitlines()[1:]
    written = np.array([[float(p) for p in line.split(",")[3:]] for line in lines])
    np.testing.assert_allclose(logits.softmax(1), written, atol=1e-5)
    assert run.result["layers"] == 4


@pytest.mark.parametrize(
    ("strategy", "libraries"),
    [("linear_probe", []), ("linear_probe(layers=last)", ["timm", "transformers"])],
)
def test_what_loads_the_model_is_said(
    strategy: str, libraries: list[str], data: Manifest, tmp_path: Path
) -> None:
    backbone = frostline.load_backbone("timm/test_resnet", size=32, random=True)
    lines = list[str]()
    run = frostline.train(backbone, data, strategy, study=tmp_path / "study", log=lines.append, **FAST)
    assert run.loads_in == libraries
    said = [line for line in lines if "timm alone cannot load such a model" in line]
    assert bool(said) == (not libraries)
    exported = frostline.export(run.study.path, output=tmp_path / "out", run=run.folder.name)
    assert exported.format == "safetensors"
    assert (tmp_path / "out" / "load.py").exists() == (not libraries)
    assert exported.check["largest_difference"] < 1e-5


def test_a_comparison_says_what_loads_its_models_once(data: Manifest, tmp_path: Path) -> None:
    backbone, lines = frostline.load_backbone("timm/test_resnet", size=32, random=True), list[str]()
    names = ["linear_probe", "head(epochs=1)"]
    comparison = frostline.compare(
        backbone, data, names, study=tmp_path / "s", log=lines.append, repeats=1, **FAST
    )
    (line,) = [line for line in lines if "alone cannot load such a model" in line]
    assert line.startswith("The head of linear_probe reads several stages: timm alone")
    assert comparison.loads_in == comparison.run.loads_in


def test_runs_with_other_heads_do_not_join_where_timm_alone_loads(data: Manifest, tmp_path: Path) -> None:
    study, backbone = tmp_path / "study", tiny_backbone()
    for name in ("linear_probe(layers=2)", "linear_probe"):
        frostline.train(backbone, data, name, study=study, **FAST)
    named = ["linear_probe", "head(epochs=1)"]
    comparison = frostline.compare(
        backbone, data, named, study=study, repeats=1, plain_timm=True, log=None, **FAST
    )
    compared = [row["strategy"] for row in comparison.standings]
    assert sorted(compared) == ["head(epochs=1)", "linear_probe(layers=last)"]
    reasons = [row["reason"] for row in comparison.not_compared]
    assert reasons == ["trained with a head that timm alone cannot load"] * 2


def test_a_probe_after_training_costs_no_pass(data: Manifest, tmp_path: Path) -> None:
    study = tmp_path / "study"
    frostline.train(tiny_backbone(), data, "top_k(1, epochs=1)", study=study, views=1, augment="none", **FAST)
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=study, augment="none", **FAST)
    train = len(data.subset("train"))
    assert run.result["features"]["computed"] <= len(data.subset("val")) + 64  # one batch proves the bridge
    assert run.result["features"]["from_cache"] >= train


def test_the_last_stage_alone_is_loaded_by_timm_alone(data: Manifest, tmp_path: Path) -> None:
    frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "study", plain_timm=True, **FAST)
    (config,) = (tmp_path / "study" / "runs").glob("*/config.json")
    assert json.loads(config.read_text())["strategy"] == "linear_probe(layers=last)"


@pytest.mark.parametrize("strategy", ["linear_probe(layers=4)", "head(head=cosine)"])
def test_what_timm_cannot_load_is_refused_before_training(
    strategy: str, data: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="timm alone cannot load a model with"):
        frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "study", plain_timm=True, **FAST)


def test_its_mistakes_have_no_maps_and_the_reason_is_said(data: Manifest, tmp_path: Path) -> None:
    sample, names = data.subset("test")[0], data.classes
    chances = ",".join(["0.1", *["0.9" if name != sample.label else "0.05" for name in names[1:]]])
    other = next(name for name in names[1:] if name != sample.label)
    header = ",".join(["path", "label", "predicted", *(f"p({name})" for name in names)])
    table = tmp_path / "predictions-test.csv"
    table.write_text(f"{header}\n{sample.path},{sample.label},{other},{chances}\n")
    backbone = tiny_backbone()
    for model, words in ((adapted(), "reads several stages"), (backbone.adapt(3), "")):
        error_gallery.write_gallery(tmp_path, table, backbone, data, lambda path, model=model: model)
        gallery = json.loads((tmp_path / "error-gallery.json").read_text())
        assert gallery["note"] == "" if not words else words in gallery["note"]
        (row,) = gallery["rows"]
        assert (row["map"] is None) == bool(words)


@pytest.fixture
def timm_run(data: Manifest, tmp_path: Path) -> frostline.Run:
    backbone = frostline.load_backbone("timm/test_resnet", size=32, random=True)
    return frostline.train(backbone, data, "linear_probe", study=tmp_path / "study", **FAST)


def test_a_head_of_an_earlier_version_is_refused(timm_run: frostline.Run) -> None:
    state = load_file(timm_run.folder.weights)
    (key,) = [key for key in state if key.endswith(".read_stages")]
    state[key.replace("read_stages", "stages")] = state.pop(key)
    save_file(state, timm_run.folder.weights)
    with pytest.raises(StudyError, match=r"an earlier version of frostline read them\. Train it again"):
        frostline.load_model(timm_run.study.path)


def test_its_run_is_a_plain_network_with_a_new_head(
    timm_run: frostline.Run, data: Manifest, tmp_path: Path
) -> None:
    study = timm_run.study.path
    frostline.export(study, output=tmp_path / "export")
    frostline.export(study, "delta", output=tmp_path / "delta", base=timm_run.backbone)
    first = timm_run.backbone
    for source in (study, timm_run.folder.path, tmp_path / "export", tmp_path / "delta"):
        backbone = frostline.load_backbone(str(source))
        assert [cut.name for cut in backbone.cuts] == [cut.name for cut in first.cuts]
        assert bb.multi_stage_head_in(backbone.model) is None
        assert not any(module._forward_hooks for module in backbone.model.modules())
        assert any("stays behind" in note for note in backbone.notes)
        own = {k: v for k, v in first.model.state_dict().items() if not first.classifier.owns(k)}
        assert all(torch.equal(value, backbone.model.state_dict()[key]) for key, value in own.items())


@pytest.fixture
def more(tmp_path: Path) -> Manifest:
    table = write_table(tmp_path / "more", train=4, val=2, test=0, seed=1)
    return frostline.load_data(table, near_copies=False)


def test_training_goes_on_from_its_run(timm_run: frostline.Run, more: Manifest, tmp_path: Path) -> None:
    backbone = frostline.load_backbone(str(timm_run.study.path))
    study = tmp_path / "next"
    child = frostline.train(backbone, more, "top_k(1, epochs=1)", study=study, **FAST)
    val = more.subset("val")
    answers = frostline.predict(study, [more.read(sample) for sample in val]).rows
    lines = (child.folder.path / "predictions-val.csv").read_text().splitlines()[1:]
    assert [row.label for row in answers] == [line.split(",")[2] for line in lines]
    written = [max(float(p) for p in line.split(",")[3:]) for line in lines]
    np.testing.assert_allclose([row.probability for row in answers], written, atol=1e-4)


def test_what_a_new_classifier_knew_is_not_measured(timm_run: frostline.Run, data: Manifest) -> None:
    backbone = frostline.load_backbone(str(timm_run.study.path))
    with pytest.raises(UsageError, match="begins with a new classifier"):
        frostline.forgetting(backbone, backbone.adapt(3), data)
    signals = frostline.measure(backbone, data, rates=False, random=False)
    assert signals.confidence is None
    assert any("new classifier" in note for note in signals.notes)


def test_a_module_of_ones_own_is_known_by_the_weights_with_its_head(
    run: frostline.Run, data: Manifest, more: Manifest, tmp_path: Path
) -> None:
    module = frostline.load_model(run.folder, module=TinyNet())
    again = frostline.load_backbone(module, preprocessing=PREPROCESSING)
    assert len(again.cuts) == len(tiny_backbone().cuts)
    with pytest.raises(StudyError, match="study of other data"):  # which knows the weights nevertheless
        frostline.train(again, more, "head(epochs=1)", study=run.study.path, **FAST)
    assert again.fingerprints is not None
    child = frostline.train(again, more, "linear_probe", study=tmp_path / "next", **FAST)
    assert bb.multi_stage_head_in(frostline.load_model(child.folder, module=TinyNet())) is not None


# --- notation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", ["3", "all", "last", "auto"])
def test_layers_are_written_as_they_are_read(layers: str) -> None:
    text = f"linear_probe(layers={layers})"
    assert str(strategies.parse(text)) == text


@pytest.mark.parametrize("layers", ["0", "two", "-1"])
def test_other_layers_are_refused(layers: str) -> None:
    with pytest.raises(UsageError, match="layers must be a number of stages"):
        strategies.parse(f"linear_probe(layers={layers})")


def test_only_the_probe_takes_layers() -> None:
    with pytest.raises(UsageError, match="no setting 'layers'"):
        strategies.parse("lp_ft(layers=4)")
    assert strategies.hyperparameters(strategies.parse("lp_ft")).layers == "last"


# --- vectors ------------------------------------------------------------------------------------------


def test_vectors_stream_into_a_table(data: Manifest, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    table = pyarrow.parquet.read_table(
        frostline.extract_features(backbone, data, layers=2, output=tmp_path / "x.parquet", threads=1).path
    )
    held = frostline.extract_features(backbone, data, layers=2, threads=1)
    assert table.column_names == ["path", "label", "split", "vector"]
    assert table["path"].to_pylist() == held.paths == [sample.path for sample in data.samples]
    assert table["split"].to_pylist() == held.splits
    assert held.vectors is not None
    np.testing.assert_array_equal(np.stack(table["vector"].to_pylist()).astype(np.float32), held.vectors)
    assert held.vectors.shape == (len(data.samples), held.width) == (len(data.samples), 24 + 24 + 32)
    last = frostline.extract_features(backbone, data, threads=1)
    assert last.vectors is not None
    np.testing.assert_array_equal(last.vectors, held.vectors[:, :24])
    assert last.stages == []


@pytest.mark.parametrize(("layers", "output"), [(9, "x.parquet"), ("first", "x.parquet"), (2, "x.csv")])
def test_other_tables_are_refused(layers: int | str, output: str, data: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Expected"):
        frostline.extract_features(tiny_backbone(), data, layers=layers, output=tmp_path / output)


def test_the_command_line_writes_vectors(tmp_path: Path, warm_cache: Path) -> None:
    table = write_table(tmp_path / "images", train=4, val=2, test=2)
    table.write_text(table.read_text().replace(",kind 0,train", ",,train", 1))  # a row without a label
    words = ["extract", str(table), "--model", "lite0", "--size", "32", "--threads", "1"]
    words += ["--layers", "4", "-o", str(tmp_path / "x.parquet")]
    outcome = CliRunner().invoke(cli, [*words, "--json", "--quiet"])
    assert outcome.exit_code == 0, outcome.output
    document = json.loads(outcome.stdout)
    assert (document["images"], document["skipped"]) == (23, 1)
    assert "; 1 image(s) skipped" in CliRunner().invoke(cli, words).output
    assert document["width"] == 1280 + 1280 + 2 * (192 + 112 + 80)
    assert document["stages"] == ["blocks.6", "blocks.5", "blocks.4", "blocks.3"]


def test_out_of_fold_log_loss_chooses_how_many_stages(data: Manifest, tmp_path: Path) -> None:
    run = frostline.train(
        tiny_backbone(), data, "linear_probe(layers=auto)", study=tmp_path / "study", **FAST
    )
    assert run.layers in (2, 4)
    fixed = {
        layers: frostline.train(
            tiny_backbone(), data, f"linear_probe(layers={layers})", study=tmp_path / "study", **FAST
        )
        for layers in (2, 4)
    }
    chosen = fixed[run.layers].folder.weights.read_bytes()
    assert run.folder.weights.read_bytes() == chosen
