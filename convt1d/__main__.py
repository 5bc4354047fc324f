# SPDX-License-Identifier: MIT
"""``python -m convt1d`` is the console script ``convt1d``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
