"""A run in Weights & Biases: offline files in the study, unless WANDB_MODE says otherwise."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frostline.loggers.logger import Tracked

FOLDER = "wandb"  # in the study: the library's own name
PROJECT = "frostline"  # unless WANDB_PROJECT says otherwise
KEPT = "loggers.json"  # in the run's folder
KEY = "wandb"
MODULES = ("wandb",)
PATIENCE_S = 10.0  # for a server out of reach; the library's own is 90 s


class WandbRun:
    """One of W&B's runs. Its files cannot be read back, so how far it is stands in the run's folder."""

    def __init__(self, run: Tracked) -> None:
        self._run = run
        kept = self._kept().get(KEY) or {}
        self._id: str = kept.get("id") or uuid.uuid4().hex[:8]
        self.held, self.over = int(kept.get("held", 0)), bool(kept.get("over", False))
        self._open: Any = None if self.over else self._begin()

    def rewind(self, done: int) -> None:
        """Nothing: W&B keeps what it has, and epochs that are run again end as before."""

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Log one epoch."""
        self._open.log(dict(figures), step=step)
        self.held = step
        self._keep()

    def end(self, figures: Mapping[str, float]) -> None:
        """Write the result into the run's summary."""
        self._open.summary.update(dict(figures))
        self.over = True

    def close(self, failed: bool | None) -> None:
        """See everything to the disk, and say how the run ended."""
        opened, self._open = self._open, None
        if opened is not None:
            opened.finish(exit_code=int(failed is True))
            self._keep()

    def _begin(self) -> Any:
        wandb: Any = importlib.import_module("wandb")
        run = self._run
        run.study.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            dir=str(run.study),
            id=self._id,
            name=run.name,
            config=run.parameters,
            mode=mode(),
            resume="allow",
            reinit="create_new",  # a run of the person's own goes on undisturbed
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                init_timeout=PATIENCE_S,
            ),
        )

    def _kept(self) -> dict[str, Any]:
        folder = self._run.folder
        return dict(folder.read(KEPT)) if (folder.path / KEPT).is_file() else {}

    def _keep(self) -> None:
        mine = {"id": self._id, "held": self.held, "over": self.over}
        self._run.folder.write(KEPT, {**self._kept(), KEY: mine})


def mode() -> str:
    """Return where W&B writes: what WANDB_MODE says, else files that nobody else is told of."""
    return os.environ.get("WANDB_MODE") or "offline"


def place(study: Path) -> str:
    """Say where runs of this study go."""
    if mode() == "offline":
        return f'wandb sync "{study / FOLDER}"/offline-run-*'
    return f"{mode()}, as WANDB_MODE says"
