"""What a run will take, from invented rates by hand, and from rates that were measured."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import frostline
from frostline import profiling
from frostline.cost import Learning, Line, Peaks, Pipeline, Rates, StageRates, device_memory, predict
from frostline.cost.cache_tradeoff import needs, on_the_way, view_at, views_for, views_of
from frostline.cost.estimate import BESIDE
from frostline.cost.peak_memory import REUSED, SMALL_BYTES, UNSEEN_BYTES, Moment, grown
from frostline.cost.run_time import PASS_S
from frostline.data import Manifest
from frostline.errors import CacheWarning
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import ForwardConfig
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images
from frostline.profiling import numeric_search, rate_correction, rate_measurement, training_rates
from frostline.profiling.live_tensors import live_bytes
from frostline.strategies import parse, schedule
from frostline.system import cpu_threads, devices, directories, numerics
from tiny import PREPROCESSING, tiny_backbone, write_table

FREE = Line(0.0, 0.0)
STRATEGIES = ("linear_probe", "head", "top_k(1)", "top_k(2)", "gradual_unfreeze", "lp_ft", "full")
DATA = {"train": 100, "val": 20, "test": 40, "classes": 3}


def stage(name: str, cut: int, row_bytes: int) -> StageRates:
    """Each stage: 1 ms frozen, 2 ms in float32, 3 ms forward and 6 ms backward, 1 MB kept."""
    return StageRates(
        name, cut, 1000, row_bytes, 1e-3, 2e-3, "only", {"only": Learning(3e-3, 6e-3, 0.0, 1e6)}
    )


INVENTED = Rates(
    name="invented",
    size=32,
    threads=1,
    batch=32,
    stages=(stage("stem", 0, 3 * 32**2), stage("block", 1, 4096), stage("head", 2, 128)),
    depth=3,
    feature_width=64,
    frozen_batch=10,
    value_bytes=2,
    copies=False,
    evaluation_batch=10,
    file_s=0.0,
    crop_s=0.0,
    normalise_s=0.0,
    augment_s=0.0,
    picture_bytes=10_000,
    sheet_s=0.0,
    read=FREE,
    keep=FREE,
    write=FREE,
    find=FREE,
    look_s=0.0,
    touch_s=0.0,
    step_s=0.0,
    update_s=0.0,
    copy_s=0.0,
    frozen_copy_s=0.0,
    solve=FREE,
    solve_grid=FREE,
    temperature_s=0.0,
    summary_s=0.0,
    peaks=Peaks(1_000_000, 2_000_000, 3_000_000, 500_000),
)
# Everything costs something.
DEAR = dataclasses.replace(
    INVENTED,
    file_s=4e-3,
    crop_s=1e-3,
    normalise_s=1e-4,
    augment_s=2e-3,
    sheet_s=5e-2,
    read=Line(1e-5, 1e-9),
    keep=Line(1e-4, 1e-8),
    write=Line(5e-3, 1e-9),
    find=Line(1e-3, 1e-8),
    look_s=2e-2,
    touch_s=5e-10,
    step_s=1e-3,
    update_s=1e-8,
    copy_s=1e-3,
    frozen_copy_s=1e-3,
    solve=Line(1e-3, 1e-9),
    solve_grid=Line(1e-2, 1e-8),
    temperature_s=2e-2,
    summary_s=2e-2,
)


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=12, val=4), near_copies=False)


@pytest.fixture
def images(data: Manifest) -> Images:
    return Images(data, data.subset("train"), PREPROCESSING, policy=Policy("standard"))


def parts(strategy: str, known: Rates = INVENTED, **changed: object) -> dict[str, float]:
    given = {**DATA, "flip": "none", **changed}
    return predict(strategy, known, **given).parts  # type: ignore[arg-type]


# --- the formulae, by hand ------------------------------------------------------------------------------


def test_full_fine_tuning_is_passes_through_all_stages() -> None:
    seconds_of = parts("full(epochs=5)")
    assert seconds_of["training"] == pytest.approx(5 * (100 * 3 * (3e-3 + 6e-3) + PASS_S))
    assert seconds_of["validation"] == pytest.approx(5 * (20 * 3 * 3e-3 + PASS_S))
    assert seconds_of["final figures"] == pytest.approx((20 + 20 + 40) * 3 * 2e-3)  # drift: val passes twice
    assert seconds_of["frozen layers"] == 0.0
    assert seconds_of["checkpoints"] == pytest.approx(0.02 * (13.5 + 0.9 + 10 * PASS_S))


def test_frozen_layers_are_computed_once_a_view_and_the_last_batch_is_filled_up() -> None:
    seconds_of = parts("head(epochs=6)")
    # Three views of 100 images and val once, two stages of 1 ms; all batches of 10 are full.
    assert seconds_of["frozen layers"] == pytest.approx((3 * 100 + 20) * 2e-3)
    assert seconds_of["training"] == pytest.approx(6 * (100 * 9e-3 + PASS_S))
    assert parts("head(epochs=6)", train=101)["frozen layers"] == pytest.approx((3 * 110 + 20) * 2e-3)


def test_rows_that_are_not_kept_are_computed_in_each_epoch() -> None:
    seconds_of = parts("head(epochs=6)", cache="compute")
    assert seconds_of["frozen layers"] == pytest.approx(6 * (100 + 20) * 2e-3)


def test_rows_of_a_later_cut_are_computed_from_those_of_an_earlier_one() -> None:
    seconds_of = parts("phases(0@3, 1@3)", cache="keep")
    # Cut 1 from pixels, 1 ms; cut 2 from its rows, 1 ms more; each filling from rows tries one batch of 10
    # both ways (2 ms and 1 ms): three views and val.
    assert seconds_of["frozen layers"] == pytest.approx(
        (3 * 100) * 2e-3 + 3 * 10 * 3e-3 + 20 * 2e-3 + 10 * 3e-3
    )


def test_a_step_costs_the_same_whatever_learns_and_an_update_by_the_parameters() -> None:
    known = dataclasses.replace(INVENTED, step_s=0.5, update_s=1e-4)
    extra = parts("head(epochs=1)", known)["training"] - parts("head(epochs=1)")["training"]
    assert extra == pytest.approx(4 * (0.5 + 1e-4 * 1000))


def test_a_step_costs_something_whatever_its_images() -> None:
    slow = {"only": Learning(3e-3, 6e-3, 0.25, 1e6)}
    stages = tuple(dataclasses.replace(stage, learning=slow) for stage in INVENTED.stages)
    known = dataclasses.replace(INVENTED, stages=stages)
    for strategy, learning_stages in (("head(epochs=1)", 1), ("full(epochs=1)", 3)):
        extra = parts(strategy, known)["training"] - parts(strategy)["training"]
        assert extra == pytest.approx(4 * 0.25 * learning_stages)


def test_pixels_are_normalised_where_nothing_is_frozen() -> None:
    known = dataclasses.replace(INVENTED, normalise_s=0.1)
    for strategy, images in (("full(epochs=2)", 200), ("head(epochs=2)", 0)):
        extra = parts(strategy, known)["training"] - parts(strategy)["training"]
        assert extra == pytest.approx(0.1 * images)


def test_a_linear_probe_solves_folds_and_once_more() -> None:
    known = dataclasses.replace(INVENTED, solve=Line(0.1, 0.0), solve_grid=Line(1.0, 0.0), temperature_s=0.01)
    assert parts("linear_probe", known)["head solved for"] == pytest.approx(5 * 6 / 11 + 0.1 + 0.06)
    assert parts("linear_probe(ridge)", known)["head solved for"] == pytest.approx(0.6 + 0.06)
    assert parts("lp_ft", known)["head solved for"] == pytest.approx(0.1)


def test_a_head_that_reads_more_columns_than_images_is_dearer() -> None:
    line = Line(0.0, 1e-5)
    known = dataclasses.replace(INVENTED, solve=line, solve_grid=line, statistics=(16, 8, 4, 2, 1))
    seconds = {
        layers: parts(f"linear_probe(layers={layers})", known)["head solved for"]
        for layers in ("last", 1, 4, "all")
    }
    columns = {"last": 64, 1: 80, 4: 94, "all": 95}  # of 100 training images, 80 in a fold
    for layers, count in columns.items():
        numbers = 100 * count * 3 + 5 * 6 / 11 * 80 * min(80, count) * 3
        assert seconds[layers] == pytest.approx(1e-5 * numbers), layers
    assert parts("linear_probe", known)["head solved for"] == seconds[4]  # the default
    memory = {
        layers: predict(f"linear_probe(layers={layers})", known, **DATA, flip="none").peak_memory_bytes
        for layers in ("last", "all")
    }
    assert memory["all"] > memory["last"]


def test_asking_for_flips_solves_two_heads_a_fold() -> None:
    known = dataclasses.replace(INVENTED, solve=Line(0.1, 0.0))
    extra = parts("full", known, flip="auto")["flip test"] - parts("full", flip="auto")["flip test"]
    assert extra == pytest.approx(10 * 0.1)


def test_asking_whether_images_have_an_up_costs_as_much_but_for_the_plain_rows() -> None:
    once = parts("full", flip="auto")["flip test"]
    assert parts("full", rotate="auto")["flip test"] == once
    both = parts("full", flip="auto", rotate="auto")["flip test"]
    assert 1.4 * once < both < 2 * once
    assert "flip test" not in parts("full", rotate="90")


def test_rows_are_found_by_the_digest_of_what_is_frozen() -> None:
    known = dataclasses.replace(INVENTED, find=Line(0.0, 1e-3))
    # A second a stage. The plan; features; figures of val and test.
    assert parts("linear_probe", known, warm=True)["start"] == pytest.approx(2.0 + 2.0 + 2 * 2.0)
    assert parts("linear_probe", known)["start"] == pytest.approx(2.0 + 3 * (1.0 + 2.0))  # block's, too


def test_what_a_run_writes_beside_learning() -> None:
    known = dataclasses.replace(INVENTED, sheet_s=1.0, look_s=0.1, summary_s=3.0, temperature_s=0.2)
    assert parts("head(epochs=1)", known)["start"] == pytest.approx(1.0 + 0.1)
    assert parts("full(epochs=1)", known, augment="none")["start"] == 0.0
    figures = parts("full(epochs=1)", known)["final figures"] - parts("full(epochs=1)")["final figures"]
    assert figures == pytest.approx(3.0 + 0.2)


def test_memory_is_what_stays_and_the_highest_moment() -> None:
    cost = predict("full", INVENTED, flip="none", **DATA)  # type: ignore[arg-type]
    weights = 3000 * 4
    # The model, the best so far, moments, all that learns as the epoch began; pictures.
    stays = weights * (1 + 1 + 2 + 3) + (100 + 20) * 10_000
    step = 25 * (3e6 + 3 * 32**2 * 4) + 500_000 + weights  # four batches an epoch
    base = 1_000_000 + SMALL_BYTES
    assert cost.peak_memory_bytes == pytest.approx(base + stays + step, rel=1e-6)
    figures = 3_000_000 + (20 + 40) * 10_000  # fit into what the steps freed, or not
    bound = base + stays + step + figures + UNSEEN_BYTES
    assert cost.peak_memory_upper_bytes == pytest.approx(bound, rel=1e-6)


def test_freed_memory_is_used_again_but_not_all_of_it() -> None:
    assert grown([Moment(100.0), Moment(100.0)]) == pytest.approx(100 + (1 - REUSED) * 100)
    assert grown([Moment(100.0, 10.0), Moment(50.0)]) == pytest.approx(110.0)
    assert grown([Moment(0.0, 10.0), Moment(0.0, 10.0)]) == pytest.approx(20.0)


def test_memory_of_a_gpu_is_weights_what_learns_and_what_a_step_keeps() -> None:
    on_gpu = dataclasses.replace(INVENTED, device="a card")

    def peak(strategy: str, known: Rates = on_gpu, **changed: object) -> int:
        given = {**DATA, "flip": "none", **changed}
        bytes_ = predict(strategy, known, **given).device_peak_bytes  # type: ignore[arg-type]
        assert bytes_ is not None
        return bytes_

    for device in ("", "cpu some processor"):
        on_processor = dataclasses.replace(INVENTED, device=device)
        assert predict("full", on_processor, **DATA).device_peak_bytes is None  # type: ignore[arg-type]
    images = 25  # four batches an epoch
    kept_bytes = sum(stage.learning[stage.plan].kept_bytes for stage in on_gpu.stages)
    weights = on_gpu.model_bytes
    by_hand = (1 + 1 + 2 + 3 + 1) * weights + images * (kept_bytes + 4 * on_gpu.pixel_bytes)
    assert peak("full") == by_hand + device_memory.WORKSPACE_BYTES
    assert peak("full", batch=64) > peak("full") > peak("full", batch=8)
    assert peak("full(ema=0.9)") == peak("full") + 2 * weights
    assert peak("full") > peak("top_k(1)") >= peak("linear_probe")
    # What is evaluated is no more than there are images.
    many, as_many = (dataclasses.replace(on_gpu, evaluation_batch=batch) for batch in (10**6, 40))
    assert peak("full", many) == peak("full", as_many)


def test_tensors_that_are_alive_at_once_are_counted() -> None:
    before, weight = torch.ones(4, 1000), torch.ones(1000)  # 16 kB and 4 kB

    def run() -> Tensor:
        a = before * weight  # 16 kB
        b = a + 1.0  # two of them
        del a
        c = b.view(2, 2000) * 2.0  # a view is none of its own: two
        del b
        return c.mul_(2.0).sum()

    assert live_bytes(run, "cpu") == 2 * 4 * 4000
    assert live_bytes(run, "cuda") == 0  # of another device
    assert live_bytes(lambda: before.add_(0.0), "cpu") == 0


@pytest.mark.usefixtures("on_processor")
def test_a_pass_without_gradients_holds_what_a_gpu_is_said_to_hold(images: Images) -> None:
    """In float32: a block's input and its convolution's output, or two maps of its output's size."""
    backbone, plan = tiny_backbone(), numerics.exact_plan(1)
    one = rate_measurement._live(backbone, ForwardConfig(plan, 64))
    pixels, widest = 3 * 16 * 16, 8 * 16 * 16
    assert 2 * 4 * widest <= one <= 4 * (3 * pixels + 3 * widest)
    peaks = dataclasses.replace(INVENTED.peaks, live_frozen=10**9, live_evaluation=one)
    on_gpu = dataclasses.replace(INVENTED, device="a card", peaks=peaks)
    peak = predict("linear_probe", on_gpu, flip="none", **DATA).device_peak_bytes  # type: ignore[arg-type]
    assert peak is not None
    assert peak > on_gpu.frozen_batch * 10**9


