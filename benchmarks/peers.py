"""frostline beside what people use: the same images, splits, weights, size and machine, in one run.

    pip install -e ".[demo]" fastai lightning finetuning-scheduler vyntri pandas  # in an own environment
    python benchmarks/peers.py DATA_DIR --out peers.jsonl [--tune]
    python benchmarks/peers.py --summary peers.jsonl

Every contender is a process of its own (`contenders.py`) with one thread, in alternating order, from empty
stores. Each result is appended; the same command goes on where it stopped. `--tune` runs the grids from which
the peers' epochs and rates were chosen (`chosen`), on a draw of its own. Ratios are of processor seconds,
since others may use the machine; seconds on the clock stand beside them in the file.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import stats

from draws import draw_table

SETS = ("clothing10", "sign_digits", "trashnet6")
TEST_PER_CLASS = 40
KEYS = ("name", "set", "size", "per_class", "seed", "settings")  # what makes a result another one
TUNED_ON = 100  # the seed of the draw that the grids see, and no reported one
Named = dict[str, tuple[str, dict[str, Any]]]  # name → contender, settings

OURS: Named = {
    f"frostline {strategy}": ("frostline", {"strategy": strategy})
    for strategy in (
        "linear_probe(layers=last)",
        "linear_probe",
        "top_k(1)",
        "top_k(3)",
        "lp_ft",
        "lp_ft(refit_layers=4)",
    )
}
# The same where cuts and timings of this network are remembered from other images; no rows of these are.
AGAIN: Named = {"frostline linear_probe, network known": ("frostline", {"strategy": "linear_probe"})}
# The whole story, with a race on folds: what a person gets who asks for nothing but a minute.
FIT: Named = {"frostline fit, 1 minute": ("frostline_fit", {"minutes": 1.0})}
# Epochs and rates: `chosen` over the grids below (docs/LOG.md 2026-11-25).
PEERS: Named = {
    "scikit-learn on timm features": ("sklearn", {}),
    "the same, C by folds": ("sklearn", {"chooses_c": True}),
    "vyntri": ("vyntri", {}),
    "fastai fine_tune": ("fastai", {"epochs": 10, "lr": 1e-2, "batch": 16}),
    "fastai fine_tune, its finder's rate": ("fastai", {"epochs": 10, "batch": 16}),
    "Lightning, finetuning-scheduler": ("lightning", {"epochs": 20, "lr": 1e-2}),
    "the loop people write": ("plain", {"epochs": 20, "lr": 3e-4}),
}
GRIDS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "fastai fine_tune": (
        "fastai",
        [{"epochs": n, "lr": 2e-3, "batch": batch} for n, batch in ((3, 16), (5, 16), (10, 16), (10, 64))]
        + [{"epochs": n, "lr": lr, "batch": 16} for n, lr in ((10, 1e-2), (20, 2e-3))],
    ),
    "Lightning, finetuning-scheduler": (
        "lightning",
        [{"epochs": n, "lr": lr} for lr in (1e-3, 4e-3) for n in (5, 10, 20)] + [{"epochs": 20, "lr": 1e-2}],
    ),
    "the loop people write": (
        "plain",
        [{"epochs": n, "lr": lr} for lr in (1e-4, 3e-4, 1e-3) for n in (5, 10, 20)]
        + [{"epochs": n, "lr": lr, "bn": "train"} for lr in (3e-4, 1e-3) for n in (10, 20)],
    ),
}


def weights(out: Path) -> Path:
    """Write lite0's packaged weights under timm's names, once."""
    path = out.with_suffix(".safetensors")
    if not path.exists():
        from safetensors.torch import save_file

        from frostline.models.zoo.efficientnet_lite import load_lite

        save_file(load_lite("lite0").state_dict(), path)
    return path


def known(out: Path, size: int) -> Path:
    """Return a store that knows the network at this size: made once, with images of noise."""
    store = out.with_name(f"{out.stem}-{size}-store")
    if not store.exists():
        with tempfile.TemporaryDirectory() as folder:
            noise = np.random.default_rng(0).integers(0, 256, (32, size, size, 3), dtype=np.uint8)
            lines = [("path", "label", "split")]
            for i, pixels in enumerate(noise):
                path = f"{folder}/{i}.png"
                Image.fromarray(pixels).save(path)
                lines.append((path, "ab"[i % 2], "train" if i < 24 else "test"))
            sheet = Path(folder, "noise.csv")
            with open(sheet, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(lines)
            settings = AGAIN["frostline linear_probe, network known"]
            contend(*settings, sheet, size, 0, weights(out), Path(folder, "store"))
            shutil.copytree(Path(folder, "store"), store)
    return store


def contend(
    contender: str,
    settings: dict[str, Any],
    sheet: Path,
    size: int,
    seed: int,
    weights_file: Path,
    store: Path | None = None,
) -> dict[str, Any]:
    """Run one contender in a process of its own, with one thread; return what it told."""
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder, "task.json")
        job = {"contender": contender, "settings": settings, "sheet": str(sheet), "size": size, "seed": seed}
        task.write_text(json.dumps({**job, "folder": folder, "weights": str(weights_file.resolve())}))
        own = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE"), "1")
        own |= {
            "FROSTLINE_CACHE_DIR": str(store or Path(folder, "store")),
            "CUDA_VISIBLE_DEVICES": "",
            "FASTAI_HOME": folder,
        }
        script, began = Path(__file__).with_name("contenders.py"), time.perf_counter()
        ended = subprocess.run(
            [sys.executable, str(script), str(task)], env=os.environ | own, capture_output=True, text=True
        )
        if ended.returncode:
            raise RuntimeError(f"{contender} {settings} failed:\n{ended.stderr[-3000:]}")
        return {**json.loads(ended.stdout.splitlines()[-1]), "process_wall_s": time.perf_counter() - began}


def tried(grid: bool) -> Named:
    """Return what is run: the line-up, or every point of the grids."""
    if not grid:
        return OURS | AGAIN | FIT | PEERS
    return {
        f"{name} {json.dumps(settings)}": (contender, settings)
        for name, (contender, points) in GRIDS.items()
        for settings in points
    }


def rows(out: Path) -> list[dict[str, Any]]:
    """Read what was run so far."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def run(arguments: argparse.Namespace) -> None:
    """Run what is missing, draw by draw, every other draw in the opposite order."""
    weights_file = weights(arguments.out)
    named = tried(arguments.tune)
    only = arguments.only or list(named)
    done = [{key: row[key] for key in KEYS} for row in rows(arguments.out)]
    places = [
        (seed, size, name) for seed in arguments.seeds for size in arguments.sizes for name in arguments.sets
    ]
    for turn, (seed, size, which) in enumerate(places):
        with tempfile.TemporaryDirectory() as folder:
            table = arguments.data / f"{which}.csv"
            each, tests = arguments.per_class, TEST_PER_CLASS
            sheet = draw_table(table, each, seed, False, Path(folder), test_per_class=tests)
            for name in list(named)[:: 1 if turn % 2 == 0 else -1]:
                figures = (name, which, size, each, seed, named[name][1])
                row: dict[str, Any] = dict(zip(KEYS, figures, strict=True))
                if row in done or not any(name.startswith(word) for word in only):
                    continue
                store = Path(folder, "store")  # an own one for each contender
                if name in AGAIN:
                    shutil.copytree(known(arguments.out, size), store)
                row |= contend(*named[name], sheet, size, seed, weights_file, store)
                shutil.rmtree(store, ignore_errors=True)
                with open(arguments.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, file=sys.stderr, flush=True)


