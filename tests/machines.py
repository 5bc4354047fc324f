# SPDX-License-Identifier: MIT
"""Machines to plan for, whatever this one is: one for each row of tuned numbers."""

from convt1d.cpu import tuning
from convt1d.cpu.machine import Machine

BASELINE = Machine("baseline", 4, 16, (4, 3, 3, 2), tuning.BASELINE)
AVX2 = Machine("avx2", 4, 32, (6, 5, 4, 3), tuning.AVX2)
ZEN4 = Machine("avx512", 8, 64, (8, 8, 8, 5, 5, 4, 3, 3), tuning.ZEN4)
INTEL = Machine("avx512", 8, 64, (8, 8, 8, 5, 5, 4, 3, 3), tuning.INTEL_AVX512)
MACHINES = [BASELINE, AVX2, ZEN4, INTEL]
