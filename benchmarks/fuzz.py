"""Feed every reader with what no one meant it to read, guided by which lines it reaches (atheris, libFuzzer).

    pip install atheris
    python benchmarks/fuzz.py --out FOLDER --minutes 2              each target for two minutes
    python benchmarks/fuzz.py --out FOLDER --target csv --minutes 10

A reader may answer, or raise `FrostlineError` with its message; a cache may also warn. Anything else is a
finding: another exception, a hang of 20 s, 3 GB of memory, a crash of the process, a file touched outside of
the folder it was given. Findings and the corpus stay in --out, and a second call goes on from them; a line of
figures for each target is appended to results.jsonl there. tests/test_guard_sizes.py runs a short form
without atheris: the same targets, on seeds damaged at random.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frostline.errors import FrostlineError
from fuzz_seeds import LARGEST_BYTES, seeds
from fuzz_targets import TARGETS

HANG_S, MEMORY_MB = 20, 3000
RESTARTS = 20  # after findings that end the process


def damaged(seed: bytes, rng: random.Random) -> bytes:
    """Return a seed with a few bytes changed, cut, doubled or replaced by numbers that readers trip over."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randint(1, 16)]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randint(1, 64)]
        elif kind == 3:
            data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
        else:
            data[at:at] = rng.choice([b"null", b"1e999", b"NaN", b"[[[[", b"../", b"\0", b"-1", b'""', b"{}"])
    return bytes(data)


# --- running ----------------------------------------------------------------------------------------------


def once(name: str, data: bytes) -> BaseException | None:
    """Execute a target in a folder of its own; return what it raised, if it may not raise that."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _silence() as output:
                TARGETS[name](data, folder)
    except FrostlineError:
        pass
    except Exception as error:
        return error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return StrayOutput(output[0][:200]) if output and output[0] else None


class StrayOutput(Exception):
    """A decoder in C wrote to standard output or error on its own."""


@contextlib.contextmanager
def _silence() -> Iterator[list[bytes]]:
    """Catch what is written to the descriptors of standard output and error, past Python's own streams."""
    output: list[bytes] = []
    sys.stdout.flush()
    sys.stderr.flush()
    descriptors = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as file:
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield output
        finally:
            for number, before in zip((1, 2), descriptors, strict=True):
                os.dup2(before, number)
                os.close(before)
            file.seek(0)
            output.append(file.read())


def _where(error: BaseException) -> str:
    if isinstance(error, StrayOutput):
        return f"StrayOutput {re.sub(rb'[^A-Za-z]+', b' ', error.args[0])[:40].decode()}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "frostline" in f.filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {Path(last.filename).name}:{last.lineno}"


def child(name: str, out: Path, seconds: int) -> None:
    """Fuzz one target in this process until the time is up; never returns."""
    import atheris
    import torch

    torch.set_num_threads(1)
    with atheris.instrument_imports(include=["frostline", "PIL"]):
        import frostline.inference.prediction
        import frostline.reports
        import frostline.training.resilience.checkpoint  # noqa: F401 - the reader is reached through it
    corpus = out / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds(name):
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    finds = out / "findings"
    finds.mkdir(exist_ok=True)
    seen: set[str] = set()

    def one(data: bytes) -> None:
        error = once(name, data)
        if error is None or (where := _where(error)) in seen:
            return
        seen.add(where)
        stem = re.sub(r"\W+", "-", f"{name}-{where}")
        (finds / f"{stem}.bin").write_bytes(data)
        (finds / f"{stem}.txt").write_text("".join(traceback.format_exception(error)))

    options = [
        f"-max_total_time={seconds}",
        f"-timeout={HANG_S}",
        f"-report_slow_units={HANG_S}",
        f"-rss_limit_mb={MEMORY_MB}",
    ]
    options += [f"-max_len={LARGEST_BYTES}", f"-artifact_prefix={finds}/{name}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def fuzz(name: str, out: Path, minutes: float) -> dict[str, Any]:
    """Fuzz one target for so long, again from its corpus where the process ended early; return figures."""
    before = set((out / "findings").glob(f"{name}-*")) if (out / "findings").exists() else set()
    began, executions, ended = time.monotonic(), 0, 0
    while (left := int(60 * minutes - (time.monotonic() - began))) > 0 and ended <= RESTARTS:
        command = [sys.executable, __file__, "--out", str(out), "--target", name, "--child", str(left)]
        threads = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FROSTLINE_CACHE_DIR": str(out / "cache")}
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=os.environ | threads
        )
        counts = re.findall(r"stat::number_of_executed_units: (\d+)", done.stderr)
        counts = counts or re.findall(r"^#(\d+)", done.stderr, re.MULTILINE)[-1:]
        executions += int(counts[0]) if counts else 0
        if done.returncode == 0:
            break
        ended += 1
        (out / f"{name}-{ended}.log").write_text(done.stderr[-20_000:])
    findings = sorted(path.name for path in set((out / "findings").glob(f"{name}-*")) - before)
    return {
        "target": name,
        "executions": executions,
        "seconds": round(time.monotonic() - began, 1),
        "findings": [file for file in findings if not file.endswith(".txt")],
        "ended_early": ended,
        "corpus": len(list((out / "corpus" / name).glob("*"))),
    }


def main() -> None:
    """Fuzz the targets that were asked for, one after another."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "--out", type=Path, required=True, help="where corpus, findings and figures are kept"
    )
    arguments.add_argument("--minutes", type=float, default=1.0, help="for each target")
    arguments.add_argument("--target", choices=TARGETS, action="append", help="again for more; without, all")
    arguments.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.child:
        child(given.target[0], given.out.resolve(), given.child)
        return
    for name in given.target or TARGETS:
        figures = fuzz(name, given.out.resolve(), given.minutes)
        with open(given.out / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
