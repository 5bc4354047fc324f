# SPDX-License-Identifier: MIT
"""The only file that touches BLAS: one product, for float and double, without the GIL."""

from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer

from convt1d.cpu._microkernels cimport real

cdef extern from "_blas.h" nogil:
    void bind_gemm(void *sgemm, void *dgemm)
    void sgemm_bound(char *, char *, int *, int *, int *, float *, float *, int *, float *, int *, float *, float *,
                     int *)
    void dgemm_bound(char *, char *, int *, int *, int *, double *, double *, int *, double *, int *, double *,
                     double *, int *)


cdef inline int bind_blas() except -1:
    """Bind the products to SciPy's; before the first call of `gemm_nt`."""
    from convt1d.cpu.blas import check_signature, functions

    cdef void *found[2]
    capsules = functions()
    for i, name in enumerate(("sgemm", "dgemm")):
        signature = PyCapsule_GetName(capsules[name])
        check_signature(signature)
        found[i] = PyCapsule_GetPointer(capsules[name], signature)
    bind_gemm(found[0], found[1])
    return 0


cdef inline void gemm_nt(int m, int n, int k, const real *a, int lda, const real *b, int ldb,
                         bint add, real *c, int ldc) noexcept nogil:
    """Column-major ``c[m, n] = a[m, k] @ b[n, k].T``, added to c where `add`.

    Sizes fit a C int because the callers' tiles do.
    """
    cdef real one = 1, beta = add
    # BLAS declares its inputs without const and only reads them.
    if real is float:
        sgemm_bound(b"n", b"t", &m, &n, &k, &one, <real *>a, &lda, <real *>b, &ldb, &beta, c, &ldc)
    else:
        dgemm_bound(b"n", b"t", &m, &n, &k, &one, <real *>a, &lda, <real *>b, &ldb, &beta, c, &ldc)
