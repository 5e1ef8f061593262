"""More than one process: what ``torchrun`` starts, and how its ranks train together.

Rank 0 runs the build; the others wait for it and join each training. Tensors that every rank
needs whole are gathered with their gradients. In a single process nothing here does anything.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist

_TOGETHER = {"train": "edgekd.distill.trainer:train", "tune": "edgekd.qat:tune"}
"""What the others may be called to."""
_broken = False
_PATIENCE = dt.timedelta(days=7)
"""The others wait while rank 0 exports, builds and measures."""


def size() -> int:
    """Processes that work together; 1 where ``torchrun`` did not start this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them; 0 is the one that writes."""
    return int(os.environ.get("RANK", "0"))


def device() -> torch.device:
    """The GPU of this process's own, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def join() -> None:
    """Meets the other processes, once; gloo on the CPU, nccl between GPUs."""
    if size() > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)


def leave() -> None:
    """Parts from them, all at once: who parts first may end what another is still sending."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


@contextlib.contextmanager
def together(name: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Rank 0 calls the others to a function that it enters itself while this is open.

    A training that fails on rank 0 fails on the others too, by themselves.
    """
    global _broken
    if size() > 1:
        join()
        _tell(("call", name, dict(arguments)))
    try:
        yield
    except BaseException:
        _broken = True
        raise


def dismiss(result: Any) -> None:
    """Rank 0 lets the others go, with what the build made; None where it failed."""
    if size() > 1 and not _broken:
        join()
        _tell(("dismiss", "", result))
        leave()


def follow() -> Any:
    """The life of every rank but 0: enters what rank 0 calls to, until it is dismissed.

    Returns:
        what rank 0 dismissed it with.

    Raises:
        EdgekdError: a training that rank 0 called to failed.
    """
    join()
    while True:
        kind, name, content = _tell(None)
        if kind == "dismiss":
            leave()
            return content
        module, attribute = _TOGETHER[name].split(":")
        getattr(import_module(module), attribute)(**content)


def gather(x: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks, in their order, with the gradient: (n, ...) to (ranks · n, ...).

    Every rank must hold as many rows. A loss that each rank computes of the gathered rows has
    the gradient of the whole batch once DistributedDataParallel has averaged over ranks.
    """
    if not dist.is_initialized():
        return x
    gathered: torch.Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return gathered


def mean(values: Mapping[str, float]) -> dict[str, float]:
    """Each value averaged over the ranks."""
    if not dist.is_initialized():
        return dict(values)
    total = torch.tensor([float(each) for each in values.values()], dtype=torch.float64)
    dist.all_reduce(total)
    return dict(zip(values, (total / dist.get_world_size()).tolist(), strict=True))


def share(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    return _tell(value) if dist.is_initialized() else value


def collect(value: Any) -> list[Any]:
    """Every rank's value of tensors and plain values, on every rank."""
    if not dist.is_initialized():
        return [value]
    buffer = io.BytesIO()
    torch.save(value, buffer)  # pickle alone, which is what is sent, does not do for tensors
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, buffer.getvalue())
    return [torch.load(io.BytesIO(each), weights_only=True) for each in found]


def _tell(value: Any) -> Any:
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


class _Gather(torch.autograd.Function):
    """``all_gather`` whose backward sums what every rank's loss says of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.n = len(x)
        parts = [torch.empty_like(x.contiguous()) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        start = dist.get_rank() * ctx.n
        return whole[start : start + ctx.n]
