"""What the feature cache saves, as ratios within one run: against the limit, and the loop people write.

    python benchmarks/feature_cache.py DATA_DIR --out feature_cache.jsonl            # every part
    python benchmarks/feature_cache.py DATA_DIR --out feature_cache.jsonl --parts head suffix
    python benchmarks/feature_cache.py --summary feature_cache.jsonl

DATA_DIR holds clothing10.csv (`path,label,group`). lite0, real images, after imports and model load. The
loop people write: torchvision transforms, float32, contiguous, the frozen part run in every epoch. Where it
would take an hour, some of its epochs are run and the rest is multiplied; the result says so.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import frostline
from frostline import models as bb
from frostline import profiling
from frostline.data import Manifest
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Frozen
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone
from frostline.strategies import hyperparameters
from frostline.studies.study_folder import environment
from frostline.system import numerics
from frostline.system.timing import _give_back
from frostline.training.loop import optimizer
from frostline.training.train_request import TrainRequest
from plain import accuracy, drawn, plain_loop

EPOCHS_HEAD, EPOCHS_SUFFIX = 30, 15


class Bench:
    """One folder of images, a fresh cache for every measurement, and the rows that come out."""

    def __init__(self, table: Path, out: Path, scratch: Path) -> None:
        self.table, self.out, self.scratch = table, out, scratch
        self._fresh = 0

    def data(self, train: int, test: int = 0, seed: int = 0, copies: int = 1) -> Manifest:
        """Load a draw."""
        return drawn(self.sheet(train, test, seed, copies))

    def sheet(self, train: int, test: int = 0, seed: int = 0, copies: int = 1) -> Path:
        """Draw images: `train` to learn from, `test` to report on; `copies` repeats them under new bytes."""
        with open(self.table, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        order = np.random.default_rng(seed).permutation(len(rows))[: train + test]
        folder = self.scratch / f"images-{train}-{test}-{seed}-{copies}"
        folder.mkdir(exist_ok=True)
        lines = ["path,label,split"]
        for place, index in enumerate(order):
            source, label = self.table.parent / rows[index]["path"], rows[index]["label"]
            for copy in range(copies if place < train else 1):
                path = source
                if copies > 1:
                    path = folder / f"{place}-{copy}.jpg"
                    if not path.exists():
                        path.write_bytes(
                            source.read_bytes() + copy.to_bytes(2, "big")
                        )  # after the image's end
                lines.append(f"{path},{label},{'train' if place < train else 'test'}")
        sheet = folder / "table.csv"
        sheet.write_text("\n".join(lines) + "\n")
        return sheet

    def fresh_cache(self) -> None:
        """Begin with an empty cache; converted weights, cuts and rates stay."""
        FeatureCache().clear()

    def train(
        self, backbone: Backbone, data: Manifest, strategy: str, **options: Any
    ) -> frostline.training.Run:
        """Train with frostline into a new study."""
        self._fresh += 1
        options = {"flip": "none", **options}
        return frostline.train(
            backbone, data, strategy, study=self.scratch / f"study-{self._fresh}", **options
        )

    def note(self, what: str, ours: float, other: float, bar: str, **more: Any) -> None:
        """Write one result: seconds of ours and of what it is measured against."""
        row = {"what": what, "ours_s": ours, "other_s": other, "ratio": ours / other, "bar": bar, **more}
        with open(self.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), file=sys.stderr, flush=True)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return wall seconds and the answer; what ran before has given its memory back."""
    gc.collect()
    _give_back()
    start = time.perf_counter()
    answer = work()
    return time.perf_counter() - start, answer


# --- the parts ----------------------------------------------------------------------------------------


def way_of(backbone: Backbone, data: Manifest) -> Any:
    """How this machine computes frozen layers."""
    return profiling.forward_config(backbone)


def bare_pass(backbone: Backbone, data: Manifest) -> float:
    """Decode, preprocess, forward in the fastest mode, once over the training images: the limit."""
    way = way_of(backbone, data)
    frozen = Frozen(backbone, backbone.model, backbone.cuts[-1], way)
    images = Images(data, data.subset("train"), backbone.preprocessing)

    def work() -> None:
        for pixels in images.evaluation(way.batch):
            frozen.compute(pixels)

    return timed(work)[0]


