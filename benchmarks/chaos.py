"""Kills runs at random moments, again and again, and asks whether they still end as if nothing had been.

    python benchmarks/chaos.py --out chaos.jsonl                # 100 kills, then faults on the way
    python benchmarks/chaos.py --kills 10 --only train          # a short form
    python benchmarks/chaos.py --summary chaos.jsonl

A job (`train`, `compare`, `fit` on a network of 5,000 parameters with dropout and BatchNorm, rows kept in a
cache; `cli`: the command line on lite0 at 64 px) is done once undisturbed. Then it is begun in a fresh study,
its whole process group gets SIGKILL at a random moment, and the same job is begun again, until it ends. Then
every run's weights, metrics and predictions must be those of the undisturbed one, bit for bit; no finished
run may have been made again, and no row that was in the cache may be gone or damaged. Jobs run in forked
processes, which spares them the imports; `cli` does not. What the comparison's timings decided (its
`plan.json`) is given to both. With --work on a disk in memory it takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "benchmarks"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402

import frostline  # noqa: E402
from frostline.feature_cache import FeatureCache  # noqa: E402
from frostline.training.loop import trainer  # noqa: E402
from tiny import tiny_backbone, write_table  # noqa: E402

SHARE = {"train": 0.60, "compare": 0.20, "fit": 0.14, "cli": 0.06}  # of the kills
PATIENCE_S = 180.0  # for one job, undisturbed: a run that hangs is not a survivor
# Once killed so often a job may end: a job that is killed for ever shows nothing.
MOST_KILLS = {"train": 6, "compare": 8, "fit": 8, "cli": 3}
STRATEGIES = (
    "gradual_unfreeze(2, epochs=6)",
    "gradual_unfreeze(epochs=8, feature_augment=0.1)",
    "lp_ft(epochs=3)",
    "full(bn=train, epochs=3)",
    "top_k(1, bn=recalibrate, epochs=4)",
)
EXACT: dict[str, Any] = {"deterministic": True, "flip": "none", "threads": 1}
OWN_CODE = "own augmentation"  # a kind of job
RACED = ("linear_probe", "top_k(1, epochs=2)", "gradual_unfreeze(2, epochs=4)")
CLI = [
    "--deterministic",
    "--threads",
    "1",
    "--flip",
    "none",
    "--size",
    "64",
    "--batch-size",
    "8",
    "--quiet",
    "--strategy",
]


@dataclass
class Tally:
    """What was seen of one kind of job."""

    kind: str
    kills: int = 0
    runs: int = 0
    survived: int = 0
    wrong: int = 0
    redone: int = 0
    rows_lost: int = 0
    whole_s: list[float] = field(default_factory=list)  # of undisturbed jobs
    kills_by_moment: dict[str, int] = field(default_factory=dict)  # what the study held when it was killed


# --- jobs ------------------------------------------------------------------------------------------------


def _mirrored(image: Image.Image) -> Image.Image:
    return ImageOps.mirror(image)


def work(kind: str, place: Path, strategy: str, each_step: bool, workers: int = 0) -> Callable[[], object]:
    """Return what does a job on the images of `place`, in its folder `study`, with its folder `cache`."""
    given = {**EXACT, "study": place / "study"}
    table = place.parent / "images" / "table.csv"

    def do() -> object:
        torch.set_num_threads(1)
        if trainer.CHECKPOINT_SHARE > 0:
            trainer.CHECKPOINT_SHARE = 1e9 if each_step else 0.3
        os.environ["FROSTLINE_CACHE_DIR"] = str(place / "cache")
        if kind == "fit":
            pinned = {"strategies": RACED, "repeats": 1, "minutes": 20.0}
            return frostline.fit(table, model=tiny_backbone(), **pinned, **given)
        data = frostline.load_data(table, near_copies=False)
        if kind == "compare":
            return frostline.compare(tiny_backbone(), data, RACED, repeats=1, batch_size=8, **given)
        more = {"batch_size": 8, "cache": "keep", "workers": workers}
        if kind == OWN_CODE:  # which runs in worker processes
            more |= {"cache": "compute", "augment": _mirrored}
        return frostline.train(tiny_backbone(), data, strategy, **more, **given)

    return do


def begun(kind: str, place: Path, strategy: str, each_step: bool = True) -> int:
    """Begin a job in a process group of its own; returns its number. What it says goes to `place`/said."""
    if kind == "cli":
        words = [sys.executable, "-m", "frostline", "train", str(place.parent / "images" / "table.csv")]
        words += [*CLI, strategy, "--study", str(place / "study"), "--cache-dir", str(place / "cache")]
        with open(place / "said", "a") as log:
            return subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True).pid
    return forked(work(kind, place, strategy, each_step), place / "said")


def forked(do: Callable[[], object], log: Path) -> int:
    """Do something in a forked process, in a group of its own; returns its number."""
    if child := os.fork():
        return child
    code = 1
    try:
        os.setsid()
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        do()
        code = 0
    except frostline.errors.FrostlineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        code = error.exit_code
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def waited(process: int, seconds: float) -> int | None:
    """Wait for a process; returns its exit code, or `None` where it works on."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.002)


