"""Determinism, and the 16 bits that a device computes with."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import frostline
from frostline.data import Manifest
from frostline.errors import ModelError, UsageError
from frostline.system import devices, numerics
from frostline.training import numeric_plan
from frostline.training.loop import trainer
from frostline.training.train_request import TrainRequest
from tiny import tiny_backbone, tiny_model, write_table

FAST: dict[str, Any] = {"deterministic": True, "threads": 1, "flip": "none", "batch_size": 12}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    table = write_table(tmp_path_factory.mktemp("images") / "images", train=10, val=4, test=4)
    return frostline.load_data(table, near_copies=False)


class Enough(Exception):
    """A caller's progress raises it."""


# --- determinism --------------------------------------------------------------------------------------


def settings() -> list[Any]:
    return [
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    ]


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the device be a GPU of NVIDIA's, with which nothing is computed."""
    monkeypatch.setattr(devices, "_best", lambda: "cuda")


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize("workspace", [None, ":16:8", "nonsense"])
def test_deterministic_sets_what_torch_needs_and_puts_it_back(
    workspace: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    inside: list[Any] = []

    def look() -> None:
        inside.extend(settings())
        raise Enough

    with pytest.raises(Enough), devices.deterministic():
        look()
    assert inside == [True, False, False, False, ":16:8" if workspace == ":16:8" else ":4096:8"]
    assert settings() == before
    with devices.deterministic(False):
        assert settings() == before


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has older settings alone")
def test_float32_is_float32_whatever_a_program_has_set_for_all() -> None:
    parts = devices._precisions()
    before, settings_before = [torch.backends.fp32_precision, *devices._tf32()], settings()
    torch.backends.fp32_precision = "tf32"
    try:
        with devices.full_float32():
            assert [one.fp32_precision for one in parts] == ["ieee"] * 3
            assert settings()[2:4] == [False, False]  # torch can still be asked in the older way
            assert devices.float32_format() == "float32"
        assert [one.fp32_precision for one in parts] == ["tf32"] * 3
    finally:
        torch.backends.fp32_precision = before[0]
        devices._set_tf32(before[1:])  # in the older way, too: torch refuses to tell what was set in both
    assert settings() == settings_before


@pytest.mark.usefixtures("on_cuda")
def test_a_cublas_that_was_used_before_is_one_message() -> None:
    with (
        pytest.raises(UsageError, match="Set CUBLAS_WORKSPACE_CONFIG=:4096:8 before Python starts"),
        devices.naming_layer(nn.Linear(2, 2)),
    ):
        raise RuntimeError(
            "Deterministic behavior was enabled … but this operation is not deterministic because it uses "
            "CuBLAS … you must set an environment variable: CUBLAS_WORKSPACE_CONFIG=:4096:8"
        )


def test_on_the_processor_nothing_is_set(data: Manifest, tmp_path: Path) -> None:
    before = settings()
    seen: list[list[Any]] = []

    def look(what: str, done: int, total: int) -> None:
        seen.append(settings())

    frostline.train(
        tiny_backbone(), data, "full(epochs=1)", study=tmp_path / "s", device="cpu", progress=look, **FAST
    )
    assert seen
    assert all(one == before for one in seen)


@pytest.mark.usefixtures("on_cuda")
def test_a_public_function_that_is_asked_for_it_sets_it() -> None:
    @devices.computes()
    def run(*, deterministic: bool = False, device: str = "auto") -> bool:
        return torch.are_deterministic_algorithms_enabled()

    @devices.computes()
    def judged(config: frostline.Config | None = None, **options: Any) -> list[bool]:
        return [torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32]

    assert (run(), run(deterministic=True), run()) == (False, True, False)
    assert judged(frostline.Config(deterministic=True)) == [True, False]
    assert judged(frostline.Config(deterministic=True), deterministic=False) == [False, True]


class Unpooling(nn.Module):
    """Has a layer that torch cannot compute deterministically, on the processor neither."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.back = nn.ModuleDict({"up": nn.MaxUnpool2d(2)})

    def forward(self, x: Tensor) -> Tensor:
        return self.back["up"](*self.pool(x))


def test_a_layer_that_cannot_be_deterministic_is_named() -> None:
    model = Unpooling()
    torch.use_deterministic_algorithms(True)
    try:
        message = r"Layer back\.up \(MaxUnpool2d\) cannot be computed deterministically"
        with pytest.raises(ModelError, match=message), devices.naming_layer(tiny_model()):  # of a copy
            model(torch.randn(1, 3, 8, 8))
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_layer_is_named_from_its_backward_pass() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(3))
    refusal = (
        "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'."
    )
    message = r"Layer 1 \(AdaptiveAvgPool2d\) .*Leave deterministic out"
    with pytest.raises(ModelError, match=message), devices.naming_layer(model):
        raise RuntimeError(refusal)
    with pytest.raises(RuntimeError, match="another"), devices.naming_layer(model):
        raise RuntimeError("another")


# --- 16 bits ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize(
    ("capability", "half", "frozen"),
    [
        ((9, 0), "bfloat16", True),
        ((8, 0), "bfloat16", True),
        ((7, 5), "float16", False),
        ((6, 1), None, False),
    ],
)
def test_the_16_bits_that_a_card_is_quick_with(
    capability: tuple[int, int], half: str | None, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    learning = [plan.precision for plan in numerics.candidates(1).values()]
    assert learning == ["float32", "float32", *([half] if half else [])]
    rows = [plan.precision for plan in numerics.candidates(1, learning=False).values()]
    assert rows == ["float32", "float32", *(["bfloat16"] if frozen else [])]


@pytest.mark.usefixtures("on_processor")
def test_float16_is_for_cards(data: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="float16' is for NVIDIA's GPUs, and device is cpu"):
        frostline.train(tiny_backbone(), data, "head", study=tmp_path / "s", precision="float16")
    with pytest.raises(UsageError, match="deterministic means float32"):
        frostline.train(
            tiny_backbone(), data, "head", study=tmp_path / "s", precision="float16", deterministic=True
        )


@pytest.mark.usefixtures("on_processor")
def test_scaled_losses_learn_what_plain_ones_do(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients are clipped unscaled, and a run that goes on has the scale that it had."""
    real, clip, norms = numeric_plan._plan, torch.nn.utils.clip_grad_norm_, dict[str, list[float]]()
    scales: list[dict[str, float]] = []

    def planned(request: TrainRequest) -> numeric_plan.Plan:
        plan = real(request)
        return replace(plan, numbers=replace(plan.numbers, precision=precision))

    def clipped(parameters: Any, most: float) -> Tensor:
        norms.setdefault(precision, []).append(float(clip(parameters, 1e9)))
        return clip(parameters, most)

    written = trainer.checkpoint.write

    def write(folder: Path, model: nn.Module, value: Any, moments: Any) -> None:
        scales.append(dict(value.loss_scale))
        written(folder, model, value, moments)

    monkeypatch.setattr(numeric_plan, "_plan", planned)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    monkeypatch.setattr(trainer.checkpoint, "write", write)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 1e9)
    runs = {}
    for precision in ("float32", "float16"):
        runs[precision] = frostline.train(
            tiny_backbone(), data, "full(epochs=2)", study=tmp_path / precision, **FAST
        )
    assert norms["float16"][0] == pytest.approx(norms["float32"][0], rel=0.05)
    assert runs["float16"].accuracy == pytest.approx(runs["float32"].accuracy, abs=0.35)
    assert any(scale.get("scale", 0) > 1 for scale in scales)
    assert any(scale == {} for scale in scales)  # float32 has none