def test_memory_that_was_not_used_before_takes_time() -> None:
    known = dataclasses.replace(INVENTED, touch_s=1e-9)
    cost = predict("full", known, flip="none", **DATA)  # type: ignore[arg-type]
    assert cost.parts["fresh memory"] == pytest.approx((cost.peak_memory_bytes - 1_000_000) * 1e-9)


def test_work_in_a_run_takes_longer_than_alone() -> None:
    seconds_of = parts("full(epochs=5)")
    assert seconds_of["beside"] == pytest.approx(BESIDE * (sum(seconds_of.values()) - seconds_of["beside"]))


def test_disk_is_the_rows_of_each_view() -> None:
    cost = predict("head(epochs=6)", INVENTED, flip="none", cache="keep", **DATA)  # type: ignore[arg-type]
    # Three views of train, val; val and test again in float32 for the final figures.
    assert cost.disk_bytes == (3 * 100 + 20) * 128 + (20 + 40) * 256


def test_disk_holds_the_statistics_of_plain_views() -> None:
    known = dataclasses.replace(INVENTED, statistics=(10, 6))  # of block, and of stem
    given = {**DATA, "flip": "none", "cache": "keep"}
    probe = predict("linear_probe", known, **given)  # type: ignore[arg-type]
    rows = predict("linear_probe", INVENTED, **given).disk_bytes  # type: ignore[arg-type]
    assert probe.disk_bytes == rows + (100 + 20 + 40) * 4 * (10 + 6)
    lowest = predict("top_k(1, epochs=6)", known, **given).disk_bytes  # type: ignore[arg-type]
    rows = predict("top_k(1, epochs=6)", INVENTED, **given).disk_bytes  # type: ignore[arg-type]
    # Plain views of train at the last cut; at the phase's cut those of val, of the stem alone.
    assert lowest == rows + (100 * (10 + 6) + 20 * 6) * 4


