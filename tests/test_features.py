"""Frozen layers are computed once, and nobody can tell from the result."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import frostline
from feature_examples import FAST, frozen_at, items_of, missing, way, weights
from frostline import models as bb
from frostline.data import Manifest
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import features
from frostline.feature_extraction import numeric_key as way_module
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import MIRRORED, Images
from frostline.models.cutting import prefix_digest as digests
from frostline.system import numerics
from frostline.training import numeric_plan
from tiny import PREPROCESSING, TinyNet, tiny_backbone, tiny_model, write_table

STRATEGIES = (
    "linear_probe",
    "head(epochs=4)",
    "top_k(1, epochs=4)",
    "top_k(2, epochs=4)",
    "gradual_unfreeze(epochs=5)",
    "lp_ft(epochs=4)",
    "full(epochs=3)",
    "phases(1@2, 0@1, all@1)",
)


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=12, val=4), near_copies=False)


# --- law 2: stored rows equal live rows ---------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_stored_rows_equal_live_rows(index: int, precision: str, data: Manifest) -> None:
    images = Images(data, data.subset("train"), PREPROCESSING, policy=Policy("standard"), seed=3)
    items = items_of(images, (0, 1, MIRRORED))
    live = list(frozen_at(index, way(precision), cache=False).batches(images, items))
    first = list(frozen_at(index, way(precision)).batches(images, items))
    frozen = frozen_at(index, way(precision))
    again = list(frozen.batches(images, items))
    assert frozen.counts.computed == 0
    assert frozen.counts.from_cache == 3 * len(images)
    for one, other, third in zip(live, first, again, strict=True):
        assert one.dtype == other.dtype == third.dtype
        assert torch.equal(one, other)
        assert torch.equal(one, third)
        assert one.is_contiguous(memory_format=torch.channels_last) == third.is_contiguous(
            memory_format=torch.channels_last
        )


def test_rows_do_not_depend_on_what_they_are_computed_with(data: Manifest) -> None:
    """Also a batch of one: it is filled up to the size that all batches have."""
    backbone = frostline.load_backbone("timm/resnet18", random=True, size=32)
    images = Images(data, data.subset("train"), backbone.preprocessing)
    orders = [[[5]], [[0, 1, 2, 3, 4, 5]], [[9, 5], [3]], [list(range(30, 5, -1)), [5, 0]]]
    rows = []
    for order in orders:
        frozen = frozen_at(3, way("float32", 16), backbone=backbone, cache=False)
        flat = list(itertools.chain.from_iterable(order))
        computed = torch.cat(list(frozen.batches(images, [[(p, 0) for p in batch] for batch in order])))
        rows.append(computed[flat.index(5)])
    assert all(torch.equal(rows[0], row) for row in rows)


@pytest.mark.usefixtures("on_processor")
def test_features_are_what_the_model_feeds_its_head(data: Manifest) -> None:
    backbone = tiny_backbone()
    images = Images(data, data.subset("train"), PREPROCESSING)
    seen: list[torch.Tensor] = []
    hook = backbone.model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # type: ignore[union-attr]
    plan = numerics.exact_plan(1)
    with torch.no_grad():
        for pixels in images.evaluation(len(images)):
            backbone.model(plan.batch(pixels, PREPROCESSING.normalise))
    hook.remove()
    assert features(frozen_at(4), images) == pytest.approx(seen[0].numpy(), abs=1e-5)


# --- the choice changes no bit ------------------------------------------------------------------------


# Cut as one of the others, or nowhere.
REPEATED = ("head(epochs=4)", "top_k(1, epochs=4)", "lp_ft(epochs=4)")


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(name, marks=pytest.mark.slow) if name in REPEATED else name for name in STRATEGIES],
)
def test_kept_computed_cold_and_warm_give_the_same_weights(
    strategy: str, data: Manifest, tmp_path: Path
) -> None:
    done = {}
    for name, rows in (("computed", "compute"), ("cold", "keep"), ("warm", "keep"), ("auto", "auto")):
        place = tmp_path / name
        done[name] = frostline.train(tiny_backbone(), data, strategy, study=place, cache=rows, **FAST)
    assert len({weights(run) for run in done.values()}) == 1
    assert done["computed"].features["from_cache"] == 0
    if not strategy.startswith("full"):
        assert done["warm"].features["computed"] == 0
        assert done["warm"].features["from_cache"] > 0
    losses = [[row.get("val_loss") for row in run.folder.metrics()] for run in done.values()]
    assert all(loss == losses[0] for loss in losses)


def test_workers_and_layouts_change_no_bit(data: Manifest, tmp_path: Path) -> None:
    done = []
    for name, options in (("a", {}), ("b", {"workers": 2}), ("c", {"workers": 2, "cache": "compute"})):
        done.append(
            frostline.train(
                tiny_backbone(), data, "top_k(1, epochs=2)", study=tmp_path / name, **FAST, **options
            )
        )
        FeatureCache().clear()
    assert len({weights(run) for run in done}) == 1
    assert done[1].features["computed"] > 0


@pytest.mark.parametrize("rows", ["keep", pytest.param("compute", marks=pytest.mark.slow)])
def test_learning_contiguous_above_a_channels_last_prefix(
    rows: str, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prefix then runs on a copy of the model in its own memory format."""
    real = numeric_plan.begin

    def contiguous(*given: object) -> numeric_plan.Plan:
        plan = real(*given)  # type: ignore[arg-type]
        plan.numbers = dataclasses.replace(plan.numbers, channels_last=False)
        assert plan.forward_config.plan.channels_last
        return plan

    monkeypatch.setattr(numeric_plan, "begin", contiguous)
    run = frostline.train(
        tiny_backbone(), data, "top_k(2, epochs=4)", study=tmp_path / rows, cache=rows, **FAST
    )
    monkeypatch.undo()
    other = frostline.train(tiny_backbone(), data, "top_k(2, epochs=4)", study=tmp_path / "other", **FAST)
    for key, value in frostline.load_model(run.study.path, module=tiny_model()).state_dict().items():
        expected = frostline.load_model(other.study.path, module=tiny_model()).state_dict()[key]
        assert torch.allclose(value, expected, atol=1e-3), key


