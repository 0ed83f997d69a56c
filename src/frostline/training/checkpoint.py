"""Where an unfinished run goes on: one safetensors file, replaced as a whole.

It holds the model, the best weights so far, and the optimizer's moments by parameter name. Random states
are not needed: every draw is a function of the seed and of the place in the run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from frostline import places
from frostline.errors import StudyError

PLACE = ("segment", "epoch", "views", "steps", "best", "best_epoch", "seconds")


@dataclass
class Progress:
    """How far a run has come: `segment` and `epoch` are the next ones to do."""

    segment: int = 0
    epoch: int = 0
    views: int = 0  # augmented epochs so far: the view number of the next is views + 1
    steps: int = 0  # done so far
    stopped: bool = False  # the time was up
    best: float | None = None  # goodness on val
    best_epoch: int | None = None
    seconds: float = 0.0  # spent by processes that were stopped, up to their last checkpoint
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # read back: name → AdamW state


def write(path: Path, model: nn.Module, progress: Progress, moments: dict[str, dict[str, Tensor]]) -> None:
    """Write the state after an epoch."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in progress.best_weights.items()}
    for name, state in moments.items():
        tensors |= {f"adam.{key}/{name}": value for key, value in state.items()}
    place = {key: getattr(progress, key) for key in PLACE}
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    places.write_atomically(path, save(plain, metadata={"progress": json.dumps(place)}))


def read(path: Path, model: nn.Module) -> Progress | None:
    """Load the state into `model` and return how far it is; `None` where there is none."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            place = json.loads(file.metadata()["progress"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:
        raise StudyError(f"{path} is damaged ({error}). Delete it, and the run starts anew.") from None
    progress = Progress(**place)
    model.load_state_dict(_under(tensors, "model."))
    progress.best_weights = _under(tensors, "best.")
    for key, value in _under(tensors, "adam.").items():
        kind, _, name = key.partition("/")
        progress.moments.setdefault(name, {})[kind] = value
    return progress


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def moments_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Return the optimizer's state by parameter name."""
    return {name: dict(optimizer.state[p]) for name, p in model.named_parameters() if p in optimizer.state}


def give_moments(model: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Any]) -> None:
    """Put saved state back under the same parameter names, in each parameter's own memory format.

    A fused kernel walks parameter and moments side by side in memory: moments laid out otherwise (they
    come contiguous from disk, channels-last weights are not) would be paired with the wrong weights.
    """
    for name, parameter in model.named_parameters():
        for key, value in moments.get(name, {}).items():
            if value.shape == parameter.shape:
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            elif parameter.is_cuda:  # the step count; a fused kernel on a GPU wants it there
                value = value.to(parameter.device)
            optimizer.state[parameter][key] = value