# --- what must hold whatever the rates -------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_images_are_not_cheaper(strategy: str, warm: bool) -> None:
    text = strategy if strategy == "linear_probe" else f"{strategy.rstrip(')')}, epochs=6)"
    text = text if "(" in text else text.replace(", ", "(", 1)
    for key in ("train", "val", "test"):
        costs = [
            predict(text, DEAR, **{**DATA, key: count}, warm=warm) for count in (32, 96, 224, 896)
        ]  # full batches
        for less, more in itertools.pairwise(costs):
            assert less.seconds <= more.seconds
            assert less.disk_bytes <= more.disk_bytes
            assert less.peak_memory_bytes <= more.peak_memory_bytes


@pytest.mark.parametrize("strategy", ["head", "top_k(1, {})", "gradual_unfreeze", "lp_ft", "full"])
def test_more_epochs_are_not_cheaper(strategy: str) -> None:
    def seconds(epochs: int) -> float:
        setting = f"epochs={epochs}"
        text = strategy.format(setting) if "{" in strategy else f"{strategy}({setting})"
        return predict(text, DEAR, **DATA).seconds  # type: ignore[arg-type]

    assert seconds(2) < seconds(4) < seconds(12)


@pytest.mark.parametrize("warm", [False, True])
def test_a_lower_cut_is_not_cheaper(warm: bool) -> None:
    """Law 8, decode and read apart."""

    def seconds(thaw: str) -> float:
        seconds_of = parts(f"phases({thaw}@6)", DEAR, warm=warm, cache="keep")
        return sum(value for item, value in seconds_of.items() if item not in ("decode", "cache"))

    assert seconds("0") <= seconds("1") <= seconds("all")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_warm_is_cheaper_than_cold(strategy: str) -> None:
    cold = predict(strategy, DEAR, **DATA)  # type: ignore[arg-type]
    warm = predict(strategy, DEAR, warm=True, **DATA)  # type: ignore[arg-type]
    assert warm.seconds < cold.seconds
    assert warm.peak_memory_bytes <= cold.peak_memory_bytes
    assert sum(warm.parts.values()) == pytest.approx(warm.seconds)


