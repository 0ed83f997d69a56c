"""The requested loggers, and their libraries. Imports no torch by itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.errors import UsageError, did_you_mean, option
from frostline.loggers import mlflow, tensorboard, wandb
from frostline.loggers.logger import Log, Tracked
from frostline.loggers.run_logger import Following
from frostline.system import timing

if TYPE_CHECKING:
    from frostline.studies.study_folder import RunFolder

NAMES = ("tensorboard", "mlflow", "wandb")
_MODULES = {"tensorboard": tensorboard.MODULES, "mlflow": mlflow.MODULES, "wandb": wandb.MODULES}
_MAKERS: Mapping[str, Callable[[Tracked], Log]] = {
    "tensorboard": tensorboard.Board,
    "mlflow": mlflow.MlflowRun,
    "wandb": wandb.WandbRun,
}


class Loggers:
    """The loggers of one call; their files are in `study`, for all splits."""

    def __init__(self, names: Iterable[str], study: str | Path) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.study = Path(study)
        self._given_up: set[str] = set()

    def follow(self, folder: RunFolder, config: Mapping[str, Any]) -> Following:
        """Return what follows one run."""
        makers = {name: _MAKERS[name] for name in self.names}
        return Following(Tracked(self.study, folder, config), makers, self._given_up)

    def lines(self) -> list[str]:
        """Say where to look."""
        lines = []
        if "tensorboard" in self.names:
            lines.append(f'TensorBoard follows: tensorboard --logdir "{self.study / tensorboard.FOLDER}"')
        if "mlflow" in self.names:
            lines.append(f"MLflow follows: {mlflow.place(self.study)}")
        if "wandb" in self.names:
            lines.append(f"W&B follows: {wandb.place(self.study)}")
        return lines


def parse_names(text: str | Iterable[str]) -> tuple[str, ...]:
    """Return logger names from a comma-separated text or a list.

    Raises
    ------
    UsageError
        A name is unknown.
    """
    parts = [text] if isinstance(text, str) else list(text)
    names = [name.strip() for part in parts for name in part.split(",")]
    invalid = [name for name in names if name not in NAMES]
    if invalid:
        raise UsageError(
            f"{option('logger')} must be one of {', '.join(NAMES)}, found {', '.join(map(repr, invalid))}."
            f"{did_you_mean(invalid[0], NAMES)}"
        )
    return tuple(names)


def make_loggers(logger: str | Iterable[str] | Loggers | None, study: str | Path) -> Loggers:
    """Return the requested loggers, with their libraries imported.

    Parameters
    ----------
    logger : str, iterable of str, Loggers or None
    study : path

    Returns
    -------
    Loggers

    Raises
    ------
    UsageError
        A name is unknown, or a library is missing.
    """
    if isinstance(logger, Loggers):
        return logger
    names = () if logger is None else parse_names(logger)
    for name in names:
        _bring(name)
    return Loggers(names, study)


def _bring(name: str) -> None:
    """Import what a logger needs, so that a run's seconds and memory are its own."""
    try:
        with timing.set_apart(), mlflow.gently():
            for module in _MODULES[name]:
                importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"The logger {name} needs its library, which cannot be imported here ({error}). "
            'Install it: pip install "frostline[loggers]"'
        ) from None
