"""``python -m d2kernels``: the doctor; ``python -m d2kernels verify``: checks the GPU kernels."""

import argparse
import sys

from d2kernels._pipe import readers_may_leave


def main() -> int:
    """The doctor's or the check's exit code."""
    if sys.argv[1:2] == ["verify"]:
        from d2kernels.verify.command import main as verify

        return verify(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m d2kernels", description="Says what is installed and what runs.")
    parser.add_argument("command", nargs="?", choices=["verify"], help="check the GPU kernels (verify --help)")
    parser.parse_args()
    from d2kernels.diagnostics import main as doctor

    return doctor()


with readers_may_leave():
    code = main()
sys.exit(code)
