"""Faults on the way, put into runs at random steps: each must end in a right result or in one clear message.

Used by `chaos.py`. After a message the fault is taken away and the same command given again; then the result
must be that of an undisturbed run, bit for bit.
"""

from __future__ import annotations

import errno
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import chaos
from chaos import OWN_CODE, Case, begun, forked, killed, outcome, waited, work
from frostline.errors import RunWarning
from frostline.system import directories
from frostline.training.loop import trainer
from frostline.training.resilience import interruption

STRATEGY = "gradual_unfreeze(2, epochs=6)"
STEPS = 40  # of the run that is disturbed, about: a fault comes at one of them
SIGNALS = {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": -1}

Fault = Callable[[Path, int], None]  # set up in the process of the run: its place, and the step


def at_step(step: int, do: Callable[[], None]) -> None:
    """Let something happen once, before a step of the run."""
    real, left = trainer.Trainer._train_step, [step]

    def disturbed(self: Any, *rest: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            do()
        return real(self, *rest)

    trainer.Trainer._train_step = disturbed  # type: ignore[method-assign]


def victim(place: Path) -> Path:
    """An image that is read after training: of the test set."""
    return sorted((place.parent / "images").glob("0_*.png"))[-1]


def image_damaged(place: Path, step: int) -> None:
    """An image becomes unreadable."""
    at_step(step, lambda: victim(place).write_bytes(b"no image") and None)


def image_gone(place: Path, step: int) -> None:
    """An image is removed."""
    at_step(step, victim(place).unlink)


def disk_full(place: Path, step: int) -> None:
    """No file of the study finds room from a step on."""

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    at_step(step, lambda: setattr(directories, "write_atomically", full))


def memory_out(place: Path, step: int) -> None:
    """From a step on there is memory for four images at a time."""
    real = trainer.Trainer._backward

    def narrow(self: Any, learning: Any, z: Any, y: Any) -> Any:
        if self._state.steps >= step and len(z) / self._state.pieces > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self, learning, z, y)

    trainer.Trainer._backward = narrow  # type: ignore[method-assign]


def not_finite(place: Path, step: int) -> None:
    """The loss of one step is no number, each time it is tried at the full rate."""
    real = trainer.Trainer._backward

    def exploding(self: Any, learning: Any, z: Any, y: Any) -> Any:
        loss = real(self, learning, z, y)
        bad = self._state.steps == step and self._state.halvings == 0
        return loss * float("nan") if bad else loss

    trainer.Trainer._backward = exploding  # type: ignore[method-assign]


def clock_jumps(place: Path, step: int) -> None:
    """The clock on the wall goes back by a year, and later on by two."""
    real, jump = time.time, [0.0]
    time.time = lambda: real() + jump[0]
    at_step(step, lambda: jump.__setitem__(0, -3e7))
    at_step(step + 5, lambda: jump.__setitem__(0, 3e7))


def worker_dies(place: Path, step: int) -> None:
    """Processes that decode images are killed as soon as they are there."""
    real = os.fork
    born: list[int] = []

    def fork() -> int:
        child = real()
        if child:
            born.append(child)
            psutil.Process(child).kill()
        return child

    os.fork = fork


# Those that change how the run goes on, by design: right is that a kill on the way changes nothing more.
OTHERWISE = {"memory that runs out": memory_out, "a loss that is no number": not_finite}
FAULTS: dict[str, Fault] = {
    "an image that becomes unreadable": image_damaged,
    "an image that goes": image_gone,
    "a disk that is full": disk_full,
    "a clock that jumps": clock_jumps,
    "data workers that die": worker_dies,
}


def disturbed(place: Path, fault: Fault, step: int, *, kill_after: float | None = None) -> int | None:
    """Do the job with a fault; returns its exit code."""

    def do() -> None:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", RunWarning)
        fault(place, step)
        if fault is worker_dies:
            work(OWN_CODE, place, STRATEGY, True, workers=2)()
        else:
            work("train", place, STRATEGY, True)()

    process = forked(do, place / "said")
    code = waited(process, chaos.PATIENCE_S if kill_after is None else kill_after)
    if code is None:
        killed(process)
    return code


def told_plainly(place: Path) -> bool:
    """Whether what was said is a message, not a traceback."""
    text = (place / "said").read_text()
    return bool(text.strip()) and "Traceback" not in text


def injected(folder: Path, times: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield a row of the table for each fault."""
    case = Case.undisturbed("train", STRATEGY, folder / "faults-undisturbed")
    own_code = Case.undisturbed(OWN_CODE, STRATEGY, folder / "own-code-undisturbed")
    for name, fault in FAULTS.items():
        whole = own_code if fault is worker_dies else case
        yield {"fault": name, **_row(folder, times, rng, lambda p, s, f=fault, w=whole: _one(w, p, f, s))}
    for name, fault in OTHERWISE.items():
        yield {"fault": name, **_row(folder, times, rng, lambda p, s, f=fault: _otherwise(case, p, f, s))}
    for name in SIGNALS:
        yield {"fault": name, **_row(folder, times, rng, lambda p, s, n=name: _signalled(case, p, n, s))}


def _row(
    folder: Path, times: int, rng: np.random.Generator, one: Callable[[Path, int], str]
) -> dict[str, Any]:
    tally = {"times": times, "right": 0, "told": 0, "wrong": 0}
    for _ in range(times):
        place = folder / f"fault-{rng.integers(1 << 40)}"
        (place / "study").mkdir(parents=True)
        tally[one(place, int(rng.integers(2, STEPS)))] += 1
    return tally


def _again(case: Case, place: Path) -> bool:
    """Whether the same command, undisturbed now, ends as the undisturbed run did."""
    code = waited(begun(case.kind, place, STRATEGY), chaos.PATIENCE_S)
    return code == 0 and outcome(place / "study") == case.right


def _one(case: Case, place: Path, fault: Fault, step: int) -> str:
    image = victim(place)
    content = image.read_bytes()
    code = disturbed(place, fault, step)
    image.write_bytes(content)
    if code == 0:
        return "right" if outcome(place / "study") == case.right else "wrong"
    plain = told_plainly(place) or (fault is disk_full and "No space left" in (place / "said").read_text())
    if code and plain and _again(case, place):
        return "told"
    print(f"{fault.__name__}: exit code {code}; it said: {(place / 'said').read_text()[-2000:]}")
    return "wrong"


def _otherwise(case: Case, place: Path, fault: Fault, step: int) -> str:
    """Twice with the same fault, once killed on the way: the same result, and a note of it."""
    other = place.with_name(place.name + "-killed")
    (other / "study").mkdir(parents=True)
    disturbed(other, fault, step, kill_after=0.6 * case.whole_s)
    codes = [disturbed(place, fault, step), disturbed(other, fault, step)]
    states = [outcome(p / "study") for p in (place, other)]
    return "right" if codes == [0, 0] and states[0] == states[1] and told_plainly(place) else "wrong"


def _signalled(case: Case, place: Path, name: str, step: int) -> str:
    """Asked to leave at a step: it keeps its state, leaves with the signal's code, and goes on later."""

    def do() -> None:
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # nohup and a shell's background ignore these
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        at_step(step, lambda: os.kill(os.getpid(), getattr(signal, name)))
        trainer.CHECKPOINT_SHARE = -1.0  # no checkpoint but the signal's
        try:
            work("train", place, STRATEGY, False)()
        except KeyboardInterrupt:
            os._exit(130)

    code = waited(forked(do, place / "said"), chaos.PATIENCE_S)
    has_state = any((place / "study").rglob("runs/*/state.safetensors"))
    return "told" if code == SIGNALS[name] and has_state and _again(case, place) else "wrong"


assert set(SIGNALS) == set(interruption.NAMES)
