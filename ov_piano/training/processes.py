"""Distributed training in processes started by ``torchrun``: one GPU each, or sharing the CPU.

Each process computes its share of every batch. Gradients, batch-norm statistics and reported losses are those of
the whole batch, so the number of processes only affects random draws: each process draws dropout and augmentation
for its own share, and EDGE_LOSS_WEIGHT takes every second chunk of a share.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from ov_piano.errors import InputError
from ov_piano.machine.device import select_device


def _number(variable: str, default: str) -> int:
    text = os.environ.get(variable, default)
    if not text.isdecimal():
        raise InputError(f"{variable}={text} in the environment: expected a number, as torchrun sets it")
    return int(text)


@dataclass(frozen=True)
class Processes:
    """The process group, as a context manager; with ``world`` 1 there is none and all methods are no-ops."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls, device_name: str, tf32: bool = True) -> "Processes":
        """Read the variables that torchrun sets: ``RANK``, ``WORLD_SIZE`` and, to select a GPU, ``LOCAL_RANK``.

        :raises InputError: an unusable device, one GPU for all processes, or variables that torchrun would not set
        """
        rank, world = _number("RANK", "0"), _number("WORLD_SIZE", "1")
        if not 0 <= rank < world:
            raise InputError(f"RANK={rank} and WORLD_SIZE={world} in the environment: expected a RANK below WORLD_SIZE")
        if world > 1 and device_name.startswith("cuda:"):
            raise InputError(f"DEVICE={device_name}: with several processes expected DEVICE=cuda, one GPU for each")
        if world > 1 and device_name == "cuda":
            device_name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        return cls(select_device(device_name, tf32), rank, world)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def __enter__(self) -> "Processes":
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if self.world > 1 and missing:
            raise InputError(f"WORLD_SIZE={self.world} without {missing[0]} in the environment: start with torchrun")
        if self.world > 1:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        return self

    def __exit__(self, *_: object) -> None:
        if self.world > 1:
            dist.destroy_process_group()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """A block that the first process runs alone, before the others; it may take up to a day."""
        if self.world == 1:
            yield
            return
        waiting = dist.new_group(backend="gloo", timeout=timedelta(days=1))  # nccl gives up after ten minutes
        if not self.is_first:
            dist.barrier(waiting)
        try:
            yield
        finally:
            if self.is_first:
                dist.barrier(waiting)

    def synchronise_norms(self, model: nn.Module) -> nn.Module:
        """Make the batch norms of ``model`` use the statistics of all processes; parameters and names stay the same."""
        if self.world == 1:
            return model
        if self.device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)
        for module in model.modules():
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, CpuSyncBatchNorm.like(child))
        return model

    def parallel(self, module: nn.Module) -> nn.Module:
        """Wrap ``module`` so that gradients are averaged over the processes."""
        if self.world == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of ``values`` over the processes."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process."""
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """This process's part of ``items``."""
        return items[self.rank :: self.world]

    def collect(self, parts: Sequence[Any]) -> list[Any]:
        """Gather each process's results for its `share` into the results for all items, in order."""
        if self.world == 1:
            return list(parts)
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, list(parts))
        whole: list[Any] = [None] * sum(map(len, gathered))
        for rank, part in enumerate(gathered):
            whole[rank :: self.world] = part
        return whole


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """`nn.SyncBatchNorm`, which supports GPUs only, for the CPU."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> "CpuSyncBatchNorm":
        """A synchronised norm that shares the parameters and buffers of ``norm``."""
        new = cls(norm.num_features, norm.eps, norm.momentum)
        new.weight, new.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(new, name, buffer)
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes (b, c, f, t) in and out; b is the same in all processes."""
        if not self.training:
            return super().forward(x)
        world = dist.get_world_size()
        mean = all_reduce(x.mean((0, 2, 3), keepdim=True)) / world  # (1, c, 1, 1)
        centred = x - mean
        variance = all_reduce(centred.square().mean((0, 2, 3), keepdim=True)) / world  # (1, c, 1, 1)
        self._update_statistics(mean.detach().flatten(), variance.detach().flatten(), world * x[:, 0].numel())
        scale = self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias[:, None, None], centred, scale)

    def _update_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.num_batches_tracked += 1
        newest = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, newest)
        self.running_var.lerp_(variance * count / (count - 1), newest)
