"""Tensors between the processor and a GPU, without either waiting for the other.

Pinned memory is torch's own: its caching allocator gives a block again once the copy out of it is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor


class CopyEvent(Protocol):
    """A moment of a stream; torch's events are such."""

    def query(self) -> bool:
        """Whether the stream got there."""

    def synchronize(self) -> Any:
        """Wait until it does."""


def on_gpu(device: str | torch.device) -> bool:
    """Return whether copies to and from a device can go on while the processor does."""
    return torch.device(device).type == "cuda"


def to_device(batch: Tensor, device: str | torch.device) -> Tensor:
    """Move a batch to a device. A GPU fetches it from pinned memory while the processor continues."""
    if not on_gpu(device) or batch.is_cuda:
        return batch.to(device)
    return batch.pin_memory().to(device, non_blocking=True)


def each_to_device(batches: Iterable[Tensor], device: str | torch.device) -> Iterator[Tensor]:
    """Yield batches on a device; a GPU fetches each while it works with the one before.

    Copies go by a stream of their own. Who takes a batch gives the GPU its work and comes back for the next
    without waiting for it, so that none is read before it is wanted.
    """
    if not on_gpu(device):
        yield from (batch.to(device) for batch in batches)
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(stream):
            sent = to_device(batch, device)
            arrived = stream.record_event()
        yield _received(sent, arrived)


def _received(batch: Tensor, arrived: Any) -> Tensor:
    """Let the stream that computes wait for a batch, and the allocator know that it is used there."""
    computing = torch.cuda.current_stream(batch.device)
    computing.wait_event(arrived)
    batch.record_stream(computing)
    return batch


class Fetched:
    """A tensor on its way to the processor; on a GPU it arrives while both go on.

    Parameters
    ----------
    tensor : Tensor
        Not to be changed in place before it has arrived.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._arrived: CopyEvent | None = None
        if on_gpu(tensor.device):
            self._tensor = tensor.to("cpu", non_blocking=True)  # into pinned memory
            self._arrived = torch.cuda.current_stream(tensor.device).record_event()
        else:
            self._tensor = tensor

    @property
    def ready(self) -> bool:
        """Whether it has arrived, so that nobody waits."""
        return self._arrived is None or self._arrived.query()

    def value(self) -> Tensor:
        """Return it, once it has arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        return self._tensor.cpu()
