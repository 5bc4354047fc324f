# SPDX-License-Identifier: MIT
"""Reading a signal: runs of the extended signal, or of its residue classes, into rows of a tile.

    ... -hl ..... -1 | 0 ........ length-1 | length ... length+hr-1 ...     padding.halo_sources;
    ...  x[before[]] |         x           |        x[after[]]      ...     0 if hl, hr are 0
"""

from libc.stdint cimport int64_t

from convt1d.cpu._microkernels cimport Microkernels, real

cdef struct Signal:
    const void *x                   # strides in real numbers; sp: from the real to the imaginary part
    Py_ssize_t sn, sc, sp, sl
    Py_ssize_t length
    const int64_t *before
    const int64_t *after
    Py_ssize_t hl, hr


# The rows that one input channel becomes, see problem.InputRows: row (o, branch) of a strided layer's input holds
# x[o, stride*j + offsets[branch]] at column j.
cdef struct InputRows:
    Py_ssize_t stride, count, long
    const int64_t *offsets          # of every parts-th row, in samples
    bint consecutive                # offsets that rise by one


cdef inline Py_ssize_t floor_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a // b if a >= 0 else -((b - 1 - a) // b)


cdef inline real sample_at(const Signal *signal, const real *row, Py_ssize_t i) noexcept nogil:
    """The extended signal anywhere."""
    if i < 0:
        return row[signal.before[signal.hl - 1 - (-1 - i) % signal.hl] * signal.sl] if signal.hl > 0 else 0
    if i < signal.length:
        return row[i * signal.sl]
    return row[signal.after[(i - signal.length) % signal.hr] * signal.sl] if signal.hr > 0 else 0


cdef inline void load_run(const Signal *signal, const Microkernels *microkernels, const real *x, Py_ssize_t parts,
                          Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t i, Py_ssize_t n, real *dst,
                          Py_ssize_t ldd) noexcept nogil:
    """Samples i .. i+n-1, real channels c0 .. c1-1."""
    cdef Py_ssize_t c, j, sl = signal.sl
    cdef bint side_by_side = signal.sc == parts and sl >= c1 - c0 and sl > 1      # channels last: a transpose
    cdef bint rows = sl == parts == 1
    # the part inside the signal: [lo, hi) of the run
    cdef Py_ssize_t lo = min(max(-i, 0), n)
    cdef Py_ssize_t hi = max(min(signal.length - i, n), lo)
    cdef const real *row
    if side_by_side and hi > lo:
        microkernels.deinterleave(dst + lo, ldd, x + (i + lo) * sl + c0, sl, c1 - c0, hi - lo)
    if rows:
        microkernels.copy(dst + lo, ldd, x + c0 * signal.sc + i + lo, signal.sc, c1 - c0, hi - lo,
                          microkernels.sizes.rows_ahead)
    for c in range(c0, c1):
        row = x + (c // parts) * signal.sc + (c % parts) * signal.sp if parts > 1 else x + c * signal.sc
        for j in range(lo):
            dst[j] = sample_at[real](signal, row, i + j)
        if not rows and not side_by_side:
            for j in range(lo, hi):
                dst[j] = row[(i + j) * sl]
        for j in range(hi, n):
            dst[j] = sample_at[real](signal, row, i + j)
        dst += ldd


cdef inline void load_branches(const Signal *signal, const Microkernels *microkernels, const InputRows *rows,
                               const real *x, Py_ssize_t parts, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t i,
                               Py_ssize_t n, real *dst, Py_ssize_t ldd) noexcept nogil:
    """Columns i .. i+n-1 of the real rows c0 .. c1-1, counted (channel, branch, part).

        position   stride*j + offsets[0]   + 1   + 2 ...   stride*(j+1) + offsets[0] ...
        row           branch 0              1     2                branch 0                  (consecutive offsets)
    """
    cdef Py_ssize_t c = c0, r, r0, r1, j, lo = i, hi = i, offset, last, S = rows.stride, end = i + n
    cdef const real *channel
    cdef const real *row
    cdef bint together
    while c < c1:
        r0 = c % rows.count
        r1 = min(rows.count, r0 + c1 - c)
        channel = x + (c // rows.count) * signal.sc
        together = rows.consecutive and r1 - r0 == rows.count and signal.sl == parts
        if together:
            # columns all of whose branches lie inside the signal
            offset = rows.offsets[0]
            last = rows.offsets[rows.count // parts - 1]
            lo = min(max(-floor_div(offset, S), i), end)
            hi = max(min(floor_div(signal.length - 1 - last, S) + 1, end), lo)
            if hi > lo:
                microkernels.deinterleave(dst + lo - i, ldd, channel + (lo * S + offset) * parts, S * parts,
                                          rows.count, hi - lo)
        for r in range(r0, r1):
            row = channel + (r % parts) * signal.sp
            offset = rows.offsets[r // parts]
            if not together:
                lo = min(max(-floor_div(offset, S), i), end)
                hi = max(min(floor_div(signal.length - 1 - offset, S) + 1, end), lo)
                for j in range(lo, hi):
                    dst[j - i] = row[(j * S + offset) * signal.sl]
            for j in range(i, lo):
                dst[j - i] = sample_at[real](signal, row, j * S + offset)
            for j in range(hi, end):
                dst[j - i] = sample_at[real](signal, row, j * S + offset)
            dst += ldd
        c += r1 - r0
