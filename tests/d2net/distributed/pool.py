"""Processes that share a training: four of them, started once, in gloo groups of 1, 2 and 4."""

from __future__ import annotations

import importlib.util
import multiprocessing
import socket
import traceback
from datetime import timedelta

SIZES = (1, 2, 4)
# gloo loses a send now and then that meets a connection as its other end is killed; nothing but the timeout ends it.
TIMEOUT = timedelta(seconds=60)


def loaded(path, name, modules={}):  # noqa: B006
    """A function of a test's file, which is no module that another process could import by its name."""
    if path not in modules:
        spec = importlib.util.spec_from_file_location(f"of_{len(modules)}", path)
        modules[path] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[path])
    return getattr(modules[path], name)


def _serve(rank, port, pipe):
    """Calls what comes through the pipe with this process's `Ranks` of the asked size; None where it has no part."""
    import torch
    import torch.distributed as dist

    from d2net.distributed.ranks import LostPeer, Ranks

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=max(SIZES), timeout=TIMEOUT
    )
    groups = {n: tuple(dist.new_group(range(n), timeout=TIMEOUT) for _ in range(2)) for n in SIZES}
    while (asked := pipe.recv()) is not None:
        path, name, size, arguments = asked
        try:
            function = loaded(path, name)
            found = function(Ranks(rank, size, *groups[size]), *arguments) if rank < size else None
            pipe.send((found, None))
        except Exception as error:
            pipe.send((error, traceback.format_exc()))
            if isinstance(error, LostPeer):
                return  # as a program would: who waits for this one is told by its connections


class Pool:
    def __init__(self):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        # Forked from a server that has imported torch once and started no thread.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["d2net.api.single", "d2net.data.synth", "torch.distributed", "pytest"])
        pairs = [context.Pipe() for _ in range(max(SIZES))]
        self.pipes = [ours for ours, _ in pairs]
        self.processes = [
            context.Process(target=_serve, args=(rank, port, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pairs)
        ]
        for process in self.processes:
            process.start()

    def run(self, size, function, *arguments, errors=False):
        """function(ranks, *arguments) of each of `size` processes, by rank; with `errors` exceptions, too."""
        for pipe in self.pipes:
            pipe.send((function.__code__.co_filename, function.__name__, size, arguments))
        found = []
        for pipe in self.pipes:
            assert pipe.poll(120), "a process hangs"
            found.append(pipe.recv())
        for error, text in found[:size]:
            if isinstance(error, Exception) and not errors:
                raise AssertionError(text)
        return [value for value, _ in found[:size]]

    def close(self):
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(10)
