# SPDX-License-Identifier: MIT
"""The CPU's kernels: plans in Python, tiles in Cython, microkernels in C.

::

    problem.py       a layer as kernels see it: one group, in real numbers
    machine.py       instruction set, register blocks, tuned numbers
    tuning.py        the numbers: a row for each class of processors
    plan.py          what a kernel decides, and how one call is cut into tiles
    kernels/         a room for each kernel: <name>.py what it takes and decides, <name>.pxd how it packs, loads, runs
    gradient.py      the plan of the weights' gradient

    _tiles.pyx       the tile loop; it knows no kernel           _tile.pxd      what a kernel sees of layer and call
    _rows.pxd        loading a tile of x                         _columns.pxd   columns, and their interleave into y
    _load.pxd        reading a signal, continued or split        _pack.pxd      which weight a row of columns meets
    _finish.pxd      the epilogue: an activation and a residual
    _correlate.pyx   the weights' gradient
    _blas.pxd        the only file that calls BLAS      blas.py   which SciPy loads, when the first kernel needs it
    _runtime.pyx     instruction set, threads, workspaces
    libgomp_team.c   the threads of parallel regions, another's or our own; forks     _openmp.h, _shares.h

    microkernels.h       what callers see of the microkernels: arguments, register blocks, the table (_microkernels.pxd)
    microkernels/*.inc   the microkernels; build.inc makes those of one instruction set
    instruction_sets.h   a block for each instruction set, and detection

Glossary
--------
accumulator         a register that holds a sum while it grows
alignment           input steps of a column: 1, or 2 where samples are taken in pairs
block               a *weight block* is some outputs with all their branches, or one output with some; a *register
                    block* is the rows x vectors of accumulators of one microkernel call
branch              polyphase branch: the taps whose products land in one residue class of the output (geometry.py draws
                    it). *Long* branches have `taps` taps, the others one less
column              what one input step adds to every branch of a block; a tile's columns are a matrix, a row a branch
consistent          a plan whose bits do not depend on the batch and on how a signal is cut into calls
edge buffer         where a fused kernel stores columns of which only a part belongs to the output
epilogue            what is computed on y while it is in cache: an activation, and a residual that is added
entry               a branch and an input step of a column: where that row of columns belongs in the output
form                what `load` says of a tile: whether it holds samples that a kernel treats apart
history             columns before a tile's first whose inputs its taps reach
interleave          col2im: columns into output samples, the branches of a step side by side
leading dimension   numbers from one row of a matrix to the next (ldx, ldc, ldy)
microkernel         a function for one instruction set and type that computes one register block, or a row
nontemporal         stores past the caches
piece               channels and taps of x that the workspace holds at a time
pivot               the sample of a pair that both columns share, x[2j]
plane               one of the rows of the tile that a row of x becomes: 1, or 3 to 4 for Winograd's products
tile                the columns that a thread computes at a time
work item           a tile of one sample and group, for some of the weight blocks
set of columns      those of one pair of samples in each residue class of a dilated layer, which stand side by side
workspace           2 MiB of a thread: the tile of x, its columns, and a pointer and a bias for each row
"""
