"""What a run takes beside another process's work: as it comes, passive, on one thread, as frostline does.

python benchmarks/neighbours.py DATA_DIR/clothing10.csv [--quiet] [--rounds 5]

Each way has a process of its own that has everything loaded and remembered; they run by turns, one at a time,
beside an artificial neighbour with `--busy` threads at work that was there before they started. `--quiet`
leaves the neighbour out: have the machine to yourself then. The bar is for frostline's own choice beside the
best of the other three, by their medians: 1.15 beside a neighbour, 1.05 without.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

BARS = {True: 1.05, False: 1.15}  # quiet?
SET = (
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
)  # left out of each run's world
BUSY = """
import hashlib, threading
block = bytes(1 << 20)
def work():
    while True:
        hashlib.sha256(block).digest()  # without Python's lock
for _ in range({threads}):
    threading.Thread(target=work).start()
"""
OWN = "frostline"


def ways(cores: int) -> dict[str, dict[str, str]]:
    """Return what each way sets in its process's environment."""
    every = str(cores)
    return {
        "as it comes": {"OMP_NUM_THREADS": every},
        "passive": {"OMP_NUM_THREADS": every, "OMP_WAIT_POLICY": "PASSIVE"},
        "one thread": {"OMP_NUM_THREADS": "1"},
        OWN: {},
    }


@contextmanager
def neighbour(threads: int) -> Iterator[None]:
    """Keep so many threads busy in another process, inside the block."""
    process = subprocess.Popen([sys.executable, "-c", BUSY.format(threads=threads)]) if threads else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


class Worker:
    """A process that runs the same training whenever it is asked."""

    def __init__(self, way: str, arguments: argparse.Namespace, table: Path, folder: Path) -> None:
        setting = arguments.ways[way]
        clean = {key: value for key, value in os.environ.items() if key not in SET}
        command = [sys.executable, __file__, str(table), "--worker", str(folder)]
        command += ["--strategy", arguments.strategy, "--size", str(arguments.size)]
        command += [] if way == OWN else ["--torch-first"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, env={**clean, **setting}, stdin=pipe, stdout=pipe, text=True
        )

    def run(self) -> dict[str, Any]:
        """Return the seconds of one more run, and the plan it had."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def end(self) -> None:
        """Let the process go."""
        self._process.kill()
        self._process.wait()


def work(arguments: argparse.Namespace) -> None:
    """Be the process of a worker."""
    if arguments.torch_first:
        importlib.import_module("torch")  # so frostline comes too late to say how threads wait
    import frostline

    data = frostline.load_data(arguments.table, near_copies=False)
    backbone = frostline.load_backbone("lite0", size=arguments.size)
    for number, _ in enumerate(sys.stdin):
        study = Path(arguments.worker) / str(number)
        run = frostline.train(backbone, data, arguments.strategy, precision="float32", study=study)
        print(json.dumps({"seconds": run.seconds, "plan": run.numeric_plan}), flush=True)


def main() -> None:
    """Print the seconds of each way and round, and whether the bar is met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--quiet", action="store_true", help="no neighbour: have the machine to yourself")
    parser.add_argument("--busy", type=int, default=2, help="threads of the neighbour")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-class", type=int, default=27)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--strategy", default="top_k(3, epochs=4)")
    parser.add_argument("--also", action="append", default=[], help="another way, as NAME=VALUE,NAME=VALUE")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--torch-first", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    from draws import draw_table

    tried = ways(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    arguments.ways = tried = tried | {
        way: dict(pair.split("=") for pair in way.split(",")) for way in arguments.also
    }
    taken: dict[str, list[float]] = {way: [] for way in tried}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        table = draw_table(arguments.table, arguments.per_class, 0, False, scratch, test_per_class=5)
        stack.enter_context(neighbour(0 if arguments.quiet else arguments.busy))
        workers = {}
        for place, way in enumerate(tried):  # one after another: each sees the neighbour alone at work
            workers[way] = Worker(way, arguments, table, scratch / f"way {place}")
            stack.callback(workers[way].end)
            plan = workers[way].run()["plan"]  # the first fills the store and times what is remembered
            print(f"  {way}: {plan['threads']} threads; {plan.get('wait', '')}", flush=True)
        for number in range(arguments.rounds):
            shift = number % len(tried)
            for way in [*list(tried)[shift:], *list(tried)[:shift]]:
                taken[way].append(float(workers[way].run()["seconds"]))
            print(f"  {number + 1}: {', '.join(f'{w} {s[-1]:.2f}' for w, s in taken.items())}", flush=True)
    report(taken, arguments.quiet)


def report(taken: dict[str, list[float]], quiet: bool) -> None:
    """Print the table, and whether the bar is met."""
    medians = {way: statistics.median(seconds) for way, seconds in taken.items()}
    least = min(medians[way] for way in ("as it comes", "passive", "one thread"))
    print("| way | seconds | median | beside the best of three |\n|---|---|---|---|")
    for way, seconds in taken.items():
        each = ", ".join(f"{s:.2f}" for s in seconds)
        print(f"| {way} | {each} | {medians[way]:.2f} | {medians[way] / least:.2f} |")
    bar, ratio = BARS[quiet], medians[OWN] / least
    world, verdict = "quiet" if quiet else "beside a neighbour", "met" if ratio <= bar else "missed"
    print(f"{world}: frostline {ratio:.2f} of the best of three, bar {bar}: {verdict}")


if __name__ == "__main__":
    main()
