"""The processes of one job, as torchrun starts them.

Every process runs the same program. What a clock or a disk decides, the first one decides for all; the others
write and print nothing. Nothing is pickled: plain data travel as JSON, tensors as safetensors. Alone, every
function here returns at once.
"""

from __future__ import annotations

import atexit
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, distributed

from frostline import errors
from frostline.distributed.torchrun_env import Launch, launched
from frostline.errors import FrostlineError, LostProcess, UsageError
from frostline.system import devices

# How long a process waits for another that is alive: as long as the first one may be busy with what it does
# for all (timings, solving a head on many images). One that died is noticed at once.
TIMEOUT = timedelta(hours=2)
BUCKET_BYTES = 25_000_000  # added up in one go: what torch's DistributedDataParallel takes


@dataclass(frozen=True)
class _Group:
    """The job that this process is one of. `control` carries small tensors of the processor, on a GPU too."""

    rank: int
    size: int
    control: Any


_joined: list[_Group] = []  # none where this process works alone


def rank() -> int:
    """Return the rank of this process in the job, from 0."""
    return _joined[0].rank if _joined else 0


def size() -> int:
    """Return the number of processes in the job; 1 alone."""
    return _joined[0].size if _joined else 1


def leads() -> bool:
    """Return whether this process decides, prints and writes."""
    return rank() == 0


@contextmanager
def together() -> Iterator[None]:
    """Work as one of the processes that torchrun started, inside the block; alone where it started none.

    A process group that exists already (Ray Train's) is used. One that is begun here stays for the next time,
    until the process ends: torch can't meet a second time at the same address. Raises `UsageError`.
    """
    launch = launched()
    already_initialised = distributed.is_available() and distributed.is_initialized()
    if _joined or (launch.size == 1 and not already_initialised):
        yield
        return
    if not already_initialised:
        _begin(launch)
    _joined.append(_Group(distributed.get_rank(), distributed.get_world_size(), _control()))
    try:
        yield
    except BaseException:
        atexit.unregister(_end)  # which might wait for the others
        raise
    finally:
        _joined.clear()


def _begin(launch: Launch) -> None:
    """Meet the other processes: by NCCL where each has a GPU of its own, else by gloo.

    A GPU that is named is the one of all processes of this machine, which NCCL refuses.
    """
    if not distributed.is_available():
        raise UsageError(
            "This torch was built without torch.distributed: start one process, without torchrun."
        )
    backend = "gloo"
    here = devices.current()
    kind = here.type
    if kind == "cuda" and not (here.index is not None and launch.local_size > 1):
        gpus = torch.cuda.device_count()
        if launch.local_rank >= gpus:
            raise UsageError(
                f"{launch.local_size} processes were started on a machine with {gpus} GPU(s); expected at "
                f"most one for each: torchrun --nproc-per-node {gpus}. NCCL takes no two processes on one "
                "GPU; name it to share it by gloo, through the processor: --device cuda:0."
            )
        torch.cuda.set_device(launch.local_rank if here.index is None else here.index)
        backend = "cpu:gloo,cuda:nccl"
    elif kind == "mps":
        raise UsageError("Several processes can't share an Apple GPU here: start one, without torchrun.")
    with _others_alive():
        distributed.init_process_group(backend, timeout=TIMEOUT)
    atexit.register(_end)


def _end() -> None:
    """Let go of the others, as NCCL wants it."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _control() -> Any:
    """Return a group for tensors of the processor."""
    if "gloo" in str(distributed.get_backend_config()):
        return distributed.group.WORLD
    return distributed.new_group(backend="gloo", timeout=TIMEOUT)


@contextmanager
def _others_alive() -> Iterator[None]:
    """Say in one message that another process of the job is gone."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo's and NCCL's, and all of torch.distributed's
        message = re.sub(
            r"\[[^\]]*\.(cc|cpp|hpp|h):\d+\]\s*", "", str(error)
        )  # without the place in the source
        reason = re.split(r"\.\s|\n", message.strip() or type(error).__name__)[0]
        count = max(size(), launched().size)
        raise LostProcess(
            f"Another of the {count} processes of this job has ended or can't be reached "
            f"({reason}). What is finished is kept; the same command resumes, also with another number of "
            "processes."
        ) from None


# --- what all have in common ------------------------------------------------------------------------------


