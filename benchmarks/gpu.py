"""Half an hour on a GPU: every row of docs/gpu.md's table, and what no one has tried there yet.

    python benchmarks/gpu.py                       # all parts; rows that gpu-answers.json holds are left out
    python benchmarks/gpu.py --part training       # one part: each takes less than eight minutes
    python benchmarks/gpu.py --cores 4             # the same rows, held to four cores
    python benchmarks/gpu.py --dry-run             # a few small pictures: runs anywhere, to try the script

It needs frostline with its extras demo and test, and no network: it makes its own pictures (gpu_rows.py),
takes scikit-learn's digits, lite0's packaged weights and random ones. Each question of docs/gpu.md has a
check here; one that fails says how, and the rest go on. It ends with one line a row: bar, measured, met or
not. Nothing is kept but the answers.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import frostline
from frostline import models as bb
from frostline import profiling
from frostline.cost import predict
from frostline.data import Manifest
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import ForwardConfig
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone
from frostline.pipelines.packaged_demo import write_digits
from frostline.studies.study_folder import environment
from frostline.system import device_transfers, numerics
from gpu_rows import ON_FOUR_CORES, ROWS, TINY, Row, Sizes, Table

REPEATS = 20  # of what takes milliseconds
MEMORY_WITHIN = 0.1  # of what was held, at the median
HELD = "FROSTLINE_GPU_CORES"
SCRATCH_BYTES = 20 * 10**9  # pictures, their features and studies of all parts, with room to spare


@dataclass(frozen=True)
class Bench:
    """What every check works with."""

    backbone: Backbone
    data: Manifest
    scratch: Path
    epochs: int

    def train(self, strategy: str, name: str, **given: Any) -> frostline.Run:
        """Train in a study of its own, flips not tried."""
        return frostline.train(
            self.backbone, self.data, strategy, study=self.scratch / name, flip="none", **given
        )

    def pixels(self, images: int) -> torch.Tensor:
        """Invented pixels, uint8 of shape (images, 3, size, size)."""
        generator = torch.Generator().manual_seed(0)
        size = self.backbone.preprocessing.size
        return torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator)


# --- is it right? ---------------------------------------------------------------------------------------


def cuts(bench: Bench) -> dict[str, Any]:
    """Run each cut's frozen part and then the rest, beside the whole model, on this device."""
    plan = numerics.exact_plan()
    model = plan.place(bench.backbone.adapt(10).eval())
    x = plan.batch(bench.pixels(32), bench.backbone.preprocessing.normalise)
    differences = {}
    with torch.no_grad():
        whole = model(x)
        for cut in bench.backbone.cuts[1:]:
            z = bb.prefix(bench.backbone, model, cut)(x)
            with bb.suffix(bench.backbone, model, cut) as rest:
                differences[cut.name] = float((rest(z) - whole).abs().max())
    return {"largest_difference_by_cut": differences, "ok": max(differences.values()) < 1e-3}


def rows(bench: Bench) -> dict[str, Any]:
    """Train on kept rows and on rows computed each time: are the weights the same bytes?"""
    strategy = f"top_k(1, epochs={bench.epochs})"
    kept, computed = (bench.train(strategy, way, cache=way) for way in ("keep", "compute"))
    return {"ok": _same(kept, computed), "largest_difference": _apart(kept, computed)}


def repeated(bench: Bench) -> dict[str, Any]:
    """Train twice with `deterministic`: are the weights the same bytes? (Promised on a CPU alone.)"""
    runs = [bench.train(f"full(epochs={bench.epochs})", f"exact {i}", deterministic=True) for i in range(2)]
    return {"ok": _same(*runs), "largest_difference": _apart(*runs)}


def resumed(bench: Bench) -> dict[str, Any]:
    """Interrupt gradual unfreezing in the middle and go on: are the weights the same bytes?"""
    strategy = f"gradual_unfreeze(2, epochs={3 * bench.epochs})"

    def stop(what: str, done: int, total: int) -> None:
        if what == "train" and 2 * done > total:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        bench.train(strategy, "resumed", progress=stop)
    again, whole = bench.train(strategy, "resumed"), bench.train(strategy, "whole")
    return {"ok": _same(again, whole), "largest_difference": _apart(again, whole)}


def _same(one: frostline.Run, other: frostline.Run) -> bool:
    return one.folder.weights.read_bytes() == other.folder.weights.read_bytes()


def _apart(one: frostline.Run, other: frostline.Run) -> float:
    from safetensors.torch import load_file

    first, second = load_file(one.folder.weights), load_file(other.folder.weights)
    return max(float((first[key].float() - second[key].float()).abs().max()) for key in first)


# --- is it fast, and is that known beforehand? ----------------------------------------------------------


