"""Full fine-tuning against the loop people write: seconds per image, decode apart, interleaved pairs.

    python benchmarks/speed.py [--sizes 96 224] [--pairs 5]

The plain loop: float32, contiguous, `model.train()`, AdamW, cross-entropy. Ours: what `train` runs with its
defaults on this machine (numeric plan by timing), once with the default BatchNorm policy and once with the
same one as the plain loop (`train`). Pixels are the same random uint8 batches; nothing is decoded in the
timed part. Each pair times both, one after the other, so that a slow moment of the machine hits both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

import frostline
from frostline import models as bb
from frostline.models import Backbone
from frostline.strategies import full, hyperparameters
from frostline.studies.study_folder import environment
from frostline.system import numerics
from frostline.training.loop import optimizer

BATCH, STEPS = 32, 4


def plain_loop(backbone: Backbone, pixels: torch.Tensor, targets: torch.Tensor) -> Callable[[], None]:
    """The loop people write."""
    model = backbone.adapt(10, seed=0).to(memory_format=torch.contiguous_format)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()

    def steps() -> None:
        for _ in range(STEPS):
            loss = F.cross_entropy(model(backbone.preprocessing.normalise(pixels)), targets)
            opt.zero_grad()
            loss.backward()
            opt.step()

    return steps


def our_loop(backbone: Backbone, pixels: torch.Tensor, targets: torch.Tensor, bn: str) -> Callable[[], None]:
    """The body of `frostline.training.loop.trainer`, with the plan this machine's timing chooses."""
    model, cut, known = backbone.adapt(10, seed=0), backbone.cut(0), hyperparameters(full(bn=bn))

    def timed(plan: numerics.NumericPlan) -> None:
        plan.place(model)
        with plan.autocast():
            out = model(plan.batch(pixels[:16], backbone.preprocessing.normalise))
        out.float().square().mean().backward()
        model.zero_grad()

    plan = numerics.timed_plan(f"benchmark {backbone.preprocessing.size} {bn}", timed)
    model = plan.place(model)
    bb.freeze(backbone, model, cut, bn)
    bb.set_training(backbone, model, cut, bn)
    opt = optimizer.build(backbone, model, known.lr, known, None)
    print(f"  plan for bn={bn}: {plan.precision}, {plan.reason}")

    def steps() -> None:
        with bb.suffix(backbone, model, cut) as learning:
            for _ in range(STEPS):
                with plan.autocast():
                    out = learning(plan.batch(pixels, backbone.preprocessing.normalise))
                loss = F.cross_entropy(out.float(), targets, label_smoothing=known.label_smoothing)
                opt.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), known.clip_grad)
                opt.step()

    return steps


def seconds_per_image(steps: Callable[[], None]) -> float:
    """Wall seconds of one timed stretch, per image."""
    start = time.perf_counter()
    steps()
    return (time.perf_counter() - start) / (STEPS * BATCH)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", type=int, default=[96, 224])
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    print(environment(), "threads", torch.get_num_threads())
    generator = torch.Generator().manual_seed(0)
    for size in arguments.sizes:
        backbone = frostline.load_backbone("lite0", size=size)
        pixels = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8, generator=generator)
        targets = torch.randint(0, 10, (BATCH,), generator=generator)
        loops = {
            "plain": plain_loop(backbone, pixels, targets),
            "ours": our_loop(backbone, pixels, targets, "affine"),
            "ours, bn=train": our_loop(backbone, pixels, targets, "train"),
        }
        for steps in loops.values():
            steps()  # warm up
        taken: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(arguments.pairs):
            for name, steps in loops.items():
                taken[name].append(1e3 * seconds_per_image(steps))
        for name, values in taken.items():
            ratios = [p / v for p, v in zip(taken["plain"], values, strict=True)]
            print(
                f"{size} px, {name}: {statistics.median(values):.1f} ms an image "
                f"({min(values):.1f}–{max(values):.1f}), {statistics.median(ratios):.2f} × as fast as plain "
                f"({min(ratios):.2f}–{max(ratios):.2f}), n = {arguments.pairs}"
            )


if __name__ == "__main__":
    main()
