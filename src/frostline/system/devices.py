"""Which device computes, and where and how a module lies once a call returns.

`computing` is what every public function that computes with a model enters: inside it `current` is the device
asked for, and the modules given are in eval mode; afterwards they are where and how they were.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from frostline.errors import ModelError, UsageError, option

AUTO = "auto"
EXPECTED = "auto, cpu, cuda, cuda:1 (a GPU's number) or mps"
_PATTERN = re.compile(r"auto|cpu|mps|cuda(:(0|[1-9][0-9]{0,2}))?")
# Below compute capability 8.0 (Ampere) NVIDIA's GPUs have no bfloat16 units and torch emulates it; float16
# they have from 7.0 (Volta) on. https://docs.nvidia.com/cuda/cuda-c-programming-guide/#compute-capabilities
BFLOAT16_CAPABILITY, FLOAT16_CAPABILITY = (8, 0), (7, 0)
# What cuBLAS needs to add in one order: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
WORKSPACE_NAME, WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"

_around: ContextVar[str | None] = ContextVar("the device of the block around", default=None)


# --- which device ---------------------------------------------------------------------------------------


def check(device: str) -> None:
    """Raise `UsageError` for text that names no device, whatever this machine has."""
    if not isinstance(device, str) or not _PATTERN.fullmatch(device):
        raise UsageError(f"device is {device!r}; expected {EXPECTED}.")


def resolve(device: str = AUTO) -> torch.device:
    """Return the torch device that `device` names on this machine.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps". "auto" is that of `computing` around, else a GPU where torch
        finds one, else the processor.

    Returns
    -------
    torch.device

    Raises
    ------
    UsageError
        There is no such device here; the message says what there is.
    """
    check(device)
    if device == AUTO:
        return torch.device(_around.get() or _best())
    wanted = torch.device(device)
    if wanted.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (wanted.index or 0) >= count:
            raise UsageError(f"{_absent(device)} {_cuda_advice(count)}")
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"{_absent(device)} Take {option('device', 'auto')}, or a Mac with an Apple GPU.")
    return wanted


def current() -> torch.device:
    """Return the device to compute on: that of `computing` around, else the best there is."""
    return resolve(AUTO)


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def available() -> list[str]:
    """Return the names of the devices of this machine."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [f"cuda:{index}" for index in range(count)]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def _absent(device: str) -> str:
    return (
        f"{option('device')} is {device}, and torch {torch.__version__} finds {', '.join(available())} here."
    )


def _cuda_advice(count: int) -> str:
    auto = option("device", "auto")
    if count:
        return f"Take {option('device', f'cuda:{count - 1}')} or lower, or {auto}."
    if torch.version.cuda is None:
        return f"Take {auto}, or install a torch that is built for CUDA (https://pytorch.org)."
    return f"Take {auto}, or look whether `nvidia-smi` lists a GPU and its driver is new enough."


def same(first: torch.device, second: torch.device) -> bool:
    """Return whether two devices are one: "cuda" without a number is the GPU in use."""
    if first.type != second.type or first.type != "cuda":
        return first.type == second.type
    numbers = (d.index if d.index is not None else torch.cuda.current_device() for d in (first, second))
    return len(set(numbers)) == 1


def name(device: torch.device) -> str:
    """Return the name of a GPU as its driver has it; empty for other devices."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def half_precision(device: torch.device) -> Literal["bfloat16", "float16"] | None:
    """Return the 16-bit format that a GPU of NVIDIA's computes quickly; `None` for older and others.

    bfloat16 has the range of float32. float16 has not, and needs its loss scaled.
    """
    if device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= BFLOAT16_CAPABILITY:
        return "bfloat16"
    return "float16" if capability >= FLOAT16_CAPABILITY else None


# --- where and how a module lies ------------------------------------------------------------------------


class _Slot(NamedTuple):
    """A parameter or buffer, and what it was."""

    owner: MutableMapping[str, Any]  # a module's parameters or buffers
    key: str
    tensor: Tensor
    values: Tensor  # the same memory, in the same format, on the same device
    requires_grad: bool
    grad: Tensor | None
    grad_values: Tensor | None

    def restore(self) -> None:
        if _elsewhere(self.tensor, self.values):
            self.tensor.data = self.values
        if self.grad is not None and self.grad_values is not None and _elsewhere(self.grad, self.grad_values):
            self.grad.data = self.grad_values
        if self.tensor.is_leaf:
            self.tensor.grad = self.grad
            self.tensor.requires_grad_(self.requires_grad)
        self.owner[self.key] = self.tensor


def _elsewhere(tensor: Tensor, values: Tensor) -> bool:
    """Return whether a tensor's values lie elsewhere, or otherwise, than `values` do."""
    same_place = tensor.device == values.device and tensor.data_ptr() == values.data_ptr()
    return not same_place or tensor.stride() != values.stride() or tensor.dtype != values.dtype


