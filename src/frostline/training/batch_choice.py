"""Which batch size a run has: that of a run that was begun before, else what the rule says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from frostline.config import AUTO_BATCH, BATCH
from frostline.errors import StudyError
from frostline.strategies import BatchSize
from frostline.studies.study_folder import RunFolder, digest_of, plain
from frostline.training.train_request import TrainRequest

CHOSEN = ("batch_size", "lr_factor")  # of a configuration: what the rule chooses


def settled(request: TrainRequest, study: str | Path) -> TrainRequest:
    """Return the request with its batch size decided.

    The rule depends on the device, and a run does not: a run of the study that differs in nothing else, and
    whose batch the rule chose then, goes on (or is read back) with that one.
    """
    own = replace(request, settled=request.batch)
    runs = Path(study) / "runs"
    if request.config.batch_size != AUTO_BATCH or not request.strategy.trains or not runs.is_dir():
        return own
    if (runs / digest_of(own.identity())[:12] / "config.json").exists():
        return own
    wanted = _without_choice(plain(own.identity()))
    for file in sorted(runs.glob("*/plan.json")):
        batch = _chosen_then(RunFolder(file.parent), wanted)
        if batch is not None:
            return replace(request, settled=batch)
    return own


def _chosen_then(folder: RunFolder, wanted: dict[str, Any]) -> BatchSize | None:
    """Return the batch size that the rule chose for a run, if it is the wanted one but for that."""
    try:
        config, plan = folder.read("config.json"), folder.read("plan.json")
    except StudyError:  # said where that run is asked for
        return None
    if _without_choice(config) != wanted:
        return None
    if "batch" not in plan:  # of before there was a rule, when this was the default
        return (
            BatchSize(BATCH, auto=True, reason="the default then") if config["batch_size"] == BATCH else None
        )
    batch = BatchSize(**plan["batch"])
    return batch if batch.auto else None


def _without_choice(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in CHOSEN}
