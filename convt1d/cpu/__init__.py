# SPDX-License-Identifier: MIT
"""The compiled kernels.

``_tiles.pyx``    packs weights and runs the tile loop: load a tile of x, multiply, gather into y
``_leaves.inc``   SIMD leaves: the direct product, the gather, and the fused kernel that does both
``_simd.h``       builds the leaves for each instruction set and element type, and chooses at run time
``_blas.pxd``     the product by BLAS; the only file that touches it
``_openmp.h``     OpenMP, or its absence
"""
