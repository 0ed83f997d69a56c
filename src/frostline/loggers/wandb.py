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
STATE_FILE = "loggers.json"  # in the run's folder
KEY = "wandb"
MODULES = ("wandb",)
PATIENCE_S = 10.0  # for a server out of reach; the library's own is 90 s


class WandbRun:
    """One of W&B's runs. Its files cannot be read back, so how far it is stands in the run's folder."""

    def __init__(self, run: Tracked) -> None:
        self._run = run
        state = self._read_state().get(KEY) or {}
        self._id: str = state.get("id") or uuid.uuid4().hex[:8]
        self.epochs_logged, self.finished = (
            int(state.get("epochs_logged", 0)),
            bool(state.get("finished", False)),
        )
        self._open: Any = None if self.finished else self._begin()

    def rewind(self, done: int) -> None:
        """Nothing: W&B keeps what it has, and epochs that are run again end as before."""

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Log one epoch."""
        self._open.log(dict(figures), step=step)
        self.epochs_logged = step
        self._write_state()

    def end(self, figures: Mapping[str, float]) -> None:
        """Write the result into the run's summary."""
        self._open.summary.update(dict(figures))
        self.finished = True

    def close(self, failed: bool | None) -> None:
        """See everything to the disk, and say how the run ended."""
        opened, self._open = self._open, None
        if opened is not None:
            opened.finish(exit_code=int(failed is True))
            self._write_state()

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
            reinit="create_new",  # a run of the user's own continues undisturbed
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                init_timeout=PATIENCE_S,
            ),
        )

    def _read_state(self) -> dict[str, Any]:
        folder = self._run.folder
        return dict(folder.read(STATE_FILE)) if (folder.path / STATE_FILE).is_file() else {}

    def _write_state(self) -> None:
        state = {"id": self._id, "epochs_logged": self.epochs_logged, "finished": self.finished}
        self._run.folder.write(STATE_FILE, {**self._read_state(), KEY: state})


def mode() -> str:
    """Return where W&B writes: WANDB_MODE, else offline files."""
    return os.environ.get("WANDB_MODE") or "offline"


def place(study: Path) -> str:
    """Return where runs of this study are logged."""
    if mode() == "offline":
        return f'wandb sync "{study / FOLDER}"/offline-run-*'
    return f"{mode()}, as WANDB_MODE says"
