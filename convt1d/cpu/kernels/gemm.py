# SPDX-License-Identifier: MIT
"""gemm: the product by BLAS, tap by tap, stored as columns, then interleaved.

OpenBLAS reaches 80 to 97 % of a core's multiply-adds on tiles this small with its AVX-512 core, 35 to 65 % with its
AVX2 core (a Zen 4, 2026-11): it is the better code where our microkernels have neither instruction set.
"""

from __future__ import annotations

from dataclasses import replace

from .. import plan as parts
from ..machine import Machine
from ..plan import Plan, Refusal
from ..problem import Problem
from . import direct

name = "gemm"
consistent = False  # the last bits of BLAS may depend on the size of the product


def plan(problem: Problem, machine: Machine, forced: str = "") -> Plan | Refusal:
    tuning = machine.tuning
    if forced != name:
        least = tuning.gemm.least
        if least is None:
            return Refusal("our microkernels are faster with this instruction set")
        if problem.channels < least or problem.outputs * problem.count < least:
            return Refusal(f"fewer than {least} channels or rows are too few for BLAS")
    if problem.lacking:
        if forced == name:
            return direct.plan(problem, machine)
        return Refusal("BLAS would multiply taps that are missing as zeros, and show NaN and inf there")
    found = parts.lay_out(
        name,
        problem,
        machine,
        rows=parts.block_rows(problem, machine, tuning.tile.block_rows),
        run=parts.usual_run(problem, machine),
        unit=machine.unit(problem.size),
    )
    packing = replace(found.packing, own=(tuning.gemm.multiply_adds, found.packing.rows), calls_blas=True)
    return replace(found, packing=packing, consistent=False)
