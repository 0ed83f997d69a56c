"""Where an unfinished run goes on: one safetensors file, replaced as a whole, and the one before it.

It holds the model, the best weights so far, the weights' average, the optimizer's state by the names of
parameters and groups, and, in the middle of
an epoch, what of these it may change as it was when the epoch began. Random states are not needed: every draw
is a function of the seed and of the place in the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from frostline.distributed import process_group
from frostline.errors import RunWarning, StudyError
from frostline.system import directories
from frostline.training.resilience.incidents import Incident, IncidentKind

PLACE = (
    "phase",
    "epoch",
    "step",
    "views",
    "steps",
    "best",
    "best_epoch",
    "waited",
    "seconds",
    "epoch_seconds",
    "losses",
    "halvings",
    "pieces",
    "incidents",
    "loss_scale",
)
# The optimizer's state by the name of a parameter, or by "group " and a group's.
Moments = dict[str, dict[str, Tensor]]
# What an optimizer keeps as plain numbers is a tensor here, and its key says so.
_NUMBERS: dict[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float64}
_HOST = "=host"  # ends the key of a tensor that stays in the processor's memory, whose parameter does not
_OURS = ("params", "name", "stage", "peak")  # of a group; the rest is the optimizer's
STATE, BEFORE = "state.safetensors", "state-before.safetensors"


@dataclass
class TrainingState:
    """How far a run has come: `phase`, `epoch` and `step` (in the epoch) are the next ones to do."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    views: int = 0  # augmented epochs so far: the view number of the next is views + 1
    steps: int = 0  # done so far, in all
    stopped: bool = False  # the time was up
    best: float | None = None  # goodness on val
    best_epoch: int | None = None
    waited: int = 0  # epochs of the last phase in a row that were not better on val than the best before
    seconds: float = 0.0  # spent by processes that were stopped, up to their last checkpoint
    epoch_seconds: float = 0.0  # of the epoch under way, likewise
    losses: list[float] = field(default_factory=list)  # of the epoch under way
    halvings: int = 0  # of the learning rate, after losses that were NaN
    pieces: int = 1  # that a batch is learned from in, after memory ran out
    incidents: list[Incident] = field(default_factory=list)  # what went wrong on the way
    loss_scale: dict[str, float] = field(default_factory=dict)  # of float16, as torch's GradScaler has it
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    start: dict[str, Tensor] = field(default_factory=dict)  # what can change, as the epoch began
    start_moments: Moments = field(default_factory=dict)
    start_average: dict[str, Tensor] = field(default_factory=dict)
    moments: Moments = field(default_factory=dict)  # read back
    average: dict[str, Tensor] = field(default_factory=dict)  # of the weights, as it is written or read back


def write(folder: Path, model: nn.Module, state: TrainingState, moments: Moments) -> None:
    """Write the state between two steps. Raises `OSError`; then what was kept before is still there."""
    tensors, place = _tensors(model, state, moments), _place(state)
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    about = {"progress": json.dumps(place), "crc32": str(_crc32(plain))}
    new = folder / f".{STATE}.new.tmp"
    try:
        directories.write_atomically(new, save(plain, metadata=about))
        if (folder / STATE).exists():
            os.replace(folder / STATE, folder / BEFORE)
        os.replace(new, folder / STATE)
        directories.sync_folder(folder)
    finally:
        new.unlink(missing_ok=True)


def shared(folder: Path, model: nn.Module) -> TrainingState:
    """Return how far the run is, and load its state into `model`; in all processes what the first one has.

    Where there is no state, `model` is the first process's all the same.
    """
    state = TrainingState()
    if process_group.leads():
        state = read(folder, model) or state
    if process_group.size() == 1:
        return state
    place = process_group.decided(lambda: _place(state))
    tensors = process_group.tensors(lambda: _tensors(model, state, state.moments))
    model.load_state_dict(_under(tensors, "model."))
    return _progress(place, tensors)


def read(folder: Path, model: nn.Module) -> TrainingState | None:
    """Load the newest state that is whole into `model`, and return how far it is; `None` without any.

    Raises `StudyError` where there are some and none is whole.
    """
    damage = []
    for name in (STATE, BEFORE):
        try:
            state, weights = _read(folder / name)
            model.load_state_dict(weights)
        except FileNotFoundError:
            continue
        except Exception as error:
            damage.append(f"{folder / name} is damaged ({error})")
            continue
        if damage:
            warnings.warn(f"{damage[0]}; going on from the state before it.", RunWarning, stacklevel=2)
        return state
    if damage:
        raise StudyError(f"{'; '.join(damage)}. Delete what is damaged, and the run starts anew.")
    return None