def killed(process: int) -> None:
    """Kill a whole process group."""
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:  # it has only just begun, and is still in ours
        os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


# --- what must be equal ----------------------------------------------------------------------------------

TIMED = (
    *(
        "ended",
        "seconds",
        "memory",
        "peak",
        "features",
        "study",
        "numeric_plan",
        "test_evaluations",
        "device",
    ),
    *("decoding", "pace"),
)


def digest(folder: Path) -> str:
    """Return a run's digest: weights, metrics and predictions, and every figure that no timing enters."""
    lines = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        if (folder / "metrics.jsonl").exists()
        else []
    )
    untimed = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    result = json.loads((folder / "result.json").read_text())
    figures = {k: v for k, v in result.items() if not any(word in k for word in TIMED)}
    checksum = hashlib.sha256(json.dumps([untimed, figures], sort_keys=True).encode())
    for name in ("best.safetensors", "predictions-val.csv", "predictions-test.csv"):
        checksum.update((folder / name).read_bytes() if (folder / name).exists() else b"-")
    return checksum.hexdigest()


def finished(study: Path) -> dict[str, str]:
    """Return the digest of every finished run of a study and of the studies in it."""
    folders = {path.parent for path in study.rglob("runs/*/result.json")}
    return {str(folder.relative_to(study)): digest(folder) for folder in folders}


def outcome(study: Path) -> list[Any]:
    """Return the digests of all runs, and what a comparison concluded."""
    words: list[Any] = [finished(study)]
    for path in sorted(study.glob("comparisons/*/comparison.json")):
        document = json.loads(path.read_text())
        words.append(
            {key: document[key] for key in ("winner", "separated", "out_of_fold", "differences", "run")}
        )
    return words


def rows_in(folder: Path) -> int:
    """Return how many rows the cache's index knows at this moment."""
    index = folder / "rows" / "index.sqlite"
    if not index.exists():
        return 0
    with sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True, timeout=20) as connection:
        try:
            return int(connection.execute("SELECT COUNT(*) FROM rows").fetchone()[0])
        except sqlite3.OperationalError:  # its tables are not made yet
            return 0


def rows_lost(folder: Path, before: int) -> int:
    """Return how many of the rows that the index knew are gone or damaged."""
    if not before:
        return 0
    os.environ["FROSTLINE_CACHE_DIR"] = str(folder)
    with FeatureCache() as cache:
        damage = cache.verify()
    return damage.damaged + damage.lost + max(0, before - damage.intact)


def moment(study: Path) -> str:
    """Say what there was when a job was killed."""
    if any(study.rglob("runs/*/.*.tmp")):
        return "while a file was written"
    if any(study.rglob("runs/*/state.safetensors")):
        return "with a state to go on from"
    return "with finished runs" if any(study.rglob("runs/*/result.json")) else "before the first state"


# --- kills -----------------------------------------------------------------------------------------------