def test_the_formulae_need_no_torch() -> None:
    code = (
        "import sys, json, frostline.cost as c;"
        "rates = c.Rates.from_dict(json.loads(sys.stdin.read()));"
        "c.predict('gradual_unfreeze', rates, train=100, val=20, test=40, classes=3);"
        "print([m for m in ('torch', 'numpy', 'timm', 'PIL') if m in sys.modules])"
    )
    given = json.dumps(DEAR.as_dict())
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# --- views -----------------------------------------------------------------------------------------------


def test_views_are_those_that_training_plans(data: Manifest, tmp_path: Path) -> None:
    for number, text in enumerate(("head(epochs=40)", "top_k(1, epochs=2)", "gradual_unfreeze", "full")):
        options = {"deterministic": True, "threads": 1, "flip": "none"}
        run = frostline.train(tiny_backbone(), data, text, study=tmp_path / str(number), **options)
        plan = run.numeric_plan["frozen"]
        phases = schedule(parse(text), stages=5, images=36, batch=32)
        assert plan["views"] == views_of(phases)
        needed = needs(phases, plan["views"])
        assert {row["cut"] for row in plan["cached"]} == set(needed)
        for row in plan["cached"]:
            if row["views"]:
                assert row["views"] == sorted({0, *needed[row["cut"]].passes})