@contextlib.contextmanager
def left_as_found(*modules: nn.Module) -> Iterator[None]:
    """Leave modules as they are now, whatever is done to them inside the block, and however it ends.

    That is: device, memory format and type of every parameter and buffer, `requires_grad`, and the mode of
    every submodule. Their values lie where they lay, so nothing is copied back.
    """
    parts = {id(part): part for module in modules for part in module.modules()}.values()
    modes = [(part, part.training) for part in parts]
    slots = [
        _Slot(
            owner,
            key,
            tensor,
            tensor.data,
            tensor.requires_grad,
            tensor.grad if tensor.is_leaf else None,
            tensor.grad.data if tensor.is_leaf and tensor.grad is not None else None,
        )
        for part in parts
        for owner in (part._parameters, part._buffers)
        for key, tensor in owner.items()
        if tensor is not None
    ]
    try:
        yield
    finally:
        for slot in slots:
            slot.restore()
        for part, mode in modes:
            part.training = mode


@contextlib.contextmanager
def computing(device: str, *modules: nn.Module) -> Iterator[torch.device]:
    """Compute on `device` inside the block, with modules in eval mode that are left as they were.

    Raises `UsageError` where there is no such device.
    """
    chosen = resolve(device)
    token = _around.set(str(chosen))
    numbered = chosen.type == "cuda" and chosen.index is not None
    on_gpu = torch.cuda.device(chosen) if numbered else contextlib.nullcontext()
    try:
        with on_gpu, left_as_found(*modules):
            for module in modules:
                module.eval()
            yield chosen
    finally:
        _around.reset(token)


Signature = ParamSpec("Signature")
Result = TypeVar("Result")


def computes(
    *, float32: bool = False
) -> Callable[[Callable[Signature, Result]], Callable[Signature, Result]]:
    """Decorate a public function that computes with a model: the one place that cares for device and modules.

    The function runs inside `computing` with its argument `device`, which may be an option or a field of its
    `config`; without such an argument, on the device of the block around. Every module among its arguments,
    also as the model of a backbone, is left as it was. Where `deterministic` is asked for, that is set, too.

    Parameters
    ----------
    float32 : bool
        The function judges, so a GPU computes float32 in float32 (`full_float32`).
    """

    def decorate(function: Callable[Signature, Result]) -> Callable[Signature, Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: Signature.args, **kwargs: Signature.kwargs) -> Result:
            arguments = signature.bind(*args, **kwargs).arguments
            given = {**arguments, **arguments.get("options", {})}
            config = arguments.get("config")

            def option(name: str, default: Any) -> Any:
                return given[name] if name in given else getattr(config, name, default)

            modules = list(_modules(arguments.values()))
            with contextlib.ExitStack() as stack:
                stack.enter_context(computing(option("device", AUTO), *modules))
                stack.enter_context(deterministic(option("deterministic", False)))
                if float32:
                    stack.enter_context(full_float32())
                for module in modules:
                    stack.enter_context(naming_layer(module))
                return function(*args, **kwargs)

        return call

    return decorate


def _modules(values: Iterable[Any]) -> Iterator[nn.Module]:
    """Yield the modules among values, and those that backbones hold, also in a list of them."""
    for value in values:
        model = value if isinstance(value, nn.Module) else getattr(value, "model", None)
        if isinstance(model, nn.Module):
            yield model
        elif isinstance(value, list | tuple) and any(_modules(value[:1])):  # not a list of a million paths
            yield from _modules(value)


def random_states() -> list[int]:
    """Return the GPUs whose random state a seed changes, for `fork_rng`; none before their use."""
    return list(range(torch.cuda.device_count())) if in_use() else []


def seed(value: int) -> None:
    """Seed torch's random state, here and on the device that computes.

    `torch.manual_seed` looks for every kind of device that there is: a millisecond, each step.
    """
    torch.default_generator.manual_seed(value)
    if in_use():
        torch.cuda.manual_seed_all(value)
    if current().type == "mps":
        torch.mps.manual_seed(value)