@pytest.mark.parametrize("strategy", ["top_k(2, epochs=8)", "gradual_unfreeze(epochs=8)"])
def test_killed_and_resumed_reads_the_same_rows(
    strategy: str, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from frostline.training.loop import trainer

    whole = frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "whole", **FAST)
    shutil.rmtree(FeatureCache().path)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 1e9)
    real, left = trainer.Trainer._validate, [5]

    def stop(self: trainer.Trainer) -> object:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(trainer.Trainer, "_validate", stop)
    with pytest.raises(KeyboardInterrupt):
        frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "broken", **FAST)
    shutil.rmtree(FeatureCache().path)  # and the cache is lost on top
    resumed = frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "broken", **FAST)
    assert weights(resumed) == weights(whole)


def test_a_warm_run_never_calls_the_prefix(data: Manifest, tmp_path: Path, calls: list[int]) -> None:
    for strategy in ("linear_probe", "head(epochs=4)", "top_k(2, epochs=4)"):
        frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "a", cache="keep", **FAST)
        assert calls
        calls.clear()
        run = frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "b", cache="keep", **FAST)
        assert not calls
        assert run.features["computed"] == 0


def test_ten_new_images_cost_ten_rows(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=20)
    rows = table.read_text().splitlines()
    train = [row for row in rows if row.endswith("train")]
    table.write_text("\n".join(row for row in rows if row not in train[::6]) + "\n")
    few = frostline.load_data(table, near_copies=False)
    first = frostline.train(tiny_backbone(), few, "linear_probe", study=tmp_path / "a", **FAST)
    table.write_text("\n".join(rows) + "\n")
    shutil.move(tmp_path / "images", tmp_path / "elsewhere")  # names and places have no say
    more = frostline.load_data(tmp_path / "elsewhere" / "table.csv", near_copies=False)
    second = frostline.train(tiny_backbone(), more, "linear_probe", study=tmp_path / "b", **FAST)
    assert first.features["computed"] == 50 + 24  # train and test
    assert second.features == {"computed": 10, "from_cache": 60 + 24}


