"""Staged unfreezing under Lightning and transformers, against the libraries of today."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import frostline
from frostline.errors import ModelError, UsageError
from frostline.models import Backbone
from tiny import tiny_backbone
from unfreezing_elsewhere import (
    EPOCHS,
    STRATEGY,
    Killed,
    lightning_fit,
    lightning_module,
    transformers_trainer,
)

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),  # remarks on workers, devices and logging
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # theirs
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

CUTS = [4, 4, 3, 3, 2, 2, 2, 2]  # of each epoch


def learning(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def differ(one: nn.Module | dict[str, Tensor], two: nn.Module | dict[str, Tensor]) -> set[str]:
    a, b = (x.state_dict() if isinstance(x, nn.Module) else x for x in (one, two))
    return {name for name in a if not torch.equal(a[name], b[name])}


def check_every_epoch(backbone: Backbone, seen: list[dict[str, Any]]) -> None:
    """Each epoch moved what its cut lets learn, and no statistic; validation changed nothing of that."""
    assert [row["cut"] for row in seen] == CUTS
    stage_of = backbone.stage_of(backbone.adapt(3))
    for row in seen:
        moved = {name for name in row["after"] if not torch.equal(row["after"][name], row["before"][name])}
        assert {stage_of[name] for name in moved} == set(range(row["cut"], 5))
        assert not [name for name in moved if "running" in name or "num_batches" in name]
        assert row["training"] == row["expected"]  # the modes at a step of training


# --- Lightning ------------------------------------------------------------------------------------------


def test_lightning_stages_with_validation_between_them(backbone: Backbone, tmp_path: Path) -> None:
    """Lightning #18930 (validation ends in train mode) and #21531 (BatchNorm of what is frozen learns)."""
    module = lightning_module(backbone)
    lightning_fit(backbone, module, tmp_path)
    check_every_epoch(backbone, module.seen)
    assert module.validated == EPOCHS
    assert module.groups == {len(frostline.param_groups(backbone, module.model))}
    assert len(module.groups) == 1


@pytest.mark.parametrize("stopped", [1, 3, 5])
def test_lightning_resumes_in_the_middle(stopped: int, backbone: Backbone, tmp_path: Path) -> None:
    """Lightning #21901: what had been thawed came back frozen. Also #6891: the number of groups."""
    whole = lightning_module(backbone)
    lightning_fit(backbone, whole, tmp_path / "whole")
    first = lightning_module(backbone)
    first.dies_in_epoch = stopped
    with pytest.raises(Killed):
        lightning_fit(backbone, first, tmp_path / "part")
    [checkpoint] = (tmp_path / "part").rglob("*.ckpt")
    again = lightning_module(backbone)
    lightning_fit(backbone, again, tmp_path / "part", checkpoint)
    assert [row["cut"] for row in again.seen] == CUTS[stopped:]
    assert learning(again.model) == learning(whole.model)
    assert differ(again.model, whole.model) == set()


def test_lightning_refuses_what_it_cannot_follow(backbone: Backbone, tmp_path: Path) -> None:
    module = lightning_module(backbone)
    module.optimizer = lambda: torch.optim.AdamW(module.model.head.parameters())
    with pytest.raises(ModelError, match="frozen ones too"):
        lightning_fit(backbone, module, tmp_path)
    module = lightning_module(backbone)
    made = torch.optim.AdamW(module.model.parameters())
    module.optimizer = lambda: ([made], [torch.optim.lr_scheduler.StepLR(made, 1)])
    with pytest.raises(UsageError, match="return none from configure_optimizers"):
        lightning_fit(backbone, module, tmp_path)


# --- transformers ---------------------------------------------------------------------------------------


def test_transformers_stages_with_evaluation_between_them(backbone: Backbone, tmp_path: Path) -> None:
    trainer, seen = transformers_trainer(backbone, tmp_path)
    trainer.train()
    check_every_epoch(backbone, seen)
    assert len([row for row in trainer.state.log_history if "eval_loss" in row]) == EPOCHS


def test_transformers_rates_of_late_groups_follow(backbone: Backbone, tmp_path: Path) -> None:
    """transformers #20029: a scheduler of constant rates for groups that came late."""
    trainer, seen = transformers_trainer(backbone, tmp_path)
    trainer.train()
    plan = frostline.parse(STRATEGY)
    for row, cut in zip(seen, CUTS, strict=True):
        rates = row["rates"]
        below = {4: 1.0, 3: 0.9, 2: 0.81}[cut]  # a tenth less at each thaw
        assert max(rates.values()) <= (plan.lr or 0) * below + 1e-12
        assert rates[2] == pytest.approx(rates[4] * 0.9**2)
    assert len({row["rates"][2] for row in seen}) > 4


@pytest.mark.parametrize("stopped", [1, 3, 5])
def test_transformers_resumes_in_the_middle(stopped: int, backbone: Backbone, tmp_path: Path) -> None:
    whole, _ = transformers_trainer(backbone, tmp_path / "whole")
    whole.train()
    first, _ = transformers_trainer(backbone, tmp_path / "part", dies_in_epoch=stopped)
    with pytest.raises(Killed):
        first.train()
    again, seen = transformers_trainer(backbone, tmp_path / "part")
    again.train(resume_from_checkpoint=True)
    assert [row["cut"] for row in seen] == CUTS[stopped:]
    assert learning(again.model) == learning(whole.model)
    assert differ(again.model, whole.model) == set()


def test_transformers_refuses_another_scheduler(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="brings a scheduler of its own"):
        transformers_trainer(backbone, tmp_path, scheduler=True)


# --- two processes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["lightning", "transformers"])
def test_two_processes_end_where_one_does(library: str, tmp_path: Path) -> None:
    """Lightning #20340: DDP with parameters that freeze or thaw after it was made."""
    script = str(Path(__file__).parent / "unfreezing_elsewhere.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone"]
    for processes in (1, 2):
        start = launch if library == "transformers" and processes == 2 else []
        command = [sys.executable, *start, script, library, str(processes), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250)
        assert done.returncode == 0, done.stderr
    one, *two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    assert differ(two[0], two[1]) == set()
    for name, value in one.items():
        assert torch.allclose(two[0][name], value, atol=1e-6), name
    start = tiny_backbone().adapt(3)
    moved = differ(one, start)
    assert {"blocks.1.conv.weight", "blocks.2.conv.weight", "head.weight"} <= moved
    changes = [(one[name] - start.state_dict()[name]).abs().max() for name in moved]
    assert min(changes) > 1e-4  # a hundred times what the two may differ by
    assert not {name for name in moved if name.startswith(("stem", "blocks.0")) or "running" in name}