def in_use() -> bool:
    """Return whether this process has computed on a GPU."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


# --- float32 and determinism ----------------------------------------------------------------------------


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Let a GPU compute float32 in float32, not in TF32; on other devices nothing is set."""
    if current().type != "cuda":
        yield
        return
    before = _tf32()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for one in _precisions():  # else one without a setting of its own follows `torch.backends.fp32_precision`
        one.fp32_precision = "ieee"
    try:
        yield
    finally:
        _set_tf32(before)


def float32_format() -> str:
    """Return in which format a GPU's convolutions compute float32, in this block: "float32" or "tf32"."""
    precisions = _precisions()
    convolutions = _tf32()[1]
    return "tf32" if convolutions == ("tf32" if precisions else True) else "float32"


def _precisions() -> list[Any]:
    """Return what holds torch's settings of float32, matrices first; nothing below torch 2.9."""
    if not hasattr(torch.backends.cudnn, "conv"):
        return []
    return [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]


def _tf32() -> list[Any]:
    """Return what is set. The newer settings are read where there are any: they may contradict the older."""
    if precisions := _precisions():
        return [one.fp32_precision for one in precisions]
    return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]


def _set_tf32(before: list[Any]) -> None:
    precisions = _precisions()
    matrices, convolutions = ([value == "tf32" for value in before] if precisions else before)[:2]
    torch.backends.cuda.matmul.allow_tf32 = matrices
    torch.backends.cudnn.allow_tf32 = convolutions
    for one, value in zip(precisions, before, strict=False):
        one.fp32_precision = value


@contextlib.contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Set what torch needs to give the same bits on a GPU each time; inside the block, and where `wanted`.

    A processor gives them without, so there nothing is set. cuBLAS reads its setting when it is first used:
    in a process that has used it before, set CUBLAS_WORKSPACE_CONFIG=:4096:8 before it starts.
    """
    if not wanted or current().type == "cpu":
        yield
        return
    workspace = os.environ.get(WORKSPACE_NAME)
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark = torch.backends.cudnn.benchmark
    os.environ[WORKSPACE_NAME] = WORKSPACE if workspace not in (":4096:8", ":16:8") else workspace
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        with full_float32():
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
        if workspace is None:
            os.environ.pop(WORKSPACE_NAME, None)
        else:
            os.environ[WORKSPACE_NAME] = workspace


@contextlib.contextmanager
def naming_layer(model: nn.Module) -> Iterator[None]:
    """Say which layer of `model` it is where torch has no deterministic way to compute one."""
    try:
        yield
    except RuntimeError as error:
        operation = _not_deterministic(error)
        if operation is None and WORKSPACE_NAME in str(error):  # as older versions of torch say it
            raise UsageError(
                f"cuBLAS was used in this process before {option('deterministic')} was asked for, and read "
                f"its setting then. Set {WORKSPACE_NAME}={WORKSPACE} before Python starts."
            ) from None
        if operation is None:
            raise
        names = _layers_of(model, operation, error)
        which = f"Layer {', '.join(names)}" if names else "An operation of the model"
        raise ModelError(
            f"{which} cannot be computed deterministically on {current()}: torch has no such way for "
            f"{operation}. Leave {option('deterministic')} out, or take {option('device', 'cpu')}."
        ) from None


def _not_deterministic(error: RuntimeError) -> str | None:
    """Return the operation that torch refused in deterministic mode; `None` for another error."""
    match = re.match(r"(\S+) does not have a deterministic implementation", str(error))
    return match.group(1) if match else None


def _layers_of(model: nn.Module, operation: str, error: RuntimeError) -> list[str]:
    """Return the layers that an operation belongs to, by name: the one that ran, else those of its kind."""
    running: list[nn.Module] = []  # from the whole model, or a copy, to the layer
    frame = error.__traceback__
    while frame is not None:
        module = frame.tb_frame.f_locals.get("self")
        running += [module] if isinstance(module, nn.Module) else []
        frame = frame.tb_next
    for whole in running[:-1]:
        for name, module in whole.named_modules():
            if name and module is running[-1]:
                return [f"{name} ({type(module).__name__})"]
    plain = operation.replace("_", "").lower()  # backward: no layer is running
    return [
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if name and plain.startswith(type(module).__name__.lower())
    ]
