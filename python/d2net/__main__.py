"""``python -m d2net``."""

from d2net.cli import main

main()
