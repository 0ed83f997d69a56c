"""TensorFlow's "same" padding in memory that is used again, for networks that are frozen.

timm's `Conv2dSame` copies its input into a larger tensor for each batch. On a processor most of that time
goes into new pages of memory: 53 ms for 64 maps of 96 × 112 × 112 in bfloat16 with two threads, 9 ms where
the pages are there (docs/LOG.md, 30 November 2026). The values are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import get_same_padding
from torch import Tensor, nn
from torch.nn import functional


class _Memory:
    """Memory for one padded tensor at a time; who comes while it is lent gets new memory."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def __reduce__(self) -> tuple[type[_Memory], tuple[()]]:
        """A copy has memory of its own."""
        return _Memory, ()

    @contextmanager
    def lent(self, size_bytes: int) -> Iterator[Tensor]:
        """Yield uint8 of at least so many bytes, of any values."""
        try:
            flat = self._free.pop()
        except IndexError:
            flat = None
        if flat is None or len(flat) < size_bytes:
            flat = torch.empty(size_bytes, dtype=torch.uint8)
        yield flat
        self._free.append(flat)


class _FrozenConv2dSame(Conv2dSame):
    """`Conv2dSame` without gradients, which pads in `memory`."""

    memory: _Memory

    def forward(self, x: Tensor) -> Tensor:
        height, width = (
            get_same_padding(side, *each)
            for side, *each in zip(x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        )
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        if (
            max(height, width) == 0
            or x.ndim != 4
            or x.device.type != "cpu"
            or torch.is_grad_enabled()
            or channels_last == x.is_contiguous()  # neither, or both: torch decides
        ):
            output: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return output
        n, c, h, w = x.shape
        padded_shape = (n, h + height, w + width, c) if channels_last else (n, c, h + height, w + width)
        numel = n * c * (h + height) * (w + width)
        with self.memory.lent(numel * x.element_size()) as flat:
            padded = flat[: numel * x.element_size()].view(x.dtype).view(padded_shape)
            if channels_last:
                padded = padded.permute(0, 3, 1, 2)
            top, left = height // 2, width // 2
            for border in (
                padded[:, :, :top],
                padded[:, :, top + h :],
                padded[:, :, :, :left],
                padded[:, :, :, left + w :],
            ):
                border.zero_()
            padded[:, :, top : top + h, left : left + w].copy_(x)
            return functional.conv2d(
                padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups
            )


def pad_in_reused_memory(model: nn.Module) -> None:
    """Let every `Conv2dSame` of a network, which is never trained again, pad in one piece of memory."""
    memory = _Memory()
    for module in model.modules():
        if type(module) is Conv2dSame:
            module.__class__ = _FrozenConv2dSame
            cast(_FrozenConv2dSame, module).memory = memory