def head(bench: Bench) -> None:
    """Head only, 30 epochs, 1,000 images, 224 px."""
    backbone, data = frostline.load_backbone("lite0", size=224), bench.data(1000)
    strategy = f"head(epochs={EPOCHS_HEAD})"
    way_of(backbone, data)
    bench.fresh_cache()
    bench.train(backbone, bench.data(64), "head(epochs=1)", augment="none")  # rates measured, imports done
    for repeat in range(3):
        bench.fresh_cache()
        bare = bare_pass(backbone, data)
        cold, _ = timed(lambda: bench.train(backbone, data, strategy, augment="none"))
        warm, again = timed(lambda: bench.train(backbone, data, strategy, augment="none"))
        assert again.features["computed"] == 0
        bench.note("head, empty cache / one bare pass", cold, bare, "<= 1.3", repeat=repeat)
        bench.note("head, filled cache / empty cache", warm, cold, "<= 0.15", repeat=repeat)
        plain = _plain(bench, "head", size=224, images=1000, epochs=EPOCHS_HEAD, augment=False)
        bench.note("head / the loop people write, no augmentation", cold, plain, "<= 1/25", repeat=repeat)
    for repeat in range(2):
        bench.fresh_cache()
        ours, run = timed(lambda: bench.train(backbone, data, strategy))
        plain = _plain(bench, "head", size=224, images=1000, epochs=EPOCHS_HEAD, augment=True)
        views = run.numeric_plan["frozen"]["views"]
        bench.note(
            "head / the loop people write, augmented", ours, plain, "<= 1/25", repeat=repeat, views=views
        )


def head_accuracy(bench: Bench) -> None:
    """The accuracies behind `head`, on 1,000 images: the plain loop run to its end, once."""
    backbone, data = frostline.load_backbone("lite0", size=224), bench.data(1000, 1500)
    for augment in (False, True):
        name = "standard" if augment else "none"
        run = bench.train(backbone, data, f"head(epochs={EPOCHS_HEAD})", augment=name)
        seconds, model = plain_loop(backbone, data, 0, EPOCHS_HEAD, augment=augment)
        other = accuracy(backbone, model, data)
        bench.note(
            f"head, augment={name}: accuracy",
            run.seconds,
            seconds,
            "",
            accuracy=run.accuracy,
            plain_accuracy=other,
        )


def suffix(bench: Bench) -> None:
    """top_k on a filled cache against the suffix's own steps on tensors in memory."""
    backbone, data = frostline.load_backbone("lite0", size=224), bench.data(1000)
    for k in (1, 2, 3):
        strategy = f"top_k({k}, epochs={EPOCHS_SUFFIX})"
        bench.train(backbone, data, strategy, cache="keep")
        limit = suffix_alone(bench, backbone, data, strategy)
        ours, run = timed(lambda s=strategy: bench.train(backbone, data, s, cache="keep"))
        assert run.features["computed"] == 0
        bench.note(f"top_k({k}), filled cache / suffix alone", ours, limit, "<= 1.25", steps=run.steps)


def suffix_alone(bench: Bench, backbone: Backbone, data: Manifest, strategy: str) -> float:
    """The steps of a suffix, its input in memory: the limit."""
    request = TrainRequest(backbone, data, frostline.parse(strategy))
    phase, known = request.phases()[0], hyperparameters(request.strategy)
    model, cut = backbone.adapt(len(data.classes), seed=0), backbone.cut(phase.cut)
    plan = profiling.training_plan(backbone, cut)
    images = Images(data, data.subset("train"), backbone.preprocessing)
    frozen = Frozen(backbone, model, cut, way_of(backbone, data))
    items = [
        [(position, 0) for position in range(i, min(i + 32, len(images)))] for i in range(0, len(images), 32)
    ]
    rows = torch.cat(list(frozen.batches(images, items)))
    targets = torch.from_numpy(images.targets)
    model = plan.place(model)
    bb.freeze(backbone, model, cut, known.bn)
    bb.set_training(backbone, model, cut, known.bn)
    opt = optimizer.build(backbone, model, phase.lr, known, None)
    rows = rows.float() if plan.precision == "float32" else rows

    def steps() -> None:
        with bb.suffix(backbone, model, cut) as learning:
            for _ in range(phase.epochs):
                for chunk in torch.randperm(len(rows)).chunk(phase.batches):
                    with plan.autocast():
                        out = learning(rows[chunk])
                    loss = F.cross_entropy(out.float(), targets[chunk], label_smoothing=known.label_smoothing)
                    opt.zero_grad(set_to_none=True)
                    loss.backward()
                    learned = [p for group in opt.param_groups for p in group["params"]]
                    torch.nn.utils.clip_grad_norm_(learned, known.clip_grad)
                    opt.step()

    return timed(steps)[0]


