"""``python -m d2kernels``."""

import sys

from d2kernels.diagnostics import main

sys.exit(main())
