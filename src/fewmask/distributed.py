"""Collective operations over the processes of `torchrun`. In a single process every function here is the identity."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes that `torchrun` started, if it did; leave them at the end.

    A DistributedDataParallel module must be gone by then. If it is the last to hold the process group, torch frees the
    group without letting go of Python's global lock. A thread of gloo may wait for that lock, and the process never
    ends (https://github.com/pytorch/pytorch/issues/56297). `group` below is freed without the lock.
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    # Counts of cells are summed on the CPU for any device of the network, and NCCL supports GPUs alone.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    group = dist.group.WORLD
    try:
        yield
    finally:
        dist.destroy_process_group()
        del group


def spread(module: nn.Module, find_unused_parameters: bool) -> nn.Module:
    """The module with its gradients averaged over all processes. Its buffers are equal in all of them already."""
    # torch 2.13 has renamed the parameter and warns of the old name.
    parameters = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    keep: dict[str, Any] = {name: False}
    return DistributedDataParallel(module, find_unused_parameters=find_unused_parameters, **keep)


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of `values` over all processes, without a gradient."""
    if world() == 1:
        return values
    values = values.detach().clone()
    dist.all_reduce(values)
    return values


def all_gather(rows: Tensor) -> Tensor:
    """The rows (N_r, …) of all processes, in the order of ranks, without a gradient; N_r may differ."""
    if world() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    largest = int(torch.cat(counts).max())
    padded = rows.new_zeros(largest, *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])


def broadcast(values: Tensor) -> Tensor:
    """The first process's `values`, without a gradient. Every process passes values of the same shape."""
    if world() == 1:
        return values
    values = values.detach().clone()
    dist.broadcast(values, 0)
    return values


def barrier() -> None:
    if world() > 1:
        dist.barrier()


def any_process(condition: bool) -> bool:
    """Whether `condition` is true in any process."""
    return bool(all_reduce_sum(torch.tensor(int(condition))))


def broadcast_int(number: int) -> int:
    """The first process's number. The others may have counted differently."""
    return int(broadcast(torch.tensor(number)))


def call_in_first(function: Callable[[], Any]) -> Any:
    """The result of `function` in the first process; the others do not call it. Its ValueError is raised in all of
    them."""
    result: Any = None
    refused: str | None = None
    if rank() == 0:
        try:
            result = function()
        except ValueError as error:
            if world() == 1:
                raise
            refused = str(error)
    if world() > 1:
        message = [result, refused]
        dist.broadcast_object_list(message, device=torch.device("cpu"))
        result, refused = message
    if refused is not None:
        raise ValueError(refused)
    return result


@contextmanager
def enter_in_first(context: AbstractContextManager[object]) -> Iterator[None]:
    """Enter a context in the first process alone; the others wait for it. Its ValueError is raised in all of them."""
    if world() == 1:
        with context:
            yield
        return
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(context)

        call_in_first(enter)
        yield
