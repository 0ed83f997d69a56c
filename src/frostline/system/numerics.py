"""How numbers are computed on this machine: device, threads, precision, memory format.

What a timing decides is decided once, written into the study as its *numeric plan* before the first
step, and obeyed on resume and repeat.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from frostline.errors import UsageError, option
from frostline.system import cpu_threads, deadline, devices, directories
from frostline.system.device_transfers import to_device

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class NumericPlan:
    """Everything that may change bits or speed but not the meaning of a run.

    How threads `wait`, and what others did meanwhile (`load`), change no bit: they say what was found as the
    run began.
    """

    device: str
    threads: int
    precision: Precision
    channels_last: bool
    reason: str
    wait: str = cpu_threads.AS_IT_COMES
    load: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NumericPlan:
        """Read a plan back."""
        return cls(**data)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, in the memory format of the plan."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(self.device).to(memory_format=layout)

    def batch(self, pixels: Tensor, normalise: Callable[[Tensor], Tensor]) -> Tensor:
        """Turn uint8 pixels (n, 3, s, s) into the network's float32 input on the device."""
        if self.channels_last and self.device == "cpu":
            # image by image: what is worked on stays in the processor's cache
            x = torch.empty(pixels.shape, memory_format=torch.channels_last)
            for place, image in zip(x, pixels, strict=True):
                place.copy_(normalise(image))
            return x
        x = normalise(to_device(pixels, self.device))
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def autocast(self) -> AbstractContextManager[Any]:
        """The context a forward pass runs in."""
        if self.precision in DTYPES:
            return torch.autocast(torch.device(self.device).type, dtype=DTYPES[self.precision])
        return contextlib.nullcontext()

    def scaler(self) -> torch.amp.GradScaler:
        """What keeps gradients of float16 from vanishing; it does nothing in another precision."""
        return torch.amp.GradScaler(torch.device(self.device).type, enabled=self.precision == "float16")


def now() -> float:
    """Return the clock's seconds once the device has done what it was given: for timings."""
    kind = devices.current().type
    if kind == "cuda":
        torch.cuda.synchronize()
    elif kind == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def forget_device_peak() -> None:
    """Let `device_peak_bytes` begin anew."""
    if devices.current().type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def device_peak_bytes() -> int | None:
    """Return the most memory that tensors held on the GPU; `None` where there is none that counts."""
    return int(torch.cuda.max_memory_allocated()) if devices.current().type == "cuda" else None


def device_memory_limit(most_bytes: int | None) -> int | None:
    """Return how many bytes of its GPU a run may use: `most_bytes`, else all that it has; `None` on others.

    Raises `UsageError` where a limit is given, and no GPU of NVIDIA's computes, or it has less.
    """
    here = devices.current()
    if most_bytes is not None and here.type != "cuda":
        raise UsageError(
            f"{option('device_memory')} limits the memory of a GPU, and {here.type} computes here. Leave it "
            f"out, or take {option('device', 'cuda')}."
        )
    if here.type != "cuda":
        return None
    total = int(torch.cuda.mem_get_info(here)[1])
    if most_bytes is not None and not 0 < most_bytes <= total:
        raise UsageError(
            f"{option('device_memory')} is {most_bytes / 1e9:.3g} GB, and the GPU has {total / 1e9:.3g} "
            "GB; expected more than 0 and no more than that."
        )
    return total if most_bytes is None else most_bytes


_limit_bytes: ContextVar[int | None] = ContextVar("the memory of a GPU that a run may use", default=None)


def device_room_bytes() -> int:
    """Return the bytes of a GPU's memory that tensors have not needed since `forget_device_peak`; else 0.

    What other processes hold there, and what a run may not use, is none of it.
    """
    here = devices.current()
    if here.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(here)
    most = min(_limit_bytes.get() or total, free + torch.cuda.memory_reserved(here))
    return max(0, int(most - torch.cuda.max_memory_allocated(here)))


@contextlib.contextmanager
def device_memory_bounded(most_bytes: int | None) -> Iterator[None]:
    """Let torch take no more of its GPU's memory inside the block; what is beyond is out of memory to it.

    Raises `UsageError` as `device_memory_limit` does.
    """
    limit = device_memory_limit(most_bytes)
    if most_bytes is None or limit is None:
        yield
        return
    total = torch.cuda.mem_get_info(devices.current())[1]
    # A program's own limit comes back, where this version of torch tells it.
    before = getattr(torch.cuda, "get_per_process_memory_fraction", lambda: 1.0)()
    # Of the GPU in use: torch refuses one that is named without a number.
    torch.cuda.set_per_process_memory_fraction(limit / total)
    token = _limit_bytes.set(limit)
    try:
        yield
    finally:
        _limit_bytes.reset(token)
        torch.cuda.set_per_process_memory_fraction(before)


