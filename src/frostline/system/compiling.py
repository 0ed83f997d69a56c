"""`torch.compile` for functions: one graph for each shape, and no module wrapped, so that no name changes.

A compiled module holds its parameters under `_orig_mod.`, which checkpoints, exports and callers would see.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from frostline.errors import TrainingError, option
from frostline.system import devices

COMPILE = ("auto", "on", "off")
BACKEND: Any = "inductor"  # torch's own default; tests put a function in its place
# Graphs of one forward, before torch would go on uncompiled without a word: its own limit is 8 for all
# modules of a class together, and a network has dozens of blocks in two or three batch sizes. A choice.
MOST_GRAPHS = 512


def unavailable() -> str:
    """Return why nothing can be compiled for the device that computes; "" where it can."""
    if BACKEND != "inductor":
        return ""
    kind = devices.current().type
    if kind == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            return "torch finds no Triton for this GPU (pip install triton)"
        return _triton_lacks()
    if kind != "cpu":
        return f"torch.compile was never tried on {kind}"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "torch finds no C++ compiler (g++ or clang++), which it needs to compile for a processor"
    return ""


def _triton_lacks() -> str:
    """Return what Triton lacks to build its launcher, as it does at the first kernel; "" for nothing."""
    if not (os.environ.get("CC") or any(map(shutil.which, ("gcc", "clang")))):
        return "Triton finds no C compiler (gcc or clang), which it builds its launcher with"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return f"Triton needs {header} to build its launcher (Debian: python3-dev)"
    return ""


def identity() -> dict[str, str]:
    """Return what decides which kernels a compiled function has, beside torch's version, as plain data."""
    backend = {"backend": str(getattr(BACKEND, "__name__", BACKEND))}
    if devices.current().type != "cuda":
        return backend
    # Triton's distribution has several names (triton, pytorch-triton, triton-windows).
    return {**backend, "triton": str(import_module("triton").__version__)}


def compiled(function: Callable[..., Any], *, deterministic: bool = False) -> Callable[..., Any]:
    """Return `function`, compiled when it is first called, and again for each new shape.

    Parameters
    ----------
    function : callable
        Of tensors to tensors, such as a module's `forward`.
    deterministic : bool
        Let no kernel be chosen by a timing, where this version of torch can be told so.

    Returns
    -------
    callable
        To be called within `compiling`.
    """
    options: dict[str, Any] = {}
    if deterministic and BACKEND == "inductor":
        from torch._inductor import config

        if hasattr(config, "deterministic"):
            options["deterministic"] = True
    # With shapes that may vary a batch would have other bits by which sizes came before it.
    run: Callable[..., Any] = torch.compile(function, dynamic=False, backend=BACKEND, options=options or None)
    return run


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
    """Let compiled functions have as many graphs as they need; say plainly where one can't be compiled.

    `what` is compiled ("the layers that learn"). Raises `TrainingError`.
    """
    import torch._dynamo
    from torch._dynamo.exc import TorchDynamoException

    limits = {"recompile_limit": MOST_GRAPHS, "accumulated_recompile_limit": MOST_GRAPHS}
    # The compiler looks at gradients of what one region gives the next, and is warned by torch.
    with torch._dynamo.config.patch(limits), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")
        try:
            yield
        except TorchDynamoException as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"torch.compile could not compile {what} ({reason}). Take {option('compile', 'off')}; what "
                "is finished is kept."
            ) from None


def forget() -> None:
    """Drop all graphs: what thaws or freezes must not run in a graph of before (pytorch #139476)."""
    torch.compiler.reset()
