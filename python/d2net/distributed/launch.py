"""Joining the other processes of a command that torchrun, or what sets the same variables, has started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from d2net.distributed.ranks import ALONE, Ranks
from d2net.distributed.voice import Voice

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
JOIN = timedelta(minutes=5)  # until all have joined: imports from a busy network drive take a while
WAIT = timedelta(minutes=30)  # for rank 0, which alone writes, scores and reads whole batches
_joined: Ranks | None = None


def processes() -> int:
    """How many processes were started together, 1 without a launcher."""
    text = os.environ.get("WORLD_SIZE", "1") if "RANK" in os.environ else "1"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"WORLD_SIZE must be a number of processes, got {text!r}; start with torchrun")
    return int(text)


def rank() -> int:
    """This process's number among them, from 0."""
    text = os.environ["RANK"] if processes() > 1 else "0"
    if not text.isdecimal() or int(text) >= processes():
        raise ValueError(f"RANK must be below WORLD_SIZE = {processes()}, got {text!r}; start with torchrun")
    return int(text)


def refuse(what: str, instead: str) -> None:
    """Raises ValueError where several processes were started for what one does."""
    if processes() > 1:
        error = ValueError(f"{what} is done by one process, and {processes()} were started; {instead}")
        error.voice = Voice(error, rank())  # type: ignore[attr-defined]
        raise error


def local_device(name: str) -> str:
    """The device of this process: of GPUs, the one of its number on its machine.

    Raises:
        ValueError: one GPU for several processes, or fewer GPUs than processes on the machine.
    """
    here, own = int(os.environ.get("LOCAL_WORLD_SIZE", processes())), int(os.environ.get("LOCAL_RANK", rank()))
    if processes() == 1 or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return name
    if name not in ("auto", "cuda"):
        if here > 1:
            raise ValueError(f"device: {name} cannot serve {here} processes; give cuda, of which each takes its own")
        return name
    if (gpus := torch.cuda.device_count()) < here:
        raise ValueError(f"device: {here} processes on this machine have {gpus} GPUs; start as many, or give cpu")
    return f"cuda:{own}"


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """This process's `Ranks`, left when the context ends; those of an outer context where there is one.

    Args:
        device: as `pick_device` takes it.

    Raises:
        ValueError: variables of the launcher that are missing or wrong, or that the others do not join.
    """
    global _joined
    if _joined is not None or processes() == 1:
        yield _joined or ALONE
        return
    own, size = rank(), processes()
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        raise ValueError(f"WORLD_SIZE is {size}, but {missing[0]} is not set; start with torchrun")
    where = local_device(device)
    gpu = where.startswith("cuda") and torch.cuda.is_available()  # where there is none, `pick_device` says so
    if gpu:
        torch.cuda.set_device(where)
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=JOIN))
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", store=store, rank=own, world_size=size)
        control = dist.new_group(backend="gloo", timeout=WAIT)
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"process {own} of {size} could not join the others within {JOIN}: {text}") from error
    _joined = Ranks(own, size, dist.group.WORLD, control)
    whole = not gpu  # NCCL waits for the others, which may be gone after an error
    try:
        yield _joined
        whole = True
    except KeyboardInterrupt:  # all have stopped at the same iteration
        whole = True
        raise
    except Exception as error:
        error.voice = Voice(error, own, store)  # type: ignore[attr-defined]
        raise
    finally:
        _joined = None
        if whole:
            dist.destroy_process_group()
