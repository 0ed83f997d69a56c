"""What a run does when a loss is NaN or memory runs out: back to the start of the epoch, and on.

Nothing else is changed than what is written into the next checkpoint, so a run that is killed afterwards
takes the same way again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn

from frostline.distributed import process_group
from frostline.errors import RunWarning, TrainingError
from frostline.system import devices
from frostline.system.device_transfers import Fetched
from frostline.training.resilience import checkpoint
from frostline.training.resilience.checkpoint import TrainingState
from frostline.training.resilience.incidents import Incident, IncidentKind

MOST_HALVINGS = 3  # of the learning rate, in a run
NAMED = 8  # files of a batch in a message
CHECKED_EVERY = 50  # steps whose losses a GPU sends in one go: a choice


# What torch's errors say where memory ran out: the host's, and a GPU's where a library of NVIDIA's wanted it.
OF_HOST = ("can't allocate memory", "out of memory")
OF_GPU = ("cuda error: out of memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")


class NotFinite(Exception):
    """A loss or a weight became infinite or no number at a step of the epoch."""

    def __init__(self, step: int, value: float) -> None:
        super().__init__(step, value)
        self.step, self.value = step, value


class OutOfMemory(Exception):
    """A step asked for more memory than there is."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of torch's or Python's says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in (*OF_HOST, *OF_GPU))
    )


def none_where_memory_ran_out(batches: Iterator[Tensor]) -> Iterator[Tensor | None]:
    """Yield batches; where a GPU's memory runs out before one is there, `None` in its place, as the last."""
    while True:
        try:
            batch = next(batches, None)
        except torch.OutOfMemoryError:
            yield None
            return
        if batch is None:
            return
        yield batch


@contextmanager
def told_plainly() -> Iterator[None]:
    """Say in one message that memory ran out, where no smaller batch could help, or that a worker is dead."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if "DataLoader worker" in str(error):
            raise TrainingError(
                "A process that decodes images ended before its time: something stopped it, often a lack of "
                "memory. The same command resumes; try fewer --workers."
            ) from None
        if not is_out_of_memory(error):
            raise
        of_gpu = isinstance(error, torch.OutOfMemoryError) or any(
            text in str(error).lower() for text in OF_GPU
        )
        if of_gpu and devices.in_use():
            torch.cuda.empty_cache()
            free, total = (count / 1e9 for count in torch.cuda.mem_get_info())
            raise TrainingError(
                f"The GPU's memory ran out ({free:.1f} of its {total:.1f} GB are free now). Give smaller "
                "images (--size), a smaller network, more --device-memory where that was given, or end "
                "other processes on it; what is finished is kept."
            ) from None
        free = psutil.virtual_memory().available / 1e9
        raise TrainingError(
            f"Memory ran out ({free:.1f} GB are free now). Give smaller images (--size), fewer --workers or "
            "a smaller network, or end other processes; what is finished is kept."
        ) from None


class LossWatch:
    """Looks at losses while steps go on; where they lie on a GPU, some steps later, so that nobody waits.

    What it has not seen by the end of an epoch, or before a checkpoint, `check_losses` looks at.
    """

    def __init__(self) -> None:
        self._seen = 0  # losses that were looked at, or are on their way
        self._coming: list[tuple[int, Fetched]] = []  # the step of the first of them

    def look(self, losses: list[Tensor], first: int) -> None:
        """Raise `NotFinite` for the first loss known to be NaN; `first` is the step of `losses[0]`."""
        if losses and losses[-1].device.type == "cpu":
            check_losses(losses[-1:], first + len(losses) - 1)
            return
        while self._coming and self._coming[0][1].ready:
            step, values = self._coming.pop(0)
            _check(values.value().tolist(), step)
        start = max(first, self._seen)
        if first + len(losses) - start >= CHECKED_EVERY:
            self._coming.append((start, Fetched(torch.stack(losses[start - first :]))))
            self._seen = first + len(losses)


def check_losses(losses: list[Tensor], first: int) -> None:
    """Raise `NotFinite` for the first loss that is NaN; `first` is the step of the first of them."""
    if losses:
        _check(torch.stack(losses).tolist(), first)


def _check(values: list[float], first: int) -> None:
    for step, value in enumerate(values, first):
        if not math.isfinite(value):
            raise NotFinite(step, value)


def check_weights(model: nn.Module, step: int) -> None:
    """Raise `NotFinite` where a weight that learns is NaN any more."""
    learning = [p.detach() for p in model.parameters() if p.requires_grad]
    if learning and not bool(torch.isfinite(torch.stack(torch._foreach_norm(learning, torch.inf))).all()):
        raise NotFinite(step, float("nan"))


def halve(
    model: nn.Module, opt: torch.optim.Optimizer, state: TrainingState, error: NotFinite, files: list[str]
) -> None:
    """Go back to the start of the epoch with half the learning rate; at most three times in a run.

    `files` are those of the step's batch. Raises `TrainingError` the fourth time, which names them.
    """
    where = f"in epoch {state.epoch + 1} of phase {state.phase + 1}"
    if state.halvings == MOST_HALVINGS:
        listed = ", ".join(files[:NAMED]) + (f" and {len(files) - NAMED} more" if files[NAMED:] else "")
        raise TrainingError(
            f"The loss became {error.value} {where}, also after the learning rate was halved "
            f"{MOST_HALVINGS} times. The batch in which it did: {listed}. Look at these images, or try a "
            "much lower learning rate, for example with lr=0.00005 in the strategy."
        )
    checkpoint.take_back(model, opt, state)
    state.halvings += 1
    incident = Incident(
        IncidentKind.NOT_FINITE,
        value=str(error.value),
        phase=state.phase + 1,
        epoch=state.epoch + 1,
        halvings=state.halvings,
        most_halvings=MOST_HALVINGS,
    )
    state.incidents.append(incident)
    _warn(incident)


def again(model: nn.Module, opt: torch.optim.Optimizer, state: TrainingState) -> None:
    """Go back to the start of the epoch, with the memory of a GPU that nothing holds given back."""
    checkpoint.take_back(model, opt, state)
    give_back()


def give_back() -> None:
    """Give the memory of a GPU back that no tensor holds."""
    if devices.in_use():
        torch.cuda.empty_cache()


def split(
    model: nn.Module, opt: torch.optim.Optimizer, state: TrainingState, sizes: list[int], least: int
) -> None:
    """Go back to the start of the epoch, and learn from each batch in twice as many pieces from now on.

    `sizes` are the epoch's batches, in images; pieces have at least `least`, 2 where BatchNorm takes its
    statistics from them. Raises `TrainingError` where they can't become smaller.
    """
    batch, pieces = max(sizes), 2 * state.pieces
    if min(sizes) // pieces < least:
        raise TrainingError(
            f"Memory ran out while learning from {math.ceil(batch / state.pieces)} image(s) at a time. "
            "Give smaller images (--size), a strategy that freezes more, or end other processes."
        )
    again(model, opt, state)
    first = state.pieces == 1
    state.pieces = pieces
    incident = Incident(
        IncidentKind.OUT_OF_MEMORY,
        batch=batch,
        piece=math.ceil(batch / pieces),
        batch_statistics=least > 1,
    )
    earlier = [other for other in state.incidents if other.kind is not IncidentKind.OUT_OF_MEMORY]
    state.incidents = [*earlier, incident]  # of several, the last number counts
    if first:
        _warn(incident)


def _warn(incident: Incident) -> None:
    """Warn once a job, in its first process."""
    if process_group.leads():
        warnings.warn(str(incident), RunWarning, stacklevel=2)
