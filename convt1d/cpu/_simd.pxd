# SPDX-License-Identifier: MIT
"""The SIMD leaves of _simd.h by element type; _leaves.inc says what each computes."""

ctypedef fused real:
    float
    double

cdef extern from "_simd.h" nogil:
    ctypedef struct Sum:
        Py_ssize_t channels, taps, step, slots, full, first, depth

    ctypedef struct Lines:
        const char *stretch
        Py_ssize_t apart, bytes, stretches, at

    ctypedef struct Ahead:
        Py_ssize_t distance, ldx, near, later
        Lines y
        bint streams, soon

    ctypedef void (*direct_float)(const float *, Py_ssize_t, const float *, float *, Py_ssize_t, const Sum *,
                                  Py_ssize_t, Py_ssize_t, const float *, int, Ahead *)
    ctypedef void (*direct_double)(const double *, Py_ssize_t, const double *, double *, Py_ssize_t, const Sum *,
                                   Py_ssize_t, Py_ssize_t, const double *, int, Ahead *)
    ctypedef void (*correlate_float)(const float **, Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t, float *,
                                     Py_ssize_t, Py_ssize_t, Py_ssize_t)
    ctypedef void (*dot_float)(const float *, const float **, Py_ssize_t, float *, Py_ssize_t, Py_ssize_t)
    ctypedef void (*fused_float)(const float *, Py_ssize_t, const float *, float *, Py_ssize_t, const Sum *,
                                 Py_ssize_t, Py_ssize_t, const float *, Ahead *, Py_ssize_t, int)
    ctypedef void (*correlate_double)(const double **, Py_ssize_t, Py_ssize_t, const double *, Py_ssize_t, double *,
                                      Py_ssize_t, Py_ssize_t, Py_ssize_t)
    ctypedef void (*dot_double)(const double *, const double **, Py_ssize_t, double *, Py_ssize_t, Py_ssize_t)
    ctypedef void (*fused_double)(const double *, Py_ssize_t, const double *, double *, Py_ssize_t, const Sum *,
                                  Py_ssize_t, Py_ssize_t, const double *, Ahead *, Py_ssize_t, int)
    ctypedef void (*winograd_float)(const float *, Py_ssize_t, Py_ssize_t, const float *, float *, Py_ssize_t,
                                    const Sum *, Py_ssize_t, const float *, const float *, Py_ssize_t, int,
                                    Py_ssize_t, int, int)
    ctypedef void (*winograd_double)(const double *, Py_ssize_t, Py_ssize_t, const double *, double *, Py_ssize_t,
                                     const Sum *, Py_ssize_t, const double *, const double *, Py_ssize_t, int,
                                     Py_ssize_t, int, int)
    ctypedef void (*gather_float)(float *, Py_ssize_t, const float **, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                                  const float *)
    ctypedef void (*gather_double)(double *, Py_ssize_t, const double **, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                                   const double *)
    ctypedef void (*copy_float)(float *, Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    ctypedef int (*pair_float)(float *, Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                               int, int)
    ctypedef void (*split_float)(float *, Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    ctypedef void (*unfold_float)(float *, Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                                  Py_ssize_t)
    ctypedef void (*copy_double)(double *, Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    ctypedef int (*pair_double)(double *, Py_ssize_t, Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                                int, int)
    ctypedef void (*split_double)(double *, Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    ctypedef void (*unfold_double)(double *, Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                                   Py_ssize_t)
    direct_float direct_leaf_float(int)
    direct_double direct_leaf_double(int)
    correlate_float correlate_leaf_float(int)
    dot_float dot_leaf_float(int)
    fused_float fused_leaf_float(int)
    correlate_double correlate_leaf_double(int)
    dot_double dot_leaf_double(int)
    fused_double fused_leaf_double(int)
    winograd_float winograd_leaf_float()
    winograd_double winograd_leaf_double()
    gather_float gather_leaf_float(int)
    gather_double gather_leaf_double(int)
    copy_float copy_leaf_float(int)
    pair_float pair_leaf_float(int)
    copy_double copy_leaf_double(int)
    pair_double pair_leaf_double(int)
    split_float split_leaf_float(int)
    split_double split_leaf_double(int)
    unfold_float unfold_leaf_float(int)
    unfold_double unfold_leaf_double(int)
    int simd_level()
    int simd_rows(int)
    int simd_vectors(int, int)
    int simd_bytes(int)
    bint simd_whole(int)
    void end_streams()
    int direct_block(int, Py_ssize_t)
    int fused_block(int, int, Py_ssize_t, Py_ssize_t)
    const int AHEAD
    const int Y_AHEAD


cdef inline void direct_leaf(int level, const real *x, Py_ssize_t ldx, const real *w, real *c, Py_ssize_t ldc,
                             const Sum *sum, Py_ssize_t rows, Py_ssize_t n, const real *start, bint add,
                             Ahead *ahead) noexcept nogil:
    if real is float:
        direct_leaf_float(level)(x, ldx, w, c, ldc, sum, rows, n, start, add, ahead)
    else:
        direct_leaf_double(level)(x, ldx, w, c, ldc, sum, rows, n, start, add, ahead)


cdef inline void fused_leaf(int level, const real *x, Py_ssize_t ldx, const real *w, real *y, Py_ssize_t ldy,
                            const Sum *sum, Py_ssize_t full, Py_ssize_t n, const real *bias, Ahead *ahead,
                            Py_ssize_t outputs, int stride) noexcept nogil:
    if real is float:
        fused_leaf_float(level)(x, ldx, w, y, ldy, sum, full, n, bias, ahead, outputs, stride)
    else:
        fused_leaf_double(level)(x, ldx, w, y, ldy, sum, full, n, bias, ahead, outputs, stride)


cdef inline void winograd_leaf(const real *x, Py_ssize_t ldx, Py_ssize_t apart, const real *w, real *y, Py_ssize_t ldy,
                               const Sum *sum, Py_ssize_t n, const real *bias, const real *next, Py_ssize_t ldn,
                               bint later, Py_ssize_t outputs, int stride, bint plain) noexcept nogil:
    if real is float:
        winograd_leaf_float()(x, ldx, apart, w, y, ldy, sum, n, bias, next, ldn, later, outputs, stride, plain)
    else:
        winograd_leaf_double()(x, ldx, apart, w, y, ldy, sum, n, bias, next, ldn, later, outputs, stride, plain)


cdef inline void correlate_leaf(int level, const real **rows, Py_ssize_t stride, Py_ssize_t nrows, const real *x,
                                Py_ssize_t ldx, real *c, Py_ssize_t ldc, Py_ssize_t steps,
                                Py_ssize_t n) noexcept nogil:
    if real is float:
        correlate_leaf_float(level)(rows, stride, nrows, x, ldx, c, ldc, steps, n)
    else:
        correlate_leaf_double(level)(rows, stride, nrows, x, ldx, c, ldc, steps, n)


cdef inline void dot_leaf(int level, const real *x, const real **rows, Py_ssize_t nrows, real *sums, Py_ssize_t lds,
                          Py_ssize_t n) noexcept nogil:
    if real is float:
        dot_leaf_float(level)(x, rows, nrows, sums, lds, n)
    else:
        dot_leaf_double(level)(x, rows, nrows, sums, lds, n)


cdef inline void gather_leaf(int level, real *y, Py_ssize_t stride, const real **sources, Py_ssize_t at,
                             Py_ssize_t phases, Py_ssize_t n, const real *bias) noexcept nogil:
    if real is float:
        gather_leaf_float(level)(y, stride, sources, at, phases, n, bias)
    else:
        gather_leaf_double(level)(y, stride, sources, at, phases, n, bias)


cdef inline void copy_leaf(int level, real *dst, Py_ssize_t ldd, const real *x, Py_ssize_t ldx, Py_ssize_t rows,
                           Py_ssize_t n) noexcept nogil:
    if real is float:
        copy_leaf_float(level)(dst, ldd, x, ldx, rows, n)
    else:
        copy_leaf_double(level)(dst, ldd, x, ldx, rows, n)


cdef inline bint pair_leaf(int level, real *both, Py_ssize_t ldd, Py_ssize_t apart, const real *x, Py_ssize_t ldx,
                           Py_ssize_t rows, Py_ssize_t n, bint plain, bint singles) noexcept nogil:
    if real is float:
        return pair_leaf_float(level)(both, ldd, apart, x, ldx, rows, n, plain, singles)
    else:
        return pair_leaf_double(level)(both, ldd, apart, x, ldx, rows, n, plain, singles)


cdef inline void split_leaf(int level, real *dst, Py_ssize_t ldd, const real *x, Py_ssize_t stride,
                            Py_ssize_t phases, Py_ssize_t n) noexcept nogil:
    if real is float:
        split_leaf_float(level)(dst, ldd, x, stride, phases, n)
    else:
        split_leaf_double(level)(dst, ldd, x, stride, phases, n)


cdef inline void unfold_leaf(int level, real *dst, Py_ssize_t ldd, const real *x, Py_ssize_t ldx, Py_ssize_t outputs,
                             Py_ssize_t stride, Py_ssize_t width, Py_ssize_t n) noexcept nogil:
    if real is float:
        unfold_leaf_float(level)(dst, ldd, x, ldx, outputs, stride, width, n)
    else:
        unfold_leaf_double(level)(dst, ldd, x, ldx, outputs, stride, width, n)