def decided(make: Callable[[], Any]) -> Any:
    """Return what `make` returns in the first process, plain data, in all of them.

    A `FrostlineError` it raises there is raised in all.
    """
    if not _joined:
        return make()
    outcome: dict[str, Any] = {}
    if leads():
        try:
            outcome = {"value": make()}
        except FrostlineError as error:
            outcome = {"error": type(error).__name__, "words": str(error)}
    outcome = json.loads(_sent(json.dumps(outcome).encode()))
    if "error" in outcome:
        raise getattr(errors, outcome["error"], FrostlineError)(outcome["words"])
    return outcome["value"]


def tensors(make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors that `make` returns in the first process, in all; on the CPU."""
    if not _joined:
        return make()
    packed = b""
    if leads():
        packed = save({k: v.detach().cpu().contiguous().clone() for k, v in make().items()})
    return load(_sent(packed))


def demand_same(description: str) -> None:
    """Raise `UsageError` where the processes were given different runs."""
    if any_of(decided(lambda: description) != description)[0]:
        raise UsageError(
            "The processes of this job were given different runs, or see different images; expected "
            "the same command and the same data in each."
        )


@contextmanager
def in_turn() -> Iterator[None]:
    """Run the block in the first process, then in the others, which find its results in the cache."""
    if not leads():
        any_of(False)
    yield
    if leads():
        any_of(False)


def _sent(data: bytes) -> bytes:
    """Return the first process's bytes."""
    buffer = (
        torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    )
    with _others_alive():
        length = torch.tensor([len(data)])
        distributed.broadcast(length, 0, group=_joined[0].control)
        if not leads():
            buffer = torch.empty(int(length), dtype=torch.uint8)
        distributed.broadcast(buffer, 0, group=_joined[0].control)
    return buffer.numpy().tobytes()


# --- what is put together ---------------------------------------------------------------------------------


def any_of(*flags: bool) -> list[bool]:
    """Return for each flag whether it is set in any process."""
    if not _joined:
        return list(flags)
    values = torch.tensor(flags, dtype=torch.uint8)
    with _others_alive():
        distributed.all_reduce(values, distributed.ReduceOp.MAX, group=_joined[0].control)
    return [bool(flag) for flag in values.tolist()]


def share(count: int) -> slice:
    """Return this process's part of `count` things, as torch's `tensor_split` cuts: the first are larger."""
    return _part(count, rank())


def _part(count: int, place: int) -> slice:
    least, over = divmod(count, size())
    start = place * least + min(place, over)
    return slice(start, start + least + (place < over))


def gathered(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return all `count` rows, given those of this process's share; float32 of shape (count, width)."""
    if not _joined:
        return rows
    most = math.ceil(count / size())
    own_rows = torch.zeros(most, rows.shape[1])
    own_rows[: len(rows)] = torch.from_numpy(rows)
    all_rows = [torch.empty_like(own_rows) for _ in range(size())]
    with _others_alive():
        distributed.all_gather(all_rows, own_rows, group=_joined[0].control)
    parts = [_part(count, place) for place in range(size())]
    return torch.cat(
        [rows_of[: p.stop - p.start] for rows_of, p in zip(all_rows, parts, strict=True)]
    ).numpy()


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the processes; the same bits in all of them."""
    if not _joined:
        return
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    with _others_alive(), torch.no_grad():
        for same_kind in kinds.values():
            for bucket in _buckets(same_kind):
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                _all_reduce(flat)
                parts = torch.split(flat, [tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view(tensor.shape))


def _all_reduce(flat: Tensor) -> None:
    """Replace a tensor by its sum over the processes: by NCCL on GPUs, else through the processor."""
    control = _joined[0].control
    if flat.device.type == "cpu":
        distributed.all_reduce(flat, group=control)
    elif "nccl" in str(distributed.get_backend_config()):
        distributed.all_reduce(flat)
    else:
        on_processor = flat.cpu()
        distributed.all_reduce(on_processor, group=control)
        flat.copy_(on_processor)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    room = BUCKET_BYTES
    for tensor in tensors:
        bucket.append(tensor)
        room -= tensor.nbytes
        if room <= 0:
            yield bucket
            bucket, room = [], BUCKET_BYTES
    if bucket:
        yield bucket