def test_views_cycle_and_grow_with_long_runs() -> None:
    assert [views_for(epochs) for epochs in (0.4, 1, 2, 3, 30, 31, 100)] == [1, 1, 2, 3, 3, 4, 10]
    assert [view_at(drawn, 3) for drawn in (1, 2, 3, 4)] == [0, 1, 2, 0]
    assert view_at(4, 0) == 4
    assert on_the_way([4, 3, 0, 2, 1]) == [3]
    assert on_the_way([4, 3, 2]) == [2, 3]


# --- measured --------------------------------------------------------------------------------------------


def test_rates_are_measured_stage_by_stage(images: Images) -> None:
    backbone = tiny_backbone()
    rates = profiling.measure(backbone, images, cache=FeatureCache(), threads=1)
    assert [stage.name for stage in rates.stages] == [stage.name for stage in backbone.stages]
    assert [stage.cut for stage in rates.stages] == [0, 1, 2, 3, 4]
    model = backbone.adapt(3)
    assert rates.parameters == sum(p.numel() for p in model.parameters())
    assert rates.last.parameters == 24 * 3 + 3
    assert rates.picture_bytes == 20 * 20 * 3
    for stage in rates.stages:
        assert stage.plan in stage.learning
        assert set(stage.learning) == set(numerics.candidates(1))
        assert all(each.backward_s > 0 and each.kept_bytes > 0 for each in stage.learning.values())
    assert rates.stages[0].row_bytes == 3 * 16 * 16
    assert rates.stages[1].row_bytes == 8 * 16 * 16 * rates.value_bytes
    assert Rates.from_dict(json.loads(json.dumps(rates.as_dict()))) == rates
    assert predict("top_k(1)", rates, **DATA).seconds > 0  # type: ignore[arg-type]