def chosen(results: list[dict[str, Any]]) -> dict[str, str]:
    """For each peer the setting with the fewest seconds whose mean accuracy is within a point of its best."""
    result = {}
    for name in GRIDS:
        mine = {row["name"] for row in results if row["name"].startswith(f"{name} {{")}
        accuracy = {key: mean(results, key, "accuracy") for key in mine}
        good = [key for key in mine if accuracy[key] >= max(accuracy.values()) - 0.01]
        if good:
            result[name] = min(good, key=lambda key: mean(results, key, "cpu_s"))
    return result


def mean(results: list[dict[str, Any]], name: str, figure: str) -> float:
    """The mean of a figure over a contender's rows."""
    return statistics.fmean(row[figure] for row in results if row["name"] == name)


def interval(values: list[float]) -> float:
    """Half the width of a 95 % t interval of the mean; not a number for a single value."""
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def grouped(results: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield each image set and size with its rows."""
    for which, size in sorted(
        {(row["set"], row["size"]) for row in results}, key=lambda key: (key[1], key[0])
    ):
        title = f"{which}, {size} px"
        yield title, [row for row in results if (row["set"], row["size"]) == (which, size)]


def table_lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a table: what each contender reached, and what that took."""
    yield "| contender | accuracy, % | processor s | s by the clock | imports | peak MB (imports) | n |"
    yield "|---|---|---|---|---|---|---|"
    for name in sorted({row["name"] for row in results}, key=lambda name: mean(results, name, "cpu_s")):
        mine = [row for row in results if row["name"] == name]
        scores = [100 * row["accuracy"] for row in mine]
        cells = [f"{statistics.fmean(scores):.1f} ± {interval(scores):.1f}"]
        cells += [f"{mean(mine, name, key):.1f}" for key in ("cpu_s", "wall_s", "import_cpu_s")]
        peak, imported = (mean(mine, name, key) / 1e6 for key in ("peak_bytes", "imported_bytes"))
        yield f"| {name} | {' | '.join(cells)} | {peak:.0f} ({imported:.0f}) | {len(mine)} |"


def reaching(results: list[dict[str, Any]], accuracy: float, named: Named) -> str | None:
    """The contender among `named` with the fewest seconds whose mean accuracy is at least this."""
    there = {row["name"] for row in results} & set(named)
    good = [name for name in there if mean(results, name, "accuracy") >= accuracy]
    return min(good, key=lambda name: mean(results, name, "cpu_s"), default=None)


def pairs(results: list[dict[str, Any]], name: str, ours: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return a peer's rows, each with ours of the same draw."""
    mine = {(row["set"], row["seed"]): row for row in results if row["name"] == ours}
    keyed = [((row["set"], row["seed"]), row) for row in results if row["name"] == name]
    return [(row, mine[key]) for key, row in keyed if key in mine]


def ratios(results: list[dict[str, Any]], name: str, ours: str) -> list[float]:
    """Processor seconds of a peer over ours, draw by draw."""
    return [theirs["cpu_s"] / mine["cpu_s"] for theirs, mine in pairs(results, name, ours)]


def paired_lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield, over all sets, each peer beside our probe on the draws that both have seen."""
    yield "| peer | ours | points above it | its seconds / ours (range) | draws |"
    yield "|---|---|---|---|---|"
    for name in [name for name in PEERS if name in {row["name"] for row in results}]:
        for ours in ("frostline linear_probe", *AGAIN):
            both = pairs(results, name, ours)
            if both:
                gains = [100 * (mine["accuracy"] - theirs["accuracy"]) for theirs, mine in both]
                gain = f"{statistics.fmean(gains):+.1f} ± {interval(gains):.1f}"
                yield f"| {name} | {ours} | {gain} | {told(ratios(results, name, ours))} | {len(both)} |"


def told(times: list[float]) -> str:
    """Say a ratio and its range."""
    return f"{statistics.geometric_mean(times):.2f} ({min(times):.2f}–{max(times):.2f})"


def ratio_lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield, for each peer, ours that is as good at least, and how many times its seconds the peer takes."""
    yield "| peer | its accuracy, % | ours with at least that | its seconds / ours (range) |"
    yield "|---|---|---|---|"
    for name in [name for name in PEERS if name in {row["name"] for row in results}]:
        accuracy = mean(results, name, "accuracy")
        ours = reaching(results, accuracy, OURS)
        if ours is None:
            yield f"| {name} | {100 * accuracy:.1f} | none | |"
            continue
        spread = told(ratios(results, name, ours))
        yield f"| {name} | {100 * accuracy:.1f} | {ours.split(maxsplit=1)[1]} | {spread} |"


def headlines(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield each of ours beside the peer that is soonest at its accuracy, and the goals."""
    for ours in [name for name in OURS if name in {row["name"] for row in results}]:
        accuracy = mean(results, ours, "accuracy")
        peer = reaching(results, accuracy, PEERS)
        took = statistics.geometric_mean(ratios(results, peer, ours)) if peer else None
        beside = f"{peer} takes {took:.2f} × its seconds" if peer else "no peer gets there"
        yield f"- To the {100 * accuracy:.1f} % of {ours}: {beside}."
    points = ", ".join(gained(results)) or "none is done"
    yield f"- In half of fastai's seconds, points above it: {points}."


def gained(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what ours reach in at most half of fastai's seconds, over the draws that both have seen."""
    for ours in OURS:
        both = pairs(results, "fastai fine_tune", ours)
        if both and all(mine["cpu_s"] <= theirs["cpu_s"] / 2 for theirs, mine in both):
            gain = statistics.fmean(100 * (mine["accuracy"] - theirs["accuracy"]) for theirs, mine in both)
            yield f"{ours} {gain:+.1f} (n = {len(both)})"


def summarise(out: Path) -> str:
    """Return the tables."""
    results = rows(out)
    grid = [row for row in results if row["name"].endswith("}")]
    lines = [f"- Chosen for {name}: {key}" for name, key in chosen(grid).items()]
    for title, mine in grouped(grid):
        lines += ["", f"### Grid, {title}", "", *table_lines(mine)]
    results = [row for row in results if not row["name"].endswith("}")]
    for size in sorted({row["size"] for row in results}):
        same = [row for row in results if row["size"] == size]
        lines += ["", f"### All sets, {size} px", "", *paired_lines(same)]
    for title, mine in grouped(results):
        lines += ["", f"### {title}", "", *table_lines(mine), "", *ratio_lines(mine), "", *headlines(mine)]
    return "\n".join(lines)


def main() -> None:
    """Run, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("peers.jsonl"))
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[96])
    parser.add_argument("--per-class", type=int, default=40)
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--only", nargs="+", help="beginnings of names")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--summary", type=Path)
    arguments = parser.parse_args()
    arguments.seeds = arguments.seeds or ([TUNED_ON] if arguments.tune else [0, 1, 2])
    if arguments.summary is None:
        run(arguments)
    print(summarise(arguments.summary or arguments.out))


if __name__ == "__main__":
    main()