def plans(bench: Bench) -> dict[str, Any]:
    """Seconds of a forward pass and of a training step in each numeric plan, and what was chosen."""
    last = bench.backbone.cuts[-1]
    forward = {
        name: 1e3
        * numerics.seconds(
            profiling.forward(bench.backbone, ForwardConfig(plan, profiling.FROZEN_BATCH), last)
        )
        for name, plan in numerics.candidates().items()
    }
    chosen = profiling.training_plan(bench.backbone, bench.backbone.cut(0))
    way = profiling.forward_config(bench.backbone)
    return {
        f"forward_ms_of_{profiling.FROZEN_BATCH}_images": forward,
        "learning": f"{chosen.precision}, channels-last {chosen.channels_last}: {chosen.reason}",
        "frozen": way.describe(),
    }


def sending(bench: Bench) -> dict[str, Any]:
    """Seconds to send a batch, and to fetch a middle cut's rows, from pinned memory and from plain."""
    if numerics.device() != "cuda":
        return {"skipped": "needs CUDA"}
    pixels = bench.pixels(profiling.FROZEN_BATCH)
    pinned = pixels.pin_memory()
    z = torch.rand((profiling.FROZEN_BATCH, bb.row_elements(bench.backbone, bench.backbone.cuts[-3])))
    there = z.to("cuda")
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: pixels.to("cuda"),
        "pinned anew (what frostline does)": lambda: device_transfers.to_device(pixels, "cuda"),
        "pinned before": lambda: pinned.to("cuda", non_blocking=True),
        "rows back": lambda: there.cpu(),
    }
    return {f"{name}, ms": 1e3 * _median_s(run) for name, run in ways.items()}


def compiling(bench: Bench) -> dict[str, Any]:
    """Seconds of a step with and without `torch.compile`; and do layers learn that thawed after it?"""
    bench.backbone.model.eval()
    model, cut = bench.backbone.adapt(10), bench.backbone.cuts[-2]
    plan = profiling.training_plan(bench.backbone, cut)
    model = plan.place(model)
    bb.freeze(bench.backbone, model, cut)
    compiled = torch.compile(model)
    x = plan.batch(bench.pixels(32), bench.backbone.preprocessing.normalise)

    def step(run: Callable[[torch.Tensor], torch.Tensor]) -> None:
        with plan.autocast():
            out = run(x)
        out.float().square().mean().backward()

    taken = {name: 1e3 * numerics.seconds(lambda run=run: step(run)) for name, run in
             (("eager", model), ("compiled", compiled))}  # fmt: skip
    bb.freeze(bench.backbone, model, bench.backbone.cut(0))
    model.zero_grad(set_to_none=True)
    step(compiled)
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    return {"ms": taken, "thawed_without_a_gradient": silent[:5], "ok": not silent}


def foreseen(bench: Bench) -> dict[str, Any]:
    """Seconds and memory that were predicted, beside what runs took; the GPU's memory, which is not yet."""
    images = Images(
        bench.data, bench.data.subset("train"), bench.backbone.preprocessing, policy=Policy("standard")
    )
    known = profiling.measure(bench.backbone, images, cache=FeatureCache())
    lines = []
    for strategy in ("linear_probe", f"top_k(1, epochs={bench.epochs})", f"full(epochs={bench.epochs})"):
        counts = {part: len(bench.data.subset(part)) for part in ("train", "val", "test")}
        predicted = predict(strategy, known, classes=len(bench.data.classes), flip="none", **counts)
        run = bench.train(strategy, f"foreseen {strategy}")
        lines.append(
            {
                "strategy": strategy,
                "seconds": [predicted.seconds, run.seconds],
                "host_memory_mb": [predicted.peak_memory_bytes / 1e6, run.peak_memory_bytes / 1e6],
                "device_memory_mb": None if run.device_peak_bytes is None else run.device_peak_bytes / 1e6,
            }
        )
    return {"predicted_then_actual": lines}


def _median_s(run: Callable[[], object]) -> float:
    run()
    taken = []
    for _ in range(REPEATS):
        begun = numerics.now()
        run()
        taken.append(numerics.now() - begun)
    return statistics.median(taken)


CHECKS = (cuts, rows, repeated, resumed, plans, sending, compiling, foreseen)
Answered = tuple[str, str, float, dict[str, Any]]  # name, question, seconds, answer


def page(answered: Sequence[Answered], device: str) -> str:
    """Return the answers as Markdown."""
    lines = [f"# frostline on {device}", "", "```json", json.dumps(environment(), indent=1), "```"]
    for name, question, seconds, answer in answered:
        verdict = {True: "yes", False: "NO"}.get(answer.get("ok"), "")
        lines += ["", f"## {name} {verdict}".rstrip(), "", question, ""]
        lines += ["```json", json.dumps(answer, indent=1, default=str), "```", "", f"({seconds:.0f} s)"]
    return "\n".join(lines)


def answers(bench: Bench, wanted: Sequence[str]) -> list[Answered]:
    """Make each check; one that fails answers with its last lines."""
    return [
        answered(check.__name__, check, bench) for check in CHECKS if not wanted or check.__name__ in wanted
    ]


