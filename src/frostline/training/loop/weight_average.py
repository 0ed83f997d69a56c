"""The exponential moving average of what learns in a phase, by timm's `ModelEmaV3`.

It holds copies of the weights that learn and of the BatchNorm statistics that move, and of nothing else: what
is frozen has no average. What a later phase freezes stays as its last step left it, since features of frozen
layers may be kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor, nn

from frostline.models.freezing import keeps_statistics


class WeightAverage:
    """The average of a model's learning weights and moving statistics; `decay` 0 keeps none.

    Parameters
    ----------
    model : nn.Module
        Frozen to the phase's cut.
    modes : sequence of (nn.Module, bool)
        Each module, and whether it is in training mode in this phase.
    decay : float
        Where timm's warm-up of the decay ends.
    earlier : mapping of str to Tensor
        The average so far, by the names of the model's state; what it lacks starts at its present value.
    """

    def __init__(
        self,
        model: nn.Module,
        modes: Sequence[tuple[nn.Module, bool]],
        decay: float,
        earlier: Mapping[str, Tensor],
    ) -> None:
        self._own: dict[str, Tensor] = _averaged(model, modes) if decay else {}
        self._average: ModelEmaV3 | None = None
        self._exchanged = False
        if self._own:
            # The same memory, as a module: what copies a module copies these alone.
            self._source = nn.ParameterList(
                nn.Parameter(value.detach(), requires_grad=False) for value in self._own.values()
            )
            self._average = ModelEmaV3(self._source, decay=decay, use_warmup=True)
            self.restore(earlier)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The average, by the names of the model's state."""
        if self._average is None:
            return {}
        return dict(zip(self._own, self._average.module, strict=True))

    def copy(self) -> dict[str, Tensor]:
        """Return a copy of `tensors`."""
        return {name: value.detach().clone() for name, value in self.tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` holds of the average."""
        with torch.no_grad():
            for name, value in self.tensors.items():
                if name in tensors:
                    value.copy_(tensors[name])

    def update(self, step: int) -> None:
        """Take in the weights after `step` steps (from 1): the first one's are the average itself."""
        if self._average is not None:
            self._average.update(self._source, step)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have its average inside the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Let the model have its own weights inside the block, also within `in_place`."""
        if not self._exchanged:
            yield
            return
        with self.in_place():
            yield

    def keep(self) -> None:
        """Leave the average in the model for good."""
        self._exchange()

    def _exchange(self) -> None:
        with torch.no_grad():
            for name, value in self.tensors.items():
                own = self._own[name]
                before = own.detach().clone()
                own.copy_(value)
                value.copy_(before)
        self._exchanged = not self._exchanged


def _averaged(model: nn.Module, modes: Sequence[tuple[nn.Module, bool]]) -> dict[str, Tensor]:
    """Return the parameters that learn and the statistics that move, by the names of the model's state."""
    moving = {
        id(buffer)
        for module, learns in modes
        if learns and keeps_statistics(module)
        for buffer in (module.running_mean, module.running_var)
        if isinstance(buffer, Tensor)
    }
    named: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return named | {name: b for name, b in model.named_buffers() if id(b) in moving}
