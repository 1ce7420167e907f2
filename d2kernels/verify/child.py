"""The process in which kernels are checked: a bad one can end it, poison its GPU context or hang, and nothing else.

It writes one line of JSON for each thing that happens, so that the one that waits knows which kernel did it:
{"event": "ready" | "no device" | "begin" | "end", "kernel", "passed", "error", "detail"}; "passed" is null where the
kernel could not be checked, for want of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import traceback
from typing import Any


def _leave_with_parent() -> None:
    """Ends this process when whoever waits for it is gone: its end of our standard input closes."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {first}" if type(error).__name__ != "Wrong" else f"wrong result: {first}"


def main(arguments: list[str] | None = None) -> int:
    """Checks the kernels in turn; returns 3 where the device is not to be had, 1 after an exception, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kernels", nargs="+", help="<op>/<backend>")
    parser.add_argument("--device", required=True)
    parser.add_argument("--events", required=True, help="file that gets the lines")
    parser.add_argument("--sizes", default="small,odd,target")
    given = parser.parse_args(arguments)
    _leave_with_parent()

    def say(event: str, **more: Any) -> None:
        with open(given.events, "a") as file:
            file.write(json.dumps({"event": event, **more}) + "\n")

    try:
        import torch

        device = torch.device(given.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.ones(1, device=device).sum().item()
    except Exception as error:
        traceback.print_exc()
        say("no device", error=_one_line(error))
        return 3
    from d2kernels.verify import check

    say("ready")
    for kernel in given.kernels:
        op, backend = kernel.split("/")
        say("begin", kernel=kernel)
        print(f"{kernel}:", file=sys.stderr, flush=True)
        try:
            done = check.check(op, backend, device, given.sizes.split(","))
        except (torch.OutOfMemoryError, MemoryError) as error:
            traceback.print_exc()
            say("end", kernel=kernel, passed=None, error=_one_line(error))
        except check.Wrong as error:
            print(error, file=sys.stderr, flush=True)
            say("end", kernel=kernel, passed=False, error=_one_line(error))
        except Exception as error:
            traceback.print_exc()
            say("end", kernel=kernel, passed=False, error=_one_line(error))
            return 1  # a CUDA error stays: the next kernel needs a fresh context
        else:
            print(f"{done} cases", file=sys.stderr, flush=True)
            say("end", kernel=kernel, passed=True, error="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