def remove(folder: Path) -> None:
    """Remove the states of a run that is finished, and what a killed process left half-written."""
    for path in (folder / STATE, folder / BEFORE, *folder.glob(".*.tmp")):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[TrainingState, dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    if _crc32(tensors) != int(about["crc32"]):
        raise ValueError("its checksum differs")
    return _progress(json.loads(about["progress"]), tensors), _under(tensors, "model.")


def _place(state: TrainingState) -> dict[str, Any]:
    """What of it is plain data."""
    place = {key: getattr(state, key) for key in PLACE}
    return {**place, "incidents": [asdict(incident) for incident in state.incidents]}


def _tensors(model: nn.Module, state: TrainingState, moments: Moments) -> dict[str, Tensor]:
    """The rest, the model included, by names that `_progress` knows."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in state.best_weights.items()}
    tensors |= {f"average.{k}": v for k, v in state.average.items()}
    tensors |= _flat("adam", moments)
    if state.step:
        tensors |= {f"start.{k}": v for k, v in state.start.items()}
        tensors |= {f"start average.{k}": v for k, v in state.start_average.items()}
        tensors |= _flat("start adam", state.start_moments)
    return tensors


def _progress(place: dict[str, Any], tensors: dict[str, Tensor]) -> TrainingState:
    incidents = [
        Incident(**{**fields, "kind": IncidentKind(fields["kind"])}) for fields in place["incidents"]
    ]
    state = TrainingState(**{**place, "incidents": incidents})
    state.best_weights = _under(tensors, "best.")
    state.start = _under(tensors, "start.")
    state.average = _under(tensors, "average.")
    state.start_average = _under(tensors, "start average.")
    state.moments = _nested(_under(tensors, "adam."))
    state.start_moments = _nested(_under(tensors, "start adam."))
    return state


def _crc32(tensors: dict[str, Tensor]) -> int:
    checksum = 0
    for key in sorted(tensors):
        raw = tensors[key].reshape(-1).view(torch.uint8) if tensors[key].numel() else torch.empty(0)
        checksum = zlib.crc32(raw.numpy().data, zlib.crc32(key.encode(), checksum))
    return checksum


def _flat(prefix: str, moments: Moments) -> dict[str, Tensor]:
    return {f"{prefix}.{key}/{name}": v for name, state in moments.items() for key, v in state.items()}


def _nested(flat: dict[str, Tensor]) -> Moments:
    moments: Moments = {}
    for key, value in flat.items():
        kind, _, name = key.partition("/")
        moments.setdefault(name, {})[kind] = value
    return moments


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def moments_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Moments:
    """Return the optimizer's state by the names of parameters and groups, numbers as tensors."""
    moments = {
        name: _as_tensors(optimizer.state[p], p.device)
        for name, p in model.named_parameters()
        if p in optimizer.state
    }
    counted = {
        f"group {group['name']}": _as_tensors(of_group(optimizer, group), torch.device("cpu"))
        for group in optimizer.param_groups
    }
    return moments | {name: values for name, values in counted.items() if values}


def of_group(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    """Return what an optimizer has noted in a group, such as how many steps it did."""
    return {k: v for k, v in group.items() if k not in optimizer.defaults and k not in _OURS}


def _as_tensors(values: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Return an optimizer's values as tensors, with keys that say which were none, or lie elsewhere.

    Raises `TypeError` for what is neither a tensor nor a number; None is left out.
    """
    tensors = {}
    for key, value in values.items():
        if isinstance(value, Tensor):
            elsewhere = value.device.type == "cpu" != device.type
            tensors[key + _HOST if elsewhere else key] = value
        elif type(value) in _NUMBERS:
            tensors[f"{key}={type(value).__name__}"] = torch.tensor(value, dtype=_NUMBERS[type(value)])
        elif value is not None:
            raise TypeError(f"an optimizer keeps a {type(value).__name__} as {key}, which no state can hold")
    return tensors


def _value(key: str, value: Tensor) -> tuple[str, Any]:
    """Undo `_as_tensors`, of one value."""
    name, _, kind = key.partition("=")
    return name, value.item() if kind in [number.__name__ for number in _NUMBERS] else value


def give_moments(model: nn.Module, optimizer: torch.optim.Optimizer, moments: Moments) -> None:
    """Put saved state back under the same parameter names, in each parameter's own memory format.

    A fused kernel walks parameter and moments side by side in memory: moments laid out otherwise (they
    come contiguous from disk, channels-last weights are not) would be paired with the wrong weights.
    """
    for name, parameter in model.named_parameters():
        for saved_key, saved in moments.get(name, {}).items():
            key, value = _value(saved_key, saved)
            if not isinstance(value, Tensor) or saved_key.endswith(_HOST):
                pass
            elif value.shape == parameter.shape:
                value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
            elif parameter.is_cuda:  # the step count; a fused kernel on a GPU wants it there
                value = value.to(parameter.device)
            optimizer.state[parameter][key] = value
    for group in optimizer.param_groups:
        saved_group = moments.get(f"group {group['name']}", {})
        group.update(_value(key, value.clone()) for key, value in saved_group.items())


def begin_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Note what the coming epoch may change, so that it can be taken back: weights that learn, statistics."""
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    moving = {
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        if module.training
        for key in module._buffers
    }
    weights = model.state_dict()
    state.start = {k: v.detach().clone() for k, v in weights.items() if k in learning or k in moving}
    state.start_moments = {
        name: {key: value.clone() for key, value in moments.items()}
        for name, moments in moments_of(model, optimizer).items()
    }


def take_back(model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Put model, optimizer and progress back to where the epoch began."""
    weights = model.state_dict()
    with torch.no_grad():
        for key, value in state.start.items():
            weights[key].copy_(value)
    optimizer.zero_grad(set_to_none=True)
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for key in of_group(optimizer, group):
            del group[key]
    give_moments(model, optimizer, state.start_moments)
    state.steps -= state.step
    state.step, state.losses = 0, []
