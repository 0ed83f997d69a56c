"""Runs, comparisons and fits that are killed at random moments, again and again: do they end the same?

    python benchmarks/chaos.py --out chaos.jsonl              # 100 kills of runs, of comparisons, 30 of fits
    python benchmarks/chaos.py --out chaos.jsonl --kills 5    # a short form

Small images and one of timm's test networks, random weights, everything from a fresh store. A process that
does the job is killed (SIGKILL) at a random moment and begun again with the same call, until one comes to
its end. Now and then it is SIGTERM instead, or a bit of the newest checkpoint is turned over before the next
one begins. What is left must equal what an uninterrupted process left: weights, metrics and answers to the
byte; no run that was finished may be made again, no row of the store be lost or wrong. A process that takes
ten times as long as the uninterrupted one hangs, and counts as failed. Linux only (processes are forked).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import frostline
from frostline.backbone import Backbone
from frostline.dataset import Manifest
from frostline.errors import RunWarning
from frostline.store import Store
from frostline.training import checkpoint, epoch

KINDS = {"run": 1.0, "comparison": 1.0, "fit": 0.3}  # share of the kills
OPTIONS: dict[str, Any] = {"exact": True, "flip": "none", "threads": 1}
TERMINATED, DAMAGED = 0.15, 0.15  # of the lives: ended by SIGTERM; begun with a damaged checkpoint
LEAST_S = 0.02
MOST, HANGS = 12, 10  # kills before a process is let come to its end; times the length that it then has


def write_images(folder: Path, a_class: int = 16) -> Path:
    """Write three classes of noisy stripes, 32 px."""
    rng = np.random.default_rng(0)
    for label, step in (("wide", 8), ("middle", 4), ("narrow", 2)):
        (folder / label).mkdir(parents=True)
        for number in range(a_class):
            stripes = 90.0 + 80.0 * (np.arange(32) // step % 2)[None, :, None]
            noisy = rng.normal(stripes, 40.0, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / label / f"{number}.png")
    return folder


def job(kind: str, backbone: Backbone, images: Path, study: Path, seed: int) -> None:
    """What a process does: one run, one comparison, or one fit."""
    if kind == "fit":
        frostline.fit(
            images, model=backbone, study=study, seed=seed, repeats=1, minutes=30.0,
            strategies=("linear_probe", "top_k(1, epochs=2)"), **OPTIONS,
        )  # fmt: skip
        return
    data: Manifest = frostline.load_data(images, near_copies=False, val=0.0 if kind == "comparison" else 0.2)
    if kind == "run":
        frostline.train(
            backbone, data, "gradual_unfreeze(2, epochs=6)", study=study, seed=seed, batch=8, views=2,
            rows="keep", **OPTIONS,
        )  # fmt: skip
    else:
        strategies = ("linear_probe", "head(epochs=2)", "top_k(1, epochs=2)")
        frostline.compare(backbone, data, strategies, study=study, seed=seed, repeats=1, batch=8, **OPTIONS)


def left(study: Path) -> dict[str, str]:
    """What a study holds, without what a clock says: a digest of each file that matters."""
    found = {}
    for path in sorted(study.rglob("*")):
        name = str(path.relative_to(study))
        if path.name in (
            "best.safetensors",
            "predictions-val.csv",
            "predictions-test.csv",
            "out-of-fold.csv",
        ):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = json.dumps([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
        if path.name == "comparison.json":
            known = json.loads(path.read_text())
            kept = ("strategy", "score", "accuracy", "low", "high", "runs", "repeats")
            rows = [{k: row[k] for k in kept} for row in known["standings"]]
            found[name] = json.dumps([known["winner"], known["out_of_fold"], rows])
    return found


def finished(study: Path) -> dict[str, int]:
    """When each finished run was finished."""
    return {str(path): path.stat().st_mtime_ns for path in study.rglob("result.json")}


def life(kind: str, backbone: Backbone, images: Path, place: Path, seed: int, every_step: bool) -> int:
    """Begin a process that does the job; returns its number."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        os.environ["FROSTLINE_STORE"] = str(place / "store")
        signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
        warnings.simplefilter("ignore", RunWarning)
        epoch.CHECKPOINT_SHARE = 1e9 if every_step else epoch.CHECKPOINT_SHARE
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            job(kind, backbone, images, place / "study", seed)
        code = 0
    except BaseException as error:
        print(f"{kind} {seed}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def damage(study: Path, rng: random.Random) -> bool:
    """Turn a bit over in the newest checkpoint, where there is one before it; returns whether it did."""
    for state in study.rglob(checkpoint.STATE):
        if (state.parent / checkpoint.BEFORE).exists():
            content = bytearray(state.read_bytes())
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            state.write_bytes(content)
            return True
    return False


def waited(number: int, seconds: float) -> tuple[int, int]:
    """Wait for a process to end, but no longer than that; as `os.waitpid` answers."""
    until = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended or time.monotonic() > until:
            return ended, status
        time.sleep(LEAST_S / 4)


def tried(kind: str, backbone: Backbone, images: Path, seed: int) -> Counter[str]:
    """Kill and begin again until one process comes to its end; returns what was done and what was found."""
    rng, counts = random.Random(f"{kind} {seed}"), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        whole, place = Path(folder) / "whole", Path(folder) / "killed"
        began = time.perf_counter()
        _, status = os.waitpid(life(kind, backbone, images, whole, seed, False), 0)
        length = time.perf_counter() - began
        assert status == 0, "the uninterrupted process failed"
        known: dict[str, int] = {}
        while True:
            if rng.random() < DAMAGED and damage(place / "study", rng):
                counts["checkpoints damaged"] += 1
            number = life(kind, backbone, images, place, seed, every_step=bool(seed % 2))
            last = counts["kills"] >= MOST
            patience = HANGS * length if last else rng.expovariate(3 / length)
            ended, status = waited(number, max(LEAST_S, patience))
            if not ended and last:
                os.kill(number, signal.SIGKILL)
                os.waitpid(number, 0)
                counts["failed"] += 1
                break
            if not ended:
                polite = rng.random() < TERMINATED
                os.kill(number, signal.SIGTERM if polite else signal.SIGKILL)
                _, status = os.waitpid(number, 0)
                if os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 143:
                    counts["kills"] += 1
                    counts["of them SIGTERM"] += polite
            counts["runs made again"] += sum(finished(place / "study").get(k) != v for k, v in known.items())
            known = finished(place / "study")
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
                break
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1:
                counts["failed"] += 1
                break
        counts["wrong results"] += left(whole / "study") != left(place / "study")
        counts["rows lost or wrong"] += _bad_rows(whole, place)
    return counts


def _bad_rows(whole: Path, place: Path) -> int:
    """Rows that are damaged, and rows that the uninterrupted store has and the other hasn't."""
    rows = []
    bad = 0
    for folder in (whole, place):
        os.environ["FROSTLINE_STORE"] = str(folder / "store")
        with Store() as store:
            checked = store.verify()
            bad += checked.damaged + checked.lost if folder == place else 0
            rows.append(sum(holding.rows for holding in store.holdings()))
    return bad + max(0, rows[0] - rows[1])


def main() -> None:
    """Kill until there were enough, and print a line a kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("chaos.jsonl"))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FROSTLINE_STORE"] = str(Path(folder) / "store")
        images = write_images(Path(folder) / "images")
        backbone = frostline.load_backbone("timm/test_resnet", random=True, size=32)
        for kind in arguments.kinds:
            counts, seed = Counter[str](), 0
            want = max(1, round(KINDS[kind] * arguments.kills))
            while counts["kills"] < want and not counts["failed"]:
                counts += tried(kind, backbone, images, seed)
                counts["ends compared"] += 1
                seed += 1
            row = {"kind": kind, **{k: counts[k] for k in NAMES}, "torch": torch.__version__}
            with open(arguments.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


NAMES = (
    "kills", "of them SIGTERM", "checkpoints damaged", "ends compared", "wrong results", "runs made again",
    "rows lost or wrong", "failed",
)  # fmt: skip


if __name__ == "__main__":
    main()
