"""Trains a tiny network as one process of a job, once for each line of a file of jobs.

torchrun --nproc-per-node 2 training_in_processes.py JOBS: a line is the JSON of `table`, `study`, `strategy`
and `options` of `train`; `each_step_kept`; `kill`, `exhaust` and `spoil`, each (rank, step of the run), for a
process that dies there, runs out of memory or finds a loss that is NaN. Each writes `STUDY-RANK.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import frostline
from frostline.data import Manifest
from frostline.feature_extraction import Frozen
from frostline.training.loop import trainer
from tiny import PREPROCESSING, tiny_model

OPTIONS: dict[str, Any] = {
    "deterministic": True,
    "augment": "light",
    "flip": "none",
    "threads": 1,
    "device": "cpu",  # a card is for one process
    "batch_size": 12,
}


def steady_backbone() -> frostline.Backbone:
    """A tiny network without dropout, whose draws differ between one process and several."""
    model = tiny_model()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return frostline.load_backbone(model, preprocessing=PREPROCESSING)


def images_of(table: str | Path) -> Manifest:
    return frostline.load_data(table, near_copies=False)


def watch_rows() -> list[int]:
    """How many rows each call of the prefix computes from now on."""
    counts: list[int] = []
    real = Frozen.compute

    def compute(self: Frozen, pixels: Tensor, *taps: object) -> object:
        counts.append(len(pixels))
        return real(self, pixels, *taps)

    Frozen.compute = compute  # type: ignore[method-assign]
    return counts


def watch_weights() -> list[str]:
    """The digest of the weights that each training ends with from now on."""
    digests: list[str] = []
    real = trainer.Trainer.fit

    def fit(self: trainer.Trainer) -> Any:
        state = real(self)
        weights = [value.numpy().tobytes() for value in self._model.state_dict().values()]
        digests.append(hashlib.sha256(b"".join(weights)).hexdigest())
        return state

    trainer.Trainer.fit = fit  # type: ignore[method-assign]
    return digests


def exhaust(step: int) -> None:
    """Let memory run out at one step of the run, once."""
    real, left = trainer.Trainer._backward, [1]

    def backward(self: Any, learning: Any, z: Tensor, y: Tensor) -> Tensor:
        if left[0] and self._state.steps == step:
            left[0] -= 1
            raise MemoryError
        return real(self, learning, z, y)

    trainer.Trainer._backward = backward  # type: ignore[method-assign]


def spoil(step: int) -> None:
    """Let a loss be no number at one step of the run, once."""
    real, left = trainer.Trainer._backward, [1]

    def backward(self: Any, learning: Any, z: Tensor, y: Tensor) -> Tensor:
        loss = real(self, learning, z, y)
        if left[0] and self._state.steps == step:
            left[0] -= 1
            return loss * float("nan")
        return loss

    trainer.Trainer._backward = backward  # type: ignore[method-assign]


def main(jobs: str) -> None:
    me = int(os.environ.get("RANK", "0"))
    backbone = steady_backbone()
    rows, weights = watch_rows(), watch_weights()
    for line in Path(jobs).read_text().splitlines():
        job = json.loads(line)
        rows.clear()
        trainer.CHECKPOINT_SHARE = 1e9 if job.get("each_step_kept") else 0.0
        if job.get("exhaust", [None])[0] == me:
            exhaust(job["exhaust"][1])
        if job.get("spoil", [None])[0] == me:
            spoil(job["spoil"][1])

        def progress(what: str, done: int, total: int, job: dict[str, Any] = job) -> None:
            if what == "train" and job.get("kill") == [me, done]:
                os.kill(os.getpid(), signal.SIGKILL)

        options = {**OPTIONS, **job.get("options", {})}
        data = images_of(job["table"])
        run = frostline.train(
            backbone, data, job["strategy"], study=job["study"], progress=progress, **options
        )
        document = {"result": run.result, "rows": sum(rows), "weights": weights[-1:]}
        Path(f"{job['study']}-{me}.json").write_text(json.dumps(document))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
