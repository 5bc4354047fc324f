# SPDX-License-Identifier: MIT
"""The compiled kernels.

``_tiles.pyx``   packs weights and runs the tile loop: load a tile of x, multiply, gather into y
``_blas.pxd``    the product by BLAS; the only file that touches it
``_simd.h``      SIMD leaves by instruction set: the direct product and the gather (bodies in ``_leaves.inc``)
``_openmp.h``    OpenMP, or its absence
"""
