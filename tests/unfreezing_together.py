"""Trains a tiny network by stages in one process, then in two with half the batch each.

python unfreezing_together.py FOLDER
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import frostline
from tiny import tiny_backbone


def train(folder: str, rank: int | None, port: int) -> None:
    torch.set_num_threads(1)
    backbone = tiny_backbone()
    model: nn.Module = backbone.adapt(3)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    called = model
    if rank is not None:
        where = f"tcp://127.0.0.1:{port}"
        distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
        called = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(frostline.param_groups(backbone, model), momentum=0.9)
    schedule = frostline.Unfreezing(
        optimizer, backbone, called, "gradual_unfreeze(2, lr=0.05)", epochs=6, steps_per_epoch=3
    )
    for step in range(18):
        made = torch.Generator().manual_seed(step)
        x = torch.randn(8, 3, 16, 16, generator=made)
        y = torch.randint(0, 3, (8,), generator=made)
        mine = slice(None) if rank is None else slice(4 * rank, 4 * rank + 4)
        called.train()
        optimizer.zero_grad()
        F.cross_entropy(called(x[mine]), y[mine]).backward()
        optimizer.step()
        schedule.step()
    torch.save(model.state_dict(), Path(folder) / f"{'alone' if rank is None else rank}.pt")
    if rank is not None:
        distributed.destroy_process_group()


def one_of_two(rank: int, folder: str, port: int) -> None:
    train(folder, rank, port)


if __name__ == "__main__":
    train(sys.argv[1], None, 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(one_of_two, (sys.argv[1], port), nprocs=2)
