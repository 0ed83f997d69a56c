"""What a processor can tell of a GPU: it is waited for, fed from pinned memory, and asked questions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import frostline
from frostline.errors import TrainingError, UsageError
from frostline.system import device_transfers, devices, numerics
from frostline.training.resilience import nan_oom_recovery
from tiny import tiny_backbone, write_table

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "gpu_benchmark", module)
    spec.loader.exec_module(module)
    return module


def test_the_clock_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: events.append("wait"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: events.append("forget"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    numerics.seconds(lambda: events.append("run"), warm=True)
    assert events[:3] == ["wait", "run", "wait"]
    numerics.forget_device_peak()
    assert (events[-1], numerics.device_peak_bytes()) == ("forget", 7)


def test_memory_of_a_gpu_is_bounded_inside_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[tuple[float, int]] = []
    monkeypatch.setattr(devices, "_best", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6 * 10**9, 8 * 10**9))
    # torch's own function is run, down to CUDA: it refuses a device without a number.
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    set_fraction = "_cuda_setMemoryFraction"  # absent where torch was built without CUDA
    monkeypatch.setattr(torch._C, "_cuda_getMemoryFraction", lambda device: 0.9, raising=False)
    monkeypatch.setattr(
        torch._C, set_fraction, lambda share, device: shares.append((share, device)), raising=False
    )
    with pytest.raises(KeyError), numerics.device_memory_bounded(2 * 10**9):
        raise KeyError
    own = 0.9 if hasattr(torch.cuda, "get_per_process_memory_fraction") else 1.0  # a program's, put back
    assert shares == [(0.25, 3), (own, 3)]
    with numerics.device_memory_bounded(None):
        pass
    assert len(shares) == 2
    assert numerics.device_memory_limit(None) == 8 * 10**9
    with pytest.raises(UsageError, match=r"9 GB, and the GPU has 8 GB"):
        numerics.device_memory_limit(9 * 10**9)


@pytest.mark.usefixtures("on_processor")
def test_a_limit_for_a_gpu_that_does_not_compute_is_refused(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=4, val=2), near_copies=False)
    with pytest.raises(UsageError, match="device_memory limits the memory of a GPU, and cpu computes here"):
        frostline.train(tiny_backbone(), data, "head(epochs=1)", study=tmp_path / "s", device_memory=10**9)


def test_memory_of_a_gpu_that_runs_out_elsewhere_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "in_use", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**9, 8 * 10**9))
    with (
        pytest.raises(TrainingError, match=r"GPU's memory ran out \(1\.0 of its 8\.0 GB are free"),
        nan_oom_recovery.told_plainly(),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_batch_goes_to_a_gpu_from_pinned_memory_and_nobody_waits() -> None:
    class Batch:
        is_cuda = False

        def __init__(self) -> None:
            self.done: list[Any] = []

        def pin_memory(self) -> Batch:
            self.done.append("pinned")
            return self

        def to(self, where: str, non_blocking: bool = False) -> Batch:
            self.done.append((where, non_blocking))
            return self

    batch = Batch()
    device_transfers.to_device(batch, "cuda")  # type: ignore[arg-type]
    assert batch.done == ["pinned", ("cuda", True)]
    pixels = torch.zeros(2)
    assert device_transfers.to_device(pixels, "cpu") is pixels


def test_the_questions_are_answered_and_one_that_fails_stops_no_other(
    gpu: ModuleType, tmp_path: Path
) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=8, val=3, test=3), near_copies=False)
    bench = gpu.Bench(tiny_backbone(), data, tmp_path, epochs=1)
    answers_by_name = {
        name: answer for name, _, _, answer in gpu.answers(bench, ["cuts", "rows", "resumed", "sending"])
    }
    assert [answers_by_name[name]["ok"] for name in ("cuts", "rows", "resumed")] == [True] * 3, (
        answers_by_name
    )
    broken = gpu.answers(gpu.Bench(None, data, tmp_path, 1), ["cuts", "sending"])
    assert [name for name, *_ in broken] == ["cuts", "sending"]  # the second needs a card
    assert broken[0][3]["ok"] is False
    assert "## cuts NO" in gpu.page(broken, "a device")


def test_the_page_names_every_question(gpu: ModuleType) -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    assert [check.__name__ for check in gpu.CHECKS if f"`{check.__name__}`" not in page] == []


def test_a_row_is_answered_once_and_one_that_failed_again(gpu: ModuleType, tmp_path: Path) -> None:
    asked: list[str] = []

    def measure(table: Any) -> dict[str, Any]:
        """Seconds of nothing."""
        asked.append("measured")
        if len(asked) == 1:
            raise ValueError("no such card")
        return {"measured": 2.0}

    row = gpu.Row("nothing", "part", measure, "≤ 1 s", "0 s", lambda value: value <= 1.0)
    table = gpu.Table(tmp_path, gpu.TINY)
    lines = [
        gpu.table_lines(table, gpu.Kept(tmp_path / "kept.json"), "a card", [row], "4 cores: ")[0]
        for _ in range(3)
    ]
    assert lines[0].endswith("FAILED: ValueError: no such card")
    assert lines[1] == lines[2]
    assert lines[2] == "4 cores: nothing: Seconds of nothing; bar ≤ 1 s, aim 0 s; measured 2.000: NOT MET"
    assert len(asked) == 2


def test_every_row_of_the_table_is_on_the_page_and_in_a_part(gpu: ModuleType) -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    assert [row.name for row in gpu.ROWS if f"| `{row.name}" not in page] == []
    assert {row.name for row in gpu.ROWS} >= set(gpu.ON_FOUR_CORES)
    missed = gpu.verdict(gpu.ROWS[-2], {"measured": 0.1, "memory_off": 0.2}, "")
    assert missed.endswith("measured 0.100 (memory off by 0.200): NOT MET")