def live(bench: Bench) -> None:
    """top_k(1), empty cache, the planned views, against the same strategy live in our own loop."""
    backbone, data = frostline.load_backbone("lite0", size=224), bench.data(1000)
    strategy = f"top_k(1, epochs={EPOCHS_SUFFIX})"
    for repeat in range(2):
        bench.fresh_cache()
        ours, run = timed(lambda: bench.train(backbone, data, strategy))
        other, _ = timed(lambda: bench.train(backbone, data, strategy, views=0, cache="compute"))
        views = run.numeric_plan["frozen"]["views"]
        bench.note("top_k(1), empty cache / live", ours, other, "<= 1/2.5", repeat=repeat, views=views)


def six(bench: Bench) -> None:
    """Six strategies one after another, 160 px, against the same six in the loop people write."""
    size, images = 160, 400
    backbone, data = frostline.load_backbone("lite0", size=size), bench.data(images)
    names = ("linear_probe", "head", "top_k(1)", "gradual_unfreeze", "lp_ft", "full")
    for name in names:  # rates are measured once on a machine
        bench.train(backbone, bench.data(64), name if name == "linear_probe" else _with_epochs(name, 1))
    bench.fresh_cache()
    ours, others = [], []
    for name in names:
        strategy = name if name == "linear_probe" else _with_epochs(name, EPOCHS_SUFFIX)
        ours.append(timed(lambda s=strategy: bench.train(backbone, data, s))[0])
        others.append(_plain(bench, name, size=size, images=images, epochs=EPOCHS_SUFFIX, augment=True))
        print(name, ours[-1], others[-1], file=sys.stderr, flush=True)
    each = {name: [a, b] for name, a, b in zip(names, ours, others, strict=True)}
    bench.note("six strategies / the loop people write", sum(ours), sum(others), "<= 1/2", each=each)
    bench.note("the first three / the loop people write", sum(ours[:3]), sum(others[:3]), "<= 1/6")


def _plain(bench: Bench, name: str, *, size: int, images: int, epochs: int, augment: bool) -> float:
    """Return the seconds of the loop people write, in a process of its own.

    In one process with frostline, whose import makes the C library keep freed memory, it would be faster than
    people have it.
    """
    words = [str(bench.sheet(images)), name, "--size", str(size), "--epochs", str(epochs)]
    return _alone("plain.py", *words, *(["--augment"] if augment else []))


def _alone(file: str, *words: str) -> float:
    """Return what a process of its own prints."""
    command = [sys.executable, str(Path(__file__).parent / file), *words]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _with_epochs(name: str, epochs: int) -> str:
    return f"{name[:-1]}, epochs={epochs})" if name.endswith(")") else f"{name}(epochs={epochs})"


def overhead(bench: Bench) -> None:
    """Running a suffix through its model against calling its modules by hand, forward and backward."""
    backbone = frostline.load_backbone("lite0", size=224)
    plan = numerics.exact_plan()
    model = plan.place(backbone.adapt(10, seed=0))
    for k in (1, 2, 3):
        cut = backbone.cut(len(backbone.stages) - 1 - k)
        with torch.no_grad():
            z = bb.prefix(backbone, model, cut)(
                plan.batch(torch.zeros(32, 3, 224, 224, dtype=torch.uint8), lambda p: p.float())
            )
        blocks = list(model.blocks)[-k:]

        def by_hand(z: Tensor = z, blocks: list[nn.Module] = blocks) -> Tensor:
            for block in blocks:
                z = block(z)
            z = model.global_pool(model.bn2(model.conv_head(z)))
            return model.classifier(z)

        def step(call: Callable[[], Tensor]) -> float:
            start = time.perf_counter()
            call().square().mean().backward()
            taken = time.perf_counter() - start
            model.zero_grad()
            return taken

        with bb.suffix(backbone, model, cut) as run:
            assert torch.equal(run(z), by_hand())
            pairs = [(step(lambda r=run, z=z: r(z)), step(by_hand)) for _ in range(12)][2:]
        ours, other = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        bench.note(f"suffix of top_k({k}) through its model / by hand", ours, other, "<= 1.05 or 3 ms more")


