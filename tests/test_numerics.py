"""The numeric plan is decided once and obeyed; BatchNorm statistics are what they say they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import frostline
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images
from frostline.system import numerics
from frostline.system.numerics import NumericPlan
from frostline.system.timing import PeakMemory, resident_bytes
from frostline.training import numeric_plan
from frostline.training.techniques.batchnorm_recalibration import recalibrate
from tiny import PREPROCESSING, tiny_backbone, write_table


def slow_in(precision: str) -> object:
    def step(plan: NumericPlan) -> None:
        torch.ones(400, 400) @ torch.ones(400, 400)
        if plan.precision == precision:
            for _ in range(40):
                torch.ones(400, 400) @ torch.ones(400, 400)

    return step


@pytest.mark.parametrize(("slow", "chosen"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_faster_precision_is_taken(slow: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "_has_bfloat16", lambda: True)
    assert numerics.timed_plan(slow, slow_in(slow)).precision == chosen  # type: ignore[arg-type]
    calls: list[NumericPlan] = []
    again = numerics.timed_plan(slow, calls.append)
    assert again.precision == chosen
    assert not calls, "a ratio once measured is remembered"


def test_without_fast_bfloat16_it_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "_has_bfloat16", lambda: False)
    calls: list[NumericPlan] = []
    plan = numerics.timed_plan("x", calls.append)
    assert plan.precision == "float32"
    assert {call.precision for call in calls} == {"float32"}
    assert {call.channels_last for call in calls} == {False, True}


def test_a_run_obeys_the_plan_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = frostline.load_data(write_table(tmp_path / "i"), near_copies=False)
    place = tmp_path / "study"
    ways: list[str] = []
    real = numeric_plan.augmentation
    monkeypatch.setattr(
        numeric_plan, "augmentation", lambda r, head: ways.append(head.config.plan.precision) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        frostline.train(tiny_backbone(), data, "head", study=place)
    written = next(place.glob("runs/*/plan.json"))
    plan = json.loads(written.read_text())
    other = "float32" if plan["precision"] == "bfloat16" else "bfloat16"
    first = plan["frozen"]["plan"]["precision"]
    second = "float32" if first == "bfloat16" else "bfloat16"
    plan["precision"], plan["frozen"]["plan"]["precision"] = other, second
    written.write_text(json.dumps(plan))
    monkeypatch.setattr(
        numeric_plan,
        "augmentation",
        lambda r, head: (ways.append(head.config.plan.precision), real(r, head))[1],
    )
    run = frostline.train(tiny_backbone(), data, "head", study=place)
    assert ways == [first, second]
    assert run.result["numeric_plan"]["precision"] == other


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with numerics.threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.usefixtures("on_processor")
def test_recalibrated_statistics_are_the_exact_ones(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "i", train=30), near_copies=False)
    backbone = tiny_backbone()
    model = backbone.adapt(3)
    images = Images(data, data.subset("train"), PREPROCESSING, policy=Policy("strong"))
    plan = numerics.exact_plan(1)
    frozen = {k: v.clone() for k, v in model.state_dict().items()}
    recalibrate(backbone, model, backbone.cut(3), images, plan)
    pixels = torch.cat(list(images.evaluation(90)))
    with torch.no_grad():
        x = plan.batch(pixels, PREPROCESSING.normalise)
        before = model.blocks[1](model.blocks[0](model.stem(x)))
        entering = model.blocks[2].conv(before)
    layer = model.blocks[2].bn
    assert torch.allclose(layer.running_mean, entering.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(layer.running_var, entering.transpose(0, 1).flatten(1).var(dim=1), atol=1e-4)
    for name, value in model.state_dict().items():
        assert name.startswith("blocks.2.bn") or torch.equal(value, frozen[name]), name


def test_peak_memory_is_of_this_block_alone() -> None:
    baseline = resident_bytes()
    with PeakMemory(baseline) as large:
        block = torch.ones(60_000_000)  # 240 MB
        del block
    with PeakMemory(baseline) as small:
        torch.ones(1000)
    assert large.bytes > 200e6
    assert small.bytes < 100e6
