# SPDX-License-Identifier: MIT
"""direct: sums over all channels and taps in registers, stored as columns, then interleaved.

It takes every problem. Its microkernel reaches 97 to 100 % of the multiply-adds that a core can do with AVX2 or
AVX-512 (a Zen 4, 2026-11).
"""

from __future__ import annotations

import numpy as np

from .. import plan as parts
from ..machine import Machine
from ..plan import Plan
from ..problem import Problem

name = "direct"
consistent = True


def plan(problem: Problem, machine: Machine, forced: str = "") -> Plan:
    tuning = machine.tuning
    piece, run = problem.channels, parts.usual_run(problem, machine)
    if parts.is_narrow(problem, machine):
        # Memory binds. More channels at a time pay where there is more to multiply, since all sums are kept and taken
        # up again in between; two pieces at least, or there would be nothing to prefetch.
        load = tuning.load
        most = min(load.narrow_most, max(8, problem.channels // 2))
        piece = int(np.clip(load.narrow_per_use * (problem.uses or 0), 8, most))
        run = load.narrow_bytes // problem.size
    return parts.lay_out(
        name,
        problem,
        machine,
        # few rows suffice: their columns stay in L1 until they are interleaved
        rows=parts.block_rows(problem, machine, tuning.tile.direct_rows),
        run=run,
        unit=machine.unit(problem.size),
        piece=piece,
        in_place=parts.in_place(problem, machine),
    )