@dataclass
class Case:
    """One job with its undisturbed outcome."""

    kind: str
    strategy: str
    place: Path
    whole_s: float
    right: list[Any]

    @classmethod
    def undisturbed(cls, kind: str, strategy: str, place: Path) -> Case:
        """Do the job once, and note how long it takes and what comes out."""
        place.mkdir()
        began = time.monotonic()
        code = waited(begun(kind, place, strategy), PATIENCE_S)
        if code != 0:
            raise SystemExit(f"The undisturbed {kind} failed ({code}):\n{(place / 'said').read_text()}")
        return cls(kind, strategy, place, time.monotonic() - began, outcome(place / "study"))

    def again(self, place: Path, rng: np.random.Generator, most: int, tally: Tally) -> None:
        """Do the job in a fresh folder with at most so many kills on the way."""
        (place / "study").mkdir(parents=True)
        for plan in self.place.glob("study/comparisons/*/plan.json"):
            there = place / plan.relative_to(self.place)
            there.parent.mkdir(parents=True)
            shutil.copy(plan, there)
        each_step, code, marks = bool(rng.random() < 0.7), None, {}
        for _ in range(most):
            process = begun(self.kind, place, self.strategy, each_step)
            code = waited(process, float(rng.uniform(0.02, 0.9)) * self.whole_s)
            if code is not None:
                break
            rows = rows_in(place / "cache")
            killed(process)
            tally.kills += 1
            what = moment(place / "study")
            tally.kills_by_moment[what] = tally.kills_by_moment.get(what, 0) + 1
            tally.rows_lost += rows_lost(place / "cache", rows)
            marks |= {p: p.stat().st_mtime_ns for p in (place / "study").rglob("runs/*/result.json")}
        if code is None:
            process = begun(self.kind, place, self.strategy, each_step)
            code = waited(process, PATIENCE_S)
            if code is None:
                killed(process)
        self._judged(place, code, marks, tally)

    def _judged(self, place: Path, code: int | None, marks: dict[Path, int], tally: Tally) -> None:
        tally.runs += 1
        tally.redone += sum(path.stat().st_mtime_ns != when for path, when in marks.items())
        if code != 0:
            print(f"{self.kind} {self.strategy}: left with {code}\n{(place / 'said').read_text()[-3000:]}")
            return
        tally.survived += 1
        if (state := outcome(place / "study")) != self.right:
            tally.wrong += 1
            print(f"{self.kind} {self.strategy} differs in {place}:\n{self.right}\n{state}")
        else:
            shutil.rmtree(place)


def kills(kind: str, wanted: int, folder: Path, rng: np.random.Generator) -> Tally:
    """Do one kind of job until there were so many kills."""
    tally, cases, number = Tally(kind), {}, 0
    strategies = STRATEGIES if kind == "train" else STRATEGIES[:1]
    while tally.kills < wanted:
        strategy = strategies[number % len(strategies)]
        if strategy not in cases:
            cases[strategy] = Case.undisturbed(kind, strategy, folder / f"{kind}-{len(cases)}")
            tally.whole_s.append(round(cases[strategy].whole_s, 2))
        most = min(MOST_KILLS[kind], wanted - tally.kills)
        cases[strategy].again(folder / f"{kind}-again-{number}", rng, most, tally)
        number += 1
    return tally


# --- the whole -------------------------------------------------------------------------------------------


@contextmanager
def workplace(given: Path | None) -> Iterator[Path]:
    """A folder with images in it; removed at the end where none was given."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = given or Path(temporary)
        write_table(folder / "images", train=24, val=4, test=4)
        yield folder


def noted(out: Path | None, row: dict[str, Any]) -> None:
    """Print a result, and append it to the file."""
    row |= {"torch": torch.__version__, "cpus": os.cpu_count(), "threads": 1}
    print(json.dumps(row), flush=True)
    if out:
        with open(out, "a") as file:
            file.write(json.dumps(row) + "\n")


def summary(file: Path) -> None:
    """Print the two tables of the README."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    total: Counter[str] = Counter()
    for row in (row for row in rows if "kills" in row):
        total.update({key: row[key] for key in ("kills", "runs", "survived", "wrong", "redone", "rows_lost")})
    print(dict(total))
    table = csv.writer(sys.stdout, delimiter="|", lineterminator="\n")
    table.writerow(["fault", "times", "right result", "one message, then the right result", "wrong"])
    for row in (row for row in rows if "fault" in row):
        table.writerow([row[key] for key in ("fault", "times", "right", "told", "wrong")])


def main() -> None:
    """Do what the command line asks for; leaves with 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--times", type=int, default=4, help="of each fault")
    parser.add_argument("--only", choices=[*SHARE, "faults"], action="append")
    parser.add_argument("--work", type=Path, help="a folder to work in, kept")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--summary", type=Path)
    arguments = parser.parse_args()
    if arguments.summary:
        summary(arguments.summary)
        return
    warnings.simplefilter("ignore")
    wrong, rng = 0, np.random.default_rng(arguments.seed)
    kinds = arguments.only or [*SHARE, "faults"]
    with workplace(arguments.work) as folder:
        for kind in (kind for kind in SHARE if kind in kinds):
            share = SHARE[kind] / sum(SHARE[other] for other in kinds if other in SHARE)
            rows = kills(kind, max(1, round(share * arguments.kills)), folder, rng)
            wrong += rows.runs - rows.survived + rows.wrong + rows.redone + rows.rows_lost
            noted(arguments.out, asdict(rows))
        if "faults" in kinds:
            import chaos_faults

            for row in chaos_faults.injected(folder, arguments.times, rng):
                wrong += row["wrong"]
                noted(arguments.out, row)
    raise SystemExit(min(1, wrong))


if __name__ == "__main__":
    main()