def device() -> str:
    """Return the device to compute on: that of `devices.computing` around, else the best torch has."""
    return str(devices.current())


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run torch and the linear algebra below numpy with `count` threads; then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    token = _inside.set(count)
    try:
        with cpu_threads.linear_algebra(count):
            yield
    finally:
        _inside.reset(token)
        torch.set_num_threads(before)


_inside: ContextVar[int | None] = ContextVar("the threads of the block around", default=None)


def thread_count(requested: int | None = None, *, steady: bool = False) -> int:
    """Return how many threads to compute with: those given, else the block's around, else as is free.

    What the environment or the program set for torch is obeyed. `steady` leaves out what else is at work,
    which is another thing each time: a count for results that must agree.
    """
    if count := requested or _inside.get():
        return count
    own = _torchs_own()
    if cpu_threads.count_is_set() or own not in cpu_threads.counts_by_default():
        return own
    return min(own, cpu_threads.free().threads(steady=steady))


_settled: list[tuple[int, int]] = []  # torch's own count, and what `settle` made of it


def settle() -> None:
    """Let torch use what is free, in a process that is frostline's own: also where no plan says how many."""
    own, count = _torchs_own(), thread_count()
    torch.set_num_threads(count)
    _settled[:] = [(own, count)]


def _torchs_own() -> int:
    own = torch.get_num_threads()
    return next((before for before, count in _settled if count == own), own)


def plain_plan(threads_: int, reason: str) -> NumericPlan:
    """Float32, channels-last, with so many threads, here and now."""
    processor_state = cpu_threads.free()
    return NumericPlan(
        device(), threads_, "float32", True, reason, processor_state.wait, str(processor_state)
    )


def exact_plan(threads_: int | None = None) -> NumericPlan:
    """Float32, channels-last, no timed choice: two runs of one command agree bit for bit on one CPU."""
    return plain_plan(thread_count(threads_, steady=True), "no timed choice")


def pinned_plan(precision: str, threads_: int | None = None) -> NumericPlan:
    """Return the plan with the requested precision, one of `PRECISIONS` but "auto"."""
    base = plain_plan(thread_count(threads_), "requested")
    return replace(base, precision=precision)  # type: ignore[arg-type]  # checked with the request


# A way of computing must be this much faster than the plainer one before it is taken: below that, a timing of
# a few steps can't tell.
WORTH_IT = 1.1
REPEATS = 3
TIMING = "loading and timing the network"  # in messages about a time limit
ENOUGH_S = 0.5  # the longer a run takes, the less one timing of it varies


def candidates(threads_: int | None = None, *, learning: bool = True) -> dict[str, NumericPlan]:
    """Return the plans that a timing may choose from, by name, the plainest first.

    float16 is offered where layers learn alone: features of frozen layers might exceed its range.
    """
    channels_last = plain_plan(thread_count(threads_), "")
    plans = {"float32": replace(channels_last, channels_last=False), "channels-last": channels_last}
    half = _half_precision()
    if half is not None and (learning or half == "bfloat16"):
        plans[f"channels-last {half}"] = replace(channels_last, precision=half)
    return plans


def fastest(step_seconds: dict[str, float]) -> str:
    """Return which of `candidates` to take, given the seconds of a step in each of them."""
    chosen = next(iter(step_seconds))
    for name in step_seconds:
        if step_seconds[chosen] / step_seconds[name] >= WORTH_IT:
            chosen = name
    return chosen


def timed_plan(
    step_name: str,
    step: Callable[[NumericPlan], None],
    threads_: int | None = None,
    *,
    learning: bool = True,
) -> NumericPlan:
    """Return the fastest of `candidates`, by timing `step`; timings are cached on this machine.

    `step_name` names the step (one training step); `learning` says whether layers learn in it.
    """
    plans = candidates(threads_, learning=learning)
    count = plans["float32"].threads
    step_seconds = seconds_of(
        step_name, {name: functools.partial(step, plan) for name, plan in plans.items()}, count, lasting=True
    )
    shares = ", ".join(f"{name} {step_seconds[name] / step_seconds['float32']:.2f}" for name in plans)
    return replace(plans[fastest(step_seconds)], reason=f"a step's time beside plain float32's: {shares}")


def seconds_of(
    run_name: str, runs: dict[str, Callable[[], None]], threads_: int, *, lasting: bool = False
) -> dict[str, float]:
    """Return the seconds that each of `runs` takes; measured, or read from an earlier time on this machine.

    `run_name` names what is run: model, size, number of images. They are run in turn, so that other work that
    comes and goes meets all of them. `lasting` is as in `measured`.
    """

    def time_each() -> dict[str, float]:
        timings: dict[str, list[float]] = {name: [] for name in runs}
        for turn, (name, run) in itertools.product(range(REPEATS), runs.items()):
            if sum(timings[name]) < ENOUGH_S:
                timings[name].append(seconds(run, warm=turn > 0, repeats=1))
        return {name: statistics.median(each) for name, each in timings.items()}

    return measured(f"{run_name} {' '.join(runs)}", time_each, threads_, lasting=lasting)


