# SPDX-License-Identifier: MIT
"""How much a reliability test does: a bounded form for `.ci/run`, the full one with CONVT1D_FULL=1."""

import os


def size(bounded, full):
    """The number of repetitions, seconds or samples of a test, in the form asked for."""
    return full if os.environ.get("CONVT1D_FULL") == "1" else bounded
