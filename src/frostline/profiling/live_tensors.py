"""How many bytes of tensors are alive at once while something runs: what a GPU's memory is counted by."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operations make on one kind of device, until they go."""

    def __init__(self, kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes: int = 0
        self._kind = kind
        self._sizes: dict[int, int] = {}  # by storage while it is alive; 0 of those of before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._note((args, kwargs), made=False)
        out = func(*args, **(kwargs or {}))
        self._note(out, made=True)
        self.peak_bytes = max(self.peak_bytes, sum(self._sizes.values()))
        return out

    def _note(self, values: Any, *, made: bool) -> None:
        """Note storages that were not seen yet, until they go."""
        for storage in self._storages(values):
            if storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes() if made else 0
                weakref.finalize(storage, self._sizes.pop, storage._cdata, None)

    def _storages(self, values: Any) -> list[Any]:
        tensors = (value for value in tree_flatten(values)[0] if isinstance(value, Tensor))
        return [tensor.untyped_storage() for tensor in tensors if tensor.device.type == self._kind]


def live_bytes(run: Callable[[], object], kind: str) -> int:
    """Return the most bytes of tensors that `run` makes and that are alive at once.

    Weights and other tensors of before are not counted, nor what a kernel needs inside.

    Parameters
    ----------
    run : callable
    kind : str
        Of the device whose tensors count: "cuda", "cpu".

    Returns
    -------
    int
    """
    with _Alive(kind) as alive:
        run()
    return int(alive.peak_bytes)