# --- a change is a miss, never a wrong hit ------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    ["one bit", "a statistic", "a setting", "a size", "precision", "batch", "a version", "the device", "cut"],
)
@pytest.mark.usefixtures("on_processor")
def test_another_way_of_computing_is_a_miss(
    change: str, data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Images(data, data.subset("train"), PREPROCESSING, policy=Policy("standard"), seed=1)
    items = items_of(images, (1,))
    frozen_at(2).fill(images, itertools.chain.from_iterable(items))
    assert missing(images, frozen_at(2)) == 0
    model, how, index, preprocessing = tiny_model(), way(), 2, PREPROCESSING
    assert isinstance(model, TinyNet)
    if change == "one bit":
        flat = model.blocks[0].conv.weight.data.view(torch.int32)
        flat.view(-1)[5] ^= 1
    elif change == "a statistic":
        model.stem.bn.running_var.view(torch.int32)[0] ^= 1
    elif change == "a setting":
        model.stem.bn.eps *= 2
    elif change == "a size":
        preprocessing = PREPROCESSING.with_size(24)
    elif change == "precision":
        how = way("bfloat16")
    elif change == "batch":
        how = way(batch=9)
    elif change == "a version":
        monkeypatch.setattr(way_module, "version", lambda name: "0")
    elif change == "the device":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    else:
        index = 3
    backbone = frostline.load_backbone(model, preprocessing=preprocessing)
    assert missing(images, frozen_at(index, how, backbone=backbone)) == len(images)


def test_weights_above_the_cut_and_hidden_state_have_the_right_say(data: Manifest) -> None:
    images = Images(data, data.subset("train"), PREPROCESSING)
    frozen_at(2).fill(images, [(position, 1) for position in range(len(images))])
    model = tiny_model()
    assert isinstance(model, TinyNet)
    model.blocks[2].conv.weight.data += 1  # above the cut
    assert (
        missing(images, frozen_at(2, backbone=frostline.load_backbone(model, preprocessing=PREPROCESSING)))
        == 0
    )
    model.blocks[0].secret = {"scale": [2.0]}  # type: ignore[assignment] # nothing that extra_repr would show
    assert (
        missing(images, frozen_at(2, backbone=frostline.load_backbone(model, preprocessing=PREPROCESSING)))
        == 36
    )


@pytest.mark.parametrize("other", [Policy("light"), Policy("standard", "horizontal"), Policy("strong")])
def test_another_augmentation_is_a_miss_but_view_0_is_shared(other: Policy, data: Manifest) -> None:
    first = Images(data, data.subset("train"), PREPROCESSING, policy=Policy("standard"), seed=1)
    frozen_at(2).fill(first, [(position, view) for position in range(len(first)) for view in (0, 1)])
    for policy, seed, expected in ((other, 1, 36), (Policy("standard"), 2, 36), (Policy("standard"), 1, 0)):
        images = Images(data, data.subset("train"), PREPROCESSING, policy=policy, seed=seed)
        assert missing(images, frozen_at(2)) == expected
        assert frozen_at(2).missing(images, [(position, 0) for position in range(36)]) == 0


def test_digests_of_several_cuts_hash_each_weight_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    cuts = backbone.cuts[1:]
    expected = [bb.prefix_digest(backbone, backbone.model, cut) for cut in cuts]
    assert len(set(expected)) == len(cuts)
    read: list[torch.Tensor] = []
    original = digests.tensor_bytes
    monkeypatch.setattr(digests, "tensor_bytes", lambda value: read.append(value) or original(value))
    together = bb.PrefixDigests(backbone, backbone.model)
    assert [together.at(cut) for cut in (*cuts, *reversed(cuts))] == [*expected, *reversed(expected)]
    assert len(read) == len({id(value) for value in read}) > 0
    with torch.no_grad():
        next(backbone.model.parameters()).add_(1)
    assert bb.prefix_digest(backbone, backbone.model, cuts[0]) != expected[0]


def test_tensors_without_values_to_read_are_like_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    cut = backbone.cut(2)
    plain = bb.prefix_digest(backbone, backbone.model, cut)
    for value in (torch.eye(3).to_sparse(), torch.empty(2, device="meta")):
        backbone.model.stem.mask = value
        here = bb.prefix_digest(backbone, backbone.model, cut)
        assert here == bb.prefix_digest(backbone, backbone.model, cut) != plain
        with monkeypatch.context() as patched:
            patched.setattr(digests.os, "getpid", lambda: 1)
            assert here != bb.prefix_digest(backbone, backbone.model, cut)


def test_a_module_typed_at_a_prompt_is_like_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    scope: dict[str, type[nn.Module]] = {}
    code = "class Typed(Base):\n    def forward(self, x):\n        return super().forward(x)\n"
    exec(code, {"Base": TinyNet, "__name__": "typed"}, scope)
    model = scope["Typed"]()
    backbone = frostline.load_backbone(model.eval(), preprocessing=PREPROCESSING)
    here = bb.prefix_digest(backbone, model, backbone.cut(2))
    assert here == bb.prefix_digest(backbone, model, backbone.cut(2))
    digests._source.cache_clear()
    monkeypatch.setattr(digests.os, "getpid", lambda: 1)
    assert here != bb.prefix_digest(backbone, model, backbone.cut(2))