def answered(name: str, question: Callable[[Any], dict[str, Any]], asked: Any) -> Answered:
    """Answer one question, or say how it failed."""
    begun = time.perf_counter()
    try:
        answer = question(asked)
    except Exception:
        answer = {"ok": False, "failed": traceback.format_exc().splitlines()[-3:]}
    return name, (question.__doc__ or "").splitlines()[0], time.perf_counter() - begun, answer


# --- the table ------------------------------------------------------------------------------------------


class Kept:
    """Answers in a file, by device, versions, size and row: what is there is not measured again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def put(self, key: str, answer: Answered) -> None:
        """Keep an answer, in the file at once."""
        self.values[key] = list(answer)
        self.path.write_text(json.dumps(self.values, indent=1, default=str))


def verdict(row: Row, answer: dict[str, Any], prefix: str) -> str:
    """Return a row in one line: bar, measured, met or not."""
    measured = answer.get("measured")
    if "failed" in answer:
        said = "FAILED: " + answer["failed"][-1]
    elif "listed" in answer:
        said = ", ".join(f"{name} {value:.2f}" for name, value in answer["listed"].items())
    elif measured is None or row.meets is None:
        said = "nothing measured here"
    else:
        memory = answer.get("memory_off")
        met = row.meets(measured) and (memory is None or memory <= MEMORY_WITHIN)
        beside = "" if memory is None else f" (memory off by {memory:.3f})"
        said = f"measured {measured:.3f}{beside}: {'met' if met else 'NOT MET'}"
    aim = f", aim {row.aim}" if row.aim else ""
    return f"{prefix}{row.name}: {row.question}; bar {row.bar}{aim}; {said}"


def held_to(cores: int) -> None:
    """Begin again held to so many cores, since libraries count them when they are loaded."""
    if os.environ.get(HELD) != str(cores):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, HELD: str(cores)})


def table_lines(table: Table, kept: Kept, where: str, chosen: Sequence[Row], prefix: str) -> list[str]:
    """Answer the rows that are not answered yet, and return a line for each."""
    lines = []
    measured_of = f"{where} | torch {torch.__version__}, {commit()}"
    for row in chosen:
        key = f"{measured_of} | {table.sizes.images} images of {table.sizes.pixels} px | {prefix}{row.name}"
        if key not in kept.values:
            answer = answered(row.name, row.measure, table)
            if "failed" not in answer[3]:  # what failed is asked again
                kept.put(key, answer)
        else:
            answer = tuple(kept.values[key])
        lines.append(verdict(row, answer[3], prefix))
        print(lines[-1], flush=True)
    return lines


def commit() -> str:
    """Return the checkout's commit; "" without git. What was measured of one says nothing of another."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def scratch_folder() -> Path | None:
    """Return the memory of the machine where there is room in it; None for the usual place."""
    memory = Path("/dev/shm")  # 64 MB in a container as it comes
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > SCRATCH_BYTES else None


def main() -> None:
    """Answer all questions, or those that were named."""
    parts = [*dict.fromkeys(row.part for row in ROWS), "checks"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join(c.__name__ for c in CHECKS))
    parser.add_argument("--part", action="append", choices=parts)
    parser.add_argument("--cores", type=int)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--answers", type=Path, default=Path("gpu-answers.json"))
    arguments = parser.parse_args()
    if arguments.cores:
        held_to(arguments.cores)
    wanted = arguments.part or ([] if arguments.checks else parts)
    where = torch.cuda.get_device_name() if numerics.device() == "cuda" else numerics.device_name()
    prefix = f"{arguments.cores} cores: " if arguments.cores else ""
    chosen = [
        row for row in ROWS if row.part in wanted and (not arguments.cores or row.name in ON_FOUR_CORES)
    ]
    kept = Kept(arguments.answers)
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
        os.environ["FROSTLINE_CACHE_DIR"] = str(Path(folder) / "store")
        table = Table(Path(folder), TINY if arguments.dry_run else Sizes())
        lines = table_lines(table, kept, where, chosen, prefix)
        if arguments.checks or ("checks" in wanted and not arguments.cores):
            sheet = write_digits(Path(folder) / "digits", seed=0)
            if arguments.dry_run:
                _thin(sheet)
            bench = Bench(
                frostline.load_backbone("lite0", size=64 if arguments.dry_run else 224),
                frostline.load_data(sheet, near_copies=False),
                Path(folder),
                epochs=1 if arguments.dry_run else 3,
            )
            print(page(answers(bench, arguments.checks), where))
    print("\n".join([f"\n{where}:", *lines]))


def _thin(sheet: Path) -> None:
    """Keep every tenth row of the table."""
    head, *lines = sheet.read_text().splitlines()
    sheet.write_text("\n".join([head, *itertools.islice(lines, 0, None, 10)]) + "\n")


if __name__ == "__main__":
    main()