@pytest.mark.parametrize("full", [False, True])
def test_files_are_timed_elsewhere_where_the_cache_folder_takes_none(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`measure`, `plan` and `fit` ended there, after a warning that they go on without a cache."""
    real = directories.write_atomically

    def refuse(path: Path, content: bytes) -> None:
        if path.is_relative_to(tmp_path / "cache"):
            raise OSError(28, "No space left on device", str(path))
        real(path, content)

    if full:
        monkeypatch.setattr(directories, "write_atomically", refuse)
    else:
        (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv(directories.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.warns(CacheWarning), FeatureCache() as cache:
        assert rate_measurement._disk_seconds(cache)["write"].at(1_000_000) > 0


def test_timings_that_contradict_each_other_give_no_negative_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A neighbour held up what lies beside the stages, and not the whole step."""
    monkeypatch.setattr(
        training_rates, "measure_warm", lambda run: run() or training_rates.Measured(1e-6, 0, 1e-6, 0)
    )
    steps = training_rates.steps(tiny_backbone(), 8, 3, 1)
    assert all(rate >= 0 for rows in steps.rates.values() for row in rows for rate in row)


@pytest.mark.usefixtures("on_processor")
def test_kept_bytes_are_what_autograd_keeps(images: Images) -> None:
    """By hand, in float32: a block's input, its convolution's output, ReLU's output, dropout's mask."""
    backbone = tiny_backbone()
    plan = {"float32": numerics.candidates(1)["float32"]}
    rows = training_rates._chains(backbone, backbone.adapt(3), plan, 32)["float32"]
    sizes = [3 * 16 * 16, 8 * 16 * 16, 12 * 8 * 8, 16 * 4 * 4, 24 * 4 * 4]
    expected = [4 * (before + 3 * after) for before, after in itertools.pairwise(sizes)]
    assert [kept for *_, kept in rows[:-1]] == expected


def test_rates_measured_beside_other_work_say_so(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    monkeypatch.setattr(cpu_threads, "_look", lambda since=None: cpu_threads.cores() - 0.5)
    rates = profiling.measure(backbone, images, cache=FeatureCache(), threads=1)
    assert "50%" in rates.notes[0]
    monkeypatch.setattr(rate_correction.numeric_search, "pass_s", lambda *_: 1e9)
    (note,) = profiling.measure(backbone, images, cache=FeatureCache(), threads=1).notes  # held against now
    assert "were out of date" in note
    monkeypatch.setattr(cpu_threads, "_look", lambda since=None: 0.0)
    assert profiling.measure(backbone, images, cache=FeatureCache(), threads=1, batch=16).notes == ()
    assert Rates.from_dict(json.loads(json.dumps(rates.as_dict()))) == rates


def test_a_run_after_measuring_times_nothing(
    data: Manifest, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone()
    rates = profiling.measure(backbone, images, cache=FeatureCache(), threads=1)
    monkeypatch.setattr(numerics, "seconds", lambda run, **_: pytest.fail("timed again"))
    for text in ("head(epochs=2)", "top_k(2, epochs=2)", "full(epochs=1)"):
        run = frostline.train(backbone, data, text, study=tmp_path / "study", threads=1)
        cut = schedule(parse(text), stages=5, images=36, batch=32)[0].cut
        plans = numerics.candidates(1)
        chosen = plans[rates.at(cut).plan]
        assert run.numeric_plan["precision"] == chosen.precision
        assert run.numeric_plan["channels_last"] == chosen.channels_last


def test_measuring_leaves_weights_and_random_state_alone(images: Images) -> None:
    backbone = tiny_backbone()
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    state = torch.get_rng_state()
    profiling.measure(backbone, images, cache=FeatureCache(), threads=1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in backbone.model.state_dict().items())
    assert not backbone.model.training


def test_a_hopeless_plan_is_not_timed_with_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []

    def seconds(
        backbone: object, model: object, plan: numerics.NumericPlan, images: int
    ) -> list[training_rates.Pass]:
        timed.append((plan.channels_last, images))
        return [(0.1 * images, 0.2 * images) if plan.channels_last else (0.2 * images, 0.4 * images)] * 5

    monkeypatch.setattr(training_rates, "_timed", seconds)
    backbone = tiny_backbone()
    plans = {name: plan for name, plan in numerics.candidates(1).items() if plan.precision == "float32"}
    chains = training_rates._chains(backbone, backbone.adapt(3), plans, 32)
    assert timed == [
        (False, training_rates.FEW),
        (True, training_rates.FEW),
        (True, training_rates.SOME),
    ]  # they take long
    assert [row[:2] for row in chains["float32"]] == [pytest.approx((0.2, 0.4))] * 5
    assert [row[:2] for row in chains["channels-last"]] == [pytest.approx((0.1, 0.2))] * 5


def test_a_gpu_is_timed_with_whole_batches_or_as_many_as_it_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With few images it is timed how quickly work is given to it, which no precision changes."""
    assert numeric_search.trial_images(256) == profiling.TRIAL
    monkeypatch.setattr(devices, "_best", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert numeric_search.trial_images(256) == 256
    tried: list[int] = []

    def work(images: int) -> int:
        tried.append(images)
        if images > 64:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return images

    assert numeric_search.with_fewer(work, 256) == 64
    assert tried == [256, 128, 64]
    with pytest.raises(torch.OutOfMemoryError):
        numeric_search.with_fewer(lambda images: work(1000), 256)

    counts: set[int] = set()

    def seconds(backbone: object, model: object, plan: object, images: int) -> list[training_rates.Pass]:
        counts.add(images)
        return [(0.01, 0.02)] * 5

    plans = {"float32": numerics.plain_plan(1, ""), "channels-last": numerics.plain_plan(1, "")}
    monkeypatch.setattr(training_rates, "_timed", seconds)
    monkeypatch.setattr(training_rates, "_rows", lambda *arguments: arguments[-1])
    chains: Any = training_rates._chains(None, None, plans, 256)  # type: ignore[arg-type]
    assert chains == {"float32": 256, "channels-last": 256}
    assert counts == {training_rates.FEW, 256}
    few: Any = training_rates._chains(None, None, plans, 1)  # type: ignore[arg-type]
    assert few == dict.fromkeys(plans, training_rates.MANY)  # a line through one point has no slope


def test_rates_of_one_head_serve_another(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    three = profiling.measure(backbone, images, cache=FeatureCache(), threads=1, classes=3)
    monkeypatch.delattr(rate_measurement, "_network")  # nothing is left to be timed
    nine = profiling.measure(backbone, images, cache=FeatureCache(), threads=1, classes=9)
    assert nine.parameters - three.parameters == 6 * (backbone.feature_width + 1)


def test_memory_that_timing_has_taken_is_no_part_of_a_run(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same prediction, whether the network was timed just now or an hour ago."""
    held, timing = [1_000_000], rate_measurement._network

    def network(*arguments: Any) -> dict[str, Any]:
        held[0] = 900_000_000
        return timing(*arguments)

    monkeypatch.setattr(rate_measurement, "_network", network)
    monkeypatch.setattr(rate_measurement, "_base_bytes", lambda: held[0])
    rates = profiling.measure(tiny_backbone(), images, cache=FeatureCache(), threads=1, classes=3)
    assert (rates.peaks.base, held) == (1_000_000, [900_000_000])


# --- decoding beside computing ---------------------------------------------------------------------------


def test_on_a_card_the_slower_of_decoding_and_computing_decides() -> None:
    card = Pipeline(workers=16, cores=16, on_gpu=True)
    assert card.waiting_s(12.96, 2.0) == 0.0  # 16 threads, 0.81 of each: one second
    assert card.waiting_s(12.96, 0.25) == pytest.approx(0.75)
    assert (card.decides(12.96, 2.0), card.decides(12.96, 0.25)) == ("network", "decoding")
    fewer = dataclasses.replace(card, cores=4)
    assert fewer.waiting_s(3.24, 0.0) == pytest.approx(1.0)  # threads beyond the cores bring nothing
    assert Pipeline(workers=1, cores=16, on_gpu=True).waiting_s(3.0, 2.0) == pytest.approx(1.0)
    assert dataclasses.replace(card, workers=0).waiting_s(3.0, 100.0) == 3.0  # in between


def test_on_a_processor_decoding_and_computing_share_the_cores() -> None:
    two = Pipeline(workers=2, cores=2)
    assert two.waiting_s(3.0, 10.0) == pytest.approx(1.5)
    assert Pipeline(workers=1, cores=1).waiting_s(3.0, 10.0) == 3.0  # as without threads
    assert Pipeline(workers=1, cores=8).waiting_s(8.0, 2.0) == pytest.approx(
        6.0
    )  # one thread is slower still
    assert (two.decides(3.0, 10.0), two.decides(30.0, 10.0)) == ("network", "decoding")
    in_turn = Pipeline(workers=2, cores=2, in_turn=True)
    assert in_turn.waiting_s(3.0, 10.0) == in_turn.waiting_s(3.0, 0.0) == pytest.approx(3.0 / 1.62)
    assert (in_turn.decides(3.0, 1.9), in_turn.decides(3.0, 1.8)) == ("network", "decoding")


def test_predicted_seconds_know_the_pipeline() -> None:
    known = dataclasses.replace(INVENTED, file_s=0.1, augment_s=0.1)
    computed = 100 * 3 * 9e-3  # an epoch's steps
    options = {"epochs": 1, "decode": 100 * 0.2}

    def decode(pipeline: Pipeline, **changed: object) -> float:
        return parts("full(epochs=1)", dataclasses.replace(known, pipeline=pipeline), val=0, **changed)[
            "decode"
        ]

    assert decode(Pipeline()) == pytest.approx(options["decode"])
    assert decode(Pipeline(2, 2)) == pytest.approx(options["decode"] / 2)
    four = Pipeline(4, 4, on_gpu=True)
    assert decode(four) == pytest.approx(options["decode"] / 3.24 - computed)
    assert decode(Pipeline(16, 16, on_gpu=True)) == 0.0  # 1.5 s beside 2.7 s
    slow = predict("full(epochs=1)", dataclasses.replace(known, pipeline=four), **DATA)  # type: ignore[arg-type]
    quick = predict("full(epochs=1)", INVENTED, **DATA)  # type: ignore[arg-type]
    assert (slow.decides, quick.decides) == ("decoding", None)
    assert Rates.from_dict(dataclasses.replace(known, pipeline=four).as_dict()).pipeline == four


@pytest.mark.usefixtures("on_processor")
def test_rates_hold_the_threads_that_will_decode(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frostline.system.cpu_threads.cores", lambda: 2)
    assert rate_measurement.pipeline_of(images, 2, 2) == Pipeline(2, 2, in_turn=True)
    assert rate_measurement.pipeline_of(images, 3, 2) == Pipeline(3, 2)
    assert rate_measurement.pipeline_of(images, 3, 1) == Pipeline(3, 1)
    assert rate_measurement.pipeline_of(images, 1, 2) == Pipeline(1, 2)
    assert rate_measurement.pipeline_of(images, 0, 2) == Pipeline(0, 2)
    assert 1 <= rate_measurement.pipeline_of(images, "auto", 2).workers <= 2
