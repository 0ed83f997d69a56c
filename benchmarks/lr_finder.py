"""The LR range test's suggestions beside a grid of learning rates, on one real set.

python benchmarks/lr_finder.py DATA_DIR/sign_digits.csv
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import frostline
from draws import draw_table
from strategies import run_one

GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def main() -> None:
    """Print each stage's suggestion, then the accuracy at each rate of the grid."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--strategy", default="full")
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sheet = draw_table(arguments.table, arguments.per_class, 0, False, Path(scratch))
        data = frostline.load_data(sheet, near_copies=False)
        backbone = frostline.load_backbone("lite0", size=96)
        for name, sweep in frostline.lr_find(backbone, data, arguments.strategy).items():
            print(name, sweep.suggestion, sweep.reason)
    for rate in GRID:
        strategy = f"{arguments.strategy}(lr={rate})"
        row = run_one(
            arguments.table, arguments.per_class, 0, False, strategy, 96, {"threads": arguments.threads}
        )
        print(f"{strategy}: {row['accuracy']:.3f} ({row['low']:.3f}–{row['high']:.3f})")


if __name__ == "__main__":
    main()
