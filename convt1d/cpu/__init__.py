# SPDX-License-Identifier: MIT
"""The compiled kernels.

``_tiles.pyx``      packs weights and runs the tile loop: load a tile of x, multiply, gather into y
``_correlate.pyx``  the weights' gradient
``_runtime.pyx``    what calls share: SIMD level, OpenMP and forks, the threads' workspaces
``_load.pxd``       reading a signal into rows of a tile: continued by its padding mode, split into phases
``_leaves.inc``     SIMD leaves: the direct product, the gather, the fused kernel that does both, and copies
``_simd.h``         builds the leaves for each instruction set and element type, and chooses at run time; ``_simd.pxd``
``_blas.pxd``       the product by BLAS; the only file that touches it
``_openmp.h``       OpenMP, or its absence; ``_team.h``: starting its threads, and forks
"""
