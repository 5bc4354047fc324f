# SPDX-License-Identifier: MIT
"""The only file that touches BLAS: one product, for float and double, without the GIL."""

from scipy.linalg.cython_blas cimport dgemm, sgemm

from convt1d.cpu._microkernels cimport real


cdef inline void gemm_nt(int m, int n, int k, const real *a, int lda, const real *b, int ldb,
                         bint add, real *c, int ldc) noexcept nogil:
    """Column-major ``c[m, n] = a[m, k] @ b[n, k].T``, added to c where `add`.

    Sizes fit a C int because the callers' tiles do.
    """
    cdef real one = 1, beta = add
    # BLAS declares its inputs without const and only reads them.
    if real is float:
        sgemm(b"n", b"t", &m, &n, &k, &one, <real *>a, &lda, <real *>b, &ldb, &beta, c, &ldc)
    else:
        dgemm(b"n", b"t", &m, &n, &k, &one, <real *>a, &lda, <real *>b, &ldb, &beta, c, &ldc)