def note_seconds(
    name: str, known_seconds: dict[str, float], threads_: int, *, lasting: bool = False
) -> dict[str, float]:
    """Store seconds for `seconds_of`, unless there are others already; return the stored ones."""
    return measured(f"{name} {' '.join(known_seconds)}", lambda: known_seconds, threads_, lasting=lasting)


def measured(
    name: str, measure: Callable[[], dict[str, Any]], threads_: int, *, lasting: bool = False
) -> dict[str, Any]:
    """Return what `measure` finds with that many threads, plain data; remembered on this machine.

    What is remembered carries the names of the processor and the GPU, the threads, and the load at the time.
    What a busy machine gave is measured again on a quiet one, unless it is `lasting`: a choice among ways to
    compute, which results must go on agreeing with.
    """
    key = rates_key(name, threads_)
    stored = _stored(key)
    if stored is not None and (
        lasting or key in _measured_here or not _of_a_busy_machine(stored[1], threads_)
    ):
        return stored[0]
    began = _timing_began.get() or cpu_threads.Reading.now()
    token = _timing_began.set(began)
    try:
        with threads(threads_), deadline.work(TIMING):
            value = measure()
    finally:
        _timing_began.reset(token)
    record = {"measured": value, "cpu_share": cpu_threads.share_since(began, threads_)}
    directories.remember("rates", key, record, about=world(threads_))
    _measured_here.add(key)
    return value


# By this process: a machine that was quiet as it began may be busy all along.
_measured_here: set[str] = set()
# When the outermost timing around began: what it derives and stores is of the same time.
_timing_began = ContextVar[cpu_threads.Reading | None]("the timing around began", default=None)


def _stored(key: str) -> tuple[dict[str, Any], float] | None:
    """Return what was measured, and the share of the processor that it had; `None` without both."""
    record = directories.recalled("rates", key) or {}
    try:
        return dict(record["measured"]), float(record["cpu_share"])
    except (KeyError, TypeError, ValueError):  # absent, damaged, or of another version
        return None


def _of_a_busy_machine(cpu_share: float, threads_: int) -> bool:
    """Tell if others took processor time from what was measured, and would not now."""
    now = cpu_threads.share_left(threads_, cpu_threads.free().others)
    return cpu_share < cpu_threads.QUIET <= now


def is_remembered(name: str, threads_: int) -> bool:
    """Tell if `measured` was called for this on this machine, now or earlier."""
    return _stored(rates_key(name, threads_)) is not None


def rates_key(name: str, threads_: int) -> str:
    """Return the name that a rate of this device is remembered by."""
    return f"{name} on {device_name()} threads {threads_} torch {torch.__version__}"


def world(threads_: int) -> dict[str, Any]:
    """Return what timings of now depend on beside the code, as plain data."""
    processor_state = cpu_threads.free()
    about = {"device": device_name(), "threads": threads_, "cores": processor_state.cores}
    return {**about, "others": round(processor_state.others, 2), "wait": processor_state.wait}


def device_name() -> str:
    """Name what computes: the kind of device, the GPU's name, the processor's."""
    chosen = devices.current()
    gpu = devices.name(chosen)
    return " ".join([chosen.type, *([gpu] if gpu else []), _processor()])


def _half_precision() -> Precision | None:
    """Return the 16-bit format that the device computes quickly, if any."""
    chosen = devices.current()
    if chosen.type != "cpu":
        return devices.half_precision(chosen)
    return "bfloat16" if _has_bfloat16() else None


def _has_bfloat16() -> bool:
    """Return whether the processor has instructions for it."""
    flags = (_cpu_line("flags") + _cpu_line("Features")).split()  # Linux on x86, on ARM
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def _cpu_line(start: str) -> str:
    """Return a line of Linux's description of the processor; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return next((line for line in file if line.startswith(start)), "")
    except OSError:
        return ""


def _processor() -> str:
    return _cpu_line("model name").partition(":")[2].strip() or platform.processor()


class NotTimed(Exception):
    """Raised by a timing inside `nothing_timed`."""


_allowed = ContextVar("timings are allowed", default=True)


@contextlib.contextmanager
def nothing_timed() -> Iterator[None]:
    """Inside the block only cached timings are returned; a new timing raises `NotTimed`."""
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


def seconds(run: Callable[[], object], *, warm: bool = False, repeats: int = REPEATS) -> float:
    """Median seconds of a run, after one to warm up unless it is warm; fewer repeats where they take long.

    Each run is a unit of the `deadline.work` around, if there is any.
    """
    if not _allowed.get():
        raise NotTimed
    if not warm:
        deadline.unit()
        run()
    timings: list[float] = []
    while len(timings) < repeats and sum(timings) < ENOUGH_S:
        deadline.unit()
        start = now()
        run()
        timings.append(now() - start)
    return statistics.median(timings)