def ten_more(bench: Bench) -> None:
    """10 images added to 1,000."""
    backbone = frostline.load_backbone("lite0", size=224)
    bench.fresh_cache()
    bench.train(backbone, bench.data(1000), "linear_probe")
    run = bench.train(backbone, bench.data(1010), "linear_probe")
    bench.note("10 images more: rows computed", run.features["computed"], 10, "= 10")


def memory(bench: Bench) -> None:
    """Peak memory on a filled cache against the live run, each in a process of its own."""
    for strategy in ("head(epochs=2)", "top_k(1, epochs=2)", "top_k(2, epochs=2)"):
        peaks = {}
        for rows in ("keep", "keep", "compute"):  # the second `keep` finds a filled cache
            peaks[rows] = int(_alone(Path(__file__).name, str(bench.table.parent), "--peak", strategy, rows))
        bench.note(f"{strategy}: peak bytes / live", peaks["keep"], peaks["compute"], "< 1")


def peak(bench: Bench, strategy: str, rows: str) -> int:
    """Peak memory of one run on 400 images."""
    backbone, data = frostline.load_backbone("lite0", size=224), bench.data(400)
    run = bench.train(backbone, data, strategy, cache=rows, views=0 if rows == "compute" else None)
    return int(run.peak_memory_bytes)


def growth(bench: Bench) -> None:
    """1,000, 4,000 and 16,000 images, head only, empty cache: time and memory."""
    backbone = frostline.load_backbone("lite0", size=96)
    first = 0.0
    for copies in (1, 4, 16):
        data = bench.data(1000, copies=copies)
        bench.fresh_cache()
        seconds, run = timed(lambda d=data: bench.train(backbone, d, "head(epochs=5)", augment="none"))
        first = first or seconds
        bench.note(
            f"head, {1000 * copies:,} images / 1,000 images",
            seconds,
            first,
            "linear",
            peak=run.peak_memory_bytes,
        )


def choice(bench: Bench) -> None:
    """Keeping rows, computing them each time, and what frostline chooses, from late cuts to early ones."""
    backbone, data = frostline.load_backbone("lite0", size=96), bench.data(200)
    for k in (1, 3, 5, 6):
        strategy = f"top_k({k}, epochs=8)"
        taken: dict[str, Any] = {}
        bench.train(backbone, bench.data(64), f"top_k({k}, epochs=1)")  # rates are measured once on a machine
        for rows in ("keep", "compute", "auto"):
            bench.fresh_cache()
            taken[rows], run = timed(lambda s=strategy, r=rows: bench.train(backbone, data, s, cache=r))
        why = run.numeric_plan["frozen"]["cached"]
        best = min(taken["keep"], taken["compute"])
        bench.note(
            f"top_k({k}), 200 images, 96 px: auto / the better", taken["auto"], best, "", **taken, why=why
        )


PARTS = {
    part.__name__: part
    for part in (head, suffix, live, six, overhead, ten_more, memory, growth, choice, head_accuracy)
}


def summarise(path: Path) -> str:
    """Return a Markdown table: median ratio and range over repeats."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = ["| work | ratio (range) | n | bar |", "|---|---|---|---|"]
    for what in dict.fromkeys(row["what"] for row in rows):
        mine = [row for row in rows if row["what"] == what]
        ratios = [row["ratio"] for row in mine]
        span = f"{statistics.median(ratios):.3g} ({min(ratios):.3g}–{max(ratios):.3g})"
        lines.append(f"| {what} | {span} | {len(mine)} | {mine[0]['bar']} |")
    return "\n".join(lines)


def main() -> None:
    """Run the parts that are asked for, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--out", type=Path, default=Path("feature_cache.jsonl"))
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        with tempfile.TemporaryDirectory() as scratch:
            bench = Bench(arguments.data / "clothing10.csv", arguments.out, Path(scratch))
            print(peak(bench, *arguments.peak))
        return
    if arguments.summary is None:
        print(json.dumps(environment()), file=sys.stderr)
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["FROSTLINE_CACHE_DIR"] = f"{scratch}/cache"
            bench = Bench(arguments.data / "clothing10.csv", arguments.out, Path(scratch))
            for part in arguments.parts:
                PARTS[part](bench)
    print(summarise(arguments.summary or arguments.out))


if __name__ == "__main__":
    main()
