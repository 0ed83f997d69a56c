"""A run in TensorBoard: event files in a folder of the study, by torch's own writer."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.loggers.logger import LOSS, RESULT, Tracked

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"  # in the study
MODULES = ("tensorboard", "torch.utils.tensorboard", "tensorboard.backend.event_processing.event_accumulator")


class Board:
    """One run's event files."""

    def __init__(self, run: Tracked) -> None:
        self._run = run
        self._folder = run.study / FOLDER / run.name
        self._open: SummaryWriter | None = None
        self.epochs_logged, self.finished = _logged_epochs(self._folder)

    def rewind(self, done: int) -> None:
        """Begin a file that says to forget what is held of later epochs."""
        self._let_go()
        self._open = self._writer(forget_from=done + 1)
        self.epochs_logged = done

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Write one epoch, and see it to the disk."""
        writer = self._writer()
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
        writer.flush()
        self.epochs_logged = step

    def end(self, figures: Mapping[str, float]) -> None:
        """Write the result with its parameters, for the tab HPARAMS."""
        self._writer().add_hparams(self._run.parameters, dict(figures), run_name=".")
        self.finished = True

    def close(self, failed: bool | None) -> None:
        """Close the file; TensorBoard knows no states of a run."""
        self._let_go()

    def _writer(self, forget_from: int | None = None) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        if self._open is None:
            _hear_threads()
            self._open = SummaryWriter(str(self._folder), purge_step=forget_from)
        return self._open

    def _let_go(self) -> None:
        writer, self._open = self._open, None
        if writer is not None:
            writer.close()


@functools.cache
def _hear_threads() -> None:
    """Keep still about TensorBoard's own thread: what it failed of is raised again at the next call."""
    plain = threading.excepthook

    def progress(failed: threading.ExceptHookArgs) -> None:
        if not type(failed.thread).__module__.startswith("tensorboard."):
            plain(failed)

    threading.excepthook = progress


def _logged_epochs(folder: Path) -> tuple[int, bool]:
    """Return how many epochs the files of earlier processes hold, and whether the result is there."""
    if not folder.is_dir():
        return 0, False
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    names = events.Tags()["scalars"]
    epochs = max((event.step for event in events.Scalars(LOSS)), default=0) if LOSS in names else 0
    return epochs, any(name.startswith(RESULT) for name in names)
