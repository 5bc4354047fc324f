# SPDX-License-Identifier: MIT
"""microkernels.h for Cython; microkernels/*.inc say what each function computes, reads and writes."""

ctypedef fused real:
    float
    double

cdef extern from "microkernels.h" nogil:
    int ADD, SUBTRACT
    int PAIRS, SINGLES, TRIPLES, ONLY_TRIPLES

    ctypedef struct Sum:
        Py_ssize_t channels, taps, step, input_rows, long_rows, first, depth

    ctypedef struct OutputLines:
        const char *row
        Py_ssize_t row_stride, bytes, rows, at

    ctypedef struct Prefetch:
        Py_ssize_t next_tile, next_ldx, x_ahead, y_ahead, weights_ahead
        OutputLines y_lines
        bint x_two_channels, nontemporal

    ctypedef struct Sizes:
        int rows, vectors, bytes
        Py_ssize_t rows_ahead, weights_ahead

    ctypedef struct Microkernels:
        Sizes sizes
        void (*direct)(const void *x, Py_ssize_t ldx, const void *w, void *c, Py_ssize_t ldc, const Sum *sum,
                       Py_ssize_t rows, Py_ssize_t n, const void *start, const void *other, int add,
                       Prefetch *prefetch) noexcept nogil
        void (*fused)(const void *x, Py_ssize_t ldx, const void *w, void *y, Py_ssize_t ldy, const Sum *sum,
                      Py_ssize_t long_branches, Py_ssize_t n, const void *bias, Prefetch *prefetch,
                      Py_ssize_t outputs, int stride) noexcept nogil
        void (*fused_winograd)(const void *x, Py_ssize_t ldx, Py_ssize_t plane, const void *w, void *y, Py_ssize_t ldy,
                               const Sum *sum, Py_ssize_t n, const void *bias, const void *next,
                               const Prefetch *prefetch, Py_ssize_t outputs, int stride, bint apart) noexcept nogil
        void (*interleave)(void *y, Py_ssize_t stride, const void **src, Py_ssize_t at, Py_ssize_t phases,
                           Py_ssize_t n, const void *bias) noexcept nogil
        void (*deinterleave)(void *dst, Py_ssize_t ldd, const void *x, Py_ssize_t stride, Py_ssize_t phases,
                             Py_ssize_t n) noexcept nogil
        void (*unfold)(void *dst, Py_ssize_t ldd, const void *x, Py_ssize_t ldx, Py_ssize_t outputs,
                       Py_ssize_t stride, Py_ssize_t width, Py_ssize_t n) noexcept nogil
        void (*copy)(void *dst, Py_ssize_t ldd, const void *x, Py_ssize_t ldx, Py_ssize_t rows, Py_ssize_t n,
                     Py_ssize_t ahead) noexcept nogil
        void (*pair)(void *both, Py_ssize_t ldd, Py_ssize_t plane, const void *x, Py_ssize_t ldx, Py_ssize_t rows,
                     Py_ssize_t n, const void *apart, int kind, Py_ssize_t d) noexcept nogil
        void (*weave)(void *y, const void *even, const void *odd, Py_ssize_t d, Py_ssize_t n,
                      const void *bias) noexcept nogil
        void (*gather)(void *out, Py_ssize_t ldo, const void *w, Py_ssize_t channel, Py_ssize_t tap,
                       const Py_ssize_t *places, Py_ssize_t rows, Py_ssize_t taps, Py_ssize_t channels,
                       Py_ssize_t ahead) noexcept nogil
        void (*pair_taps)(void *out, Py_ssize_t ldo, Py_ssize_t plane, const void *taps, Py_ssize_t n,
                          Py_ssize_t rows, Py_ssize_t ahead) noexcept nogil
        void (*add_sizes)(void *sums, void *largest, const void *x, Py_ssize_t ldx, Py_ssize_t rows,
                          Py_ssize_t n) noexcept nogil
        void (*correlate)(const void **rows, Py_ssize_t stride, Py_ssize_t nrows, const void *x, Py_ssize_t ldx,
                          void *c, Py_ssize_t ldc, Py_ssize_t steps, Py_ssize_t n, Py_ssize_t ahead) noexcept nogil
        void (*dot)(const void *x, const void **rows, Py_ssize_t nrows, void *sums, Py_ssize_t lds,
                    Py_ssize_t n) noexcept nogil
        void (*activate)(int kind, const void *x, const void *add, void *y, Py_ssize_t n, double a,
                         double b) noexcept nogil

    int direct_block(int most, Py_ssize_t rows)
    int fused_block(int most, int stride, Py_ssize_t outputs, Py_ssize_t channels)
    int block_vectors(int most, int vectors, int rows)
    void end_nontemporal_stores()
