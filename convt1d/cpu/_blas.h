// SPDX-License-Identifier: MIT
// BLAS's products, bound by _blas.pxd when a kernel needs them: SciPy's import takes 20 ms, and most calls need no BLAS.
#ifndef CONVT1D_BLAS_H
#define CONVT1D_BLAS_H

typedef void convt1d_sgemm(char *, char *, int *, int *, int *, float *, float *, int *, float *, int *, float *,
                           float *, int *);
typedef void convt1d_dgemm(char *, char *, int *, int *, int *, double *, double *, int *, double *, int *, double *,
                           double *, int *);
static convt1d_sgemm *sgemm_bound;
static convt1d_dgemm *dgemm_bound;

static inline void bind_gemm(void *sgemm, void *dgemm)
{
    sgemm_bound = (convt1d_sgemm *)sgemm;
    dgemm_bound = (convt1d_dgemm *)dgemm;
}

#endif
