"""Every strategy on real image sets, at two sizes and several seeds: what a person will meet.

    python benchmarks/strategies.py DATA_DIR --out results.jsonl
    python benchmarks/strategies.py --summary results.jsonl

DATA_DIR holds NAME.csv files of `path,label,group`. For each set, seed and number of images a class, a
table of train and test images is drawn; "n a class" counts train + val. `--split random` ignores the groups
and takes no val out of train, as the trial it is compared with; `--split grouped` keeps groups apart and
follows frostline's own rule for val: what a person meets. Rows that are
in the results already are skipped, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from draws import draw_table

STRATEGIES = (
    "linear_probe",
    "head",
    "top_k(1)",
    "top_k(3)",
    "lp_ft",
    "gradual_unfreeze",
    "full",
)


def run_one(
    table: Path,
    per_class: int,
    seed: int,
    grouped: bool,
    strategy: str,
    size: int,
    options: dict[str, object],
) -> dict[str, object]:
    """Train one strategy on one draw and return its row."""
    import frostline

    with tempfile.TemporaryDirectory() as scratch:
        sheet = draw_table(table, per_class, seed, grouped, Path(scratch))
        data = frostline.load_data(sheet, seed=seed, near_copies=grouped, val_size=0.2 if grouped else 0.0)
        backbone = frostline.load_backbone("lite0", size=size)
        run = frostline.train(backbone, data, strategy, study=Path(scratch) / "study", seed=seed, **options)
    keep = ("accuracy", "low", "high", "val_accuracy", "balanced_accuracy", "n_train", "n_val", "n_test")
    return {key: run.result[key] for key in (*keep, "seconds", "peak_memory_bytes", "flip", "flip_test")}


def summarise(path: Path) -> str:
    """Return Markdown tables of mean ± spread (standard deviation over seeds), in per cent."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    cells: dict[tuple[str, str, int, str], list[float]] = defaultdict(list)
    for row in rows:
        cells[row["split"], row["set"], row["per_class"], row["strategy"]].append(100 * row["accuracy"])
    lines = []
    for split in sorted({row["split"] for row in rows}):
        lines += [f"\n{split} splits\n", "| set | a class | " + " | ".join(strategies) + " |"]
        lines.append("|---|---|" + "---|" * len(strategies))
        keys = sorted({(r["set"], r["per_class"]) for r in rows if r["split"] == split})
        for name, count in keys:
            cells_of = [cells[split, name, count, s] for s in strategies]
            lines.append(f"| {name} | {count} | " + " | ".join(map(_cell, cells_of)) + " |")
        for count in sorted({count for _, count in keys}):
            means = []
            for strategy in strategies:
                per_set = [cells[split, n, c, strategy] for n, c in keys if c == count]
                per_set = [statistics.mean(values) for values in per_set if values]
                means.append(f"{statistics.mean(per_set):.1f} ({len(per_set)})" if per_set else "")
            lines.append(f"| *mean (sets)* | {count} | " + " | ".join(means) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.1f} ± {spread:.1f}"


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--out", type=Path, default=Path("strategies.jsonl"))
    parser.add_argument("--sets", nargs="*")
    parser.add_argument("--per-class", nargs="*", type=int, default=[8, 40])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--split", choices=["random", "grouped"], default="random")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--options", type=json.loads, default={}, help="JSON passed on to train")
    arguments = parser.parse_args()
    if arguments.summary:
        print(summarise(arguments.summary))
        return
    tables = sorted(arguments.data.glob("*.csv"))
    tables = [t for t in tables if not arguments.sets or t.stem in arguments.sets]
    done = _done(arguments.out)
    for seed in arguments.seeds:
        for table in tables:
            for per_class in arguments.per_class:
                for strategy in arguments.strategies:
                    key = (arguments.split, table.stem, per_class, seed, strategy)
                    if key in done:
                        continue
                    row = dict(zip(("split", "set", "per_class", "seed", "strategy"), key, strict=True))
                    grouped = arguments.split == "grouped"
                    row |= run_one(
                        table, per_class, seed, grouped, strategy, arguments.size, arguments.options
                    )
                    with open(arguments.out, "a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    print(*key, f"{row['accuracy']:.3f}", f"{row['seconds']:.1f} s", file=sys.stderr)
    print(summarise(arguments.out))


def _done(path: Path) -> set[tuple[object, ...]]:
    if not path.exists():
        return set()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {tuple(row[k] for k in ("split", "set", "per_class", "seed", "strategy")) for row in rows}


if __name__ == "__main__":
    main()
