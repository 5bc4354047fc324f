# SPDX-License-Identifier: MIT
# cython: language_level=3, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The weights' gradient: x correlated with the output's gradient g, summed over time and batch.

    grad[c, o, k] = sum over n, i of  x[n, c, i] * g[n, o, stride*i + dilation*k - left]

Time steps i are cut into runs: of one sample, all inside x and g if possible. Of one side, a run makes a small
matrix with a row of vectors for each time step; the other side's numbers are read where they lie:

    along x       vectors  [time][c]          transposed from x         times  g[o, stride*i + dilation*k - left]
    along g       vectors  [time][(o, k)]     unfolded from g           times  x[c, i]
    along time    vectors  [(o, phase)][time] g split into its phases   times  x[c], number by number

"rows" are the numbers read in place, "columns" those in vectors (along time: every (c, o, k) is a row, and the lanes of
a vector are the columns, added up at the end). A block of rows x columns stays in the workspace until all runs have
been added to it. Blocks are independent, and each sum is made in the same order whatever the block's
size: the same bits for any number of threads. Complex numbers are two rows and two columns (re, im), combined
at the end: conj(x) * g = (re re + im im) + (re im - im re) i.
"""

from cpython.buffer cimport (
    PyBUF_STRIDED_RO, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.string cimport memset

from convt1d.cpu._load cimport InputRows, Signal, floor_div, load_branches, load_run
from convt1d.cpu._microkernels cimport Microkernels, real
from convt1d.cpu._runtime cimport (
    MOST_THREADS, RegionTimer, Shares, add_items, begin_region, finish_region, give_workspace, join_team,
    microkernels_for, next_items, share_out, take_workspace, team,
)

from convt1d.arrays import leading_dimension

join_team()

cdef enum:
    UNFOLD_SIZE = 4096     # numbers unfolded at a time: 16 or 32 KiB, an L1
    HALO_STEPS = 16        # time steps outside x that are copied at a time
    FEWEST_ROWS = 16       # of a block that is made smaller for more threads

cdef enum Along:
    ALONG_X
    ALONG_G
    ALONG_TIME

# Sizes of a group.
cdef struct Size:
    Py_ssize_t parts, batch, outputs, groups, kernel_size
    Py_ssize_t inputs, pairs            # real (channel), (output, tap)

cdef struct Taps:
    Py_ssize_t stride, dilation, left
    Py_ssize_t period, step             # of the taps of one branch
    Py_ssize_t before, after            # time steps outside x, of the padding mode

# How the gradient is cut, see gradient.GradientPlan; and leading dimensions.
cdef struct Cut:
    Py_ssize_t tile, rows, columns, row_blocks, column_blocks
    Py_ssize_t ldc, ldg, ldroom, ldzeros

cdef struct Job:
    const Microkernels *microkernels
    Signal x, g
    InputRows branches          # of g, along time
    Along along
    Size size
    Taps taps
    Cut cut
    void *out

# One block of the gradient, and the workspace it is made in.
cdef struct Block:
    Py_ssize_t c0, channels             # real input channels
    Py_ssize_t j0, pairs                # real (output, tap) pairs
    Py_ssize_t nrows, ncolumns


cdef inline Py_ssize_t position(const Job *job, Py_ssize_t j) noexcept nogil:
    """Where pair j meets g at time step 0."""
    return job.taps.dilation * (j // job.size.parts % job.size.kernel_size) - job.taps.left


cdef inline const real *place(const Job *job, const real *g, Py_ssize_t j) noexcept nogil:
    """The number of g that pair j meets at time step 0."""
    cdef Py_ssize_t parts = job.size.parts
    return g + (j // (job.size.kernel_size * parts)) * job.g.sc + position(job, j) * job.g.sl + j % parts


cdef void unfold(const Job *job, const Block *block, const real *g, Py_ssize_t i, Py_ssize_t n,
                 real *dst) noexcept nogil:
    """Rows of time steps i .. i+n-1:  dst[t, (o, k)] = g[o, stride*(i+t) + dilation*k - left], 0 outside g."""
    cdef Py_ssize_t per = job.size.kernel_size * job.size.parts, S = job.taps.stride
    cdef Py_ssize_t j = block.j0, end = block.j0 + block.pairs
    cdef Py_ssize_t width, outputs, at, span, lo, hi, t, o, k, u, tap, parts = job.size.parts
    cdef const real *row
    cdef real *to
    while j < end:
        # whole outputs, or what the block has of one
        outputs = max((end - j) // per, <Py_ssize_t>1) if j % per == 0 else 1
        width = min(per - j % per, end - j)
        at = position(job, j)
        span = position(job, j + width - 1) - at
        lo = min(max(-floor_div(at, S), i), i + n)
        hi = max(min(floor_div(job.g.length - 1 - at - span, S) + 1, i + n), lo)
        if job.taps.dilation > 1 or job.g.sl != job.size.parts:
            hi = lo
        if hi > lo:
            job.microkernels.unfold(dst + (lo - i) * job.cut.ldc, job.cut.ldc, place[real](job, g, j) + lo * S * parts,
                                    job.g.sc, outputs, S * parts, width, hi - lo)
        for t in range(n):
            if lo - i <= t < hi - i:
                continue
            to = dst + t * job.cut.ldc
            for o in range(outputs):
                row = place[real](job, g, j + o * per) + (i + t) * S * job.g.sl
                for k in range(width):
                    tap = k // parts
                    u = (i + t) * S + at + tap * job.taps.dilation
                    to[k] = row[tap * job.taps.dilation * job.g.sl + k % parts] if 0 <= u < job.g.length else 0
                to += width
        j += outputs * width
        dst += outputs * width


cdef inline void transpose(const Job *job, const real **rows, Py_ssize_t channels, Py_ssize_t n, const real *zeros,
                           real *dst) noexcept nogil:
    """dst[t, c] = rows[c][t]. A few channels at a time: rows a power of two apart share cache sets."""
    cdef Py_ssize_t c = 0, t, width, steps
    while c < channels:
        width = channels - c if channels - c < 16 else 8
        t = 0
        while t < n:
            steps = min(n - t, <Py_ssize_t>32)
            job.microkernels.interleave(dst + t * job.cut.ldc + c, job.cut.ldc, <const void **>(rows + c), t, width,
                                        steps, zeros)
            t += steps
        c += width


cdef void dots(const Job *job, const Block *block, const real *g, Py_ssize_t i, Py_ssize_t n, real *sums,
               real *tile, const real **rows) noexcept nogil:
    """Time steps i .. i+n-1 along time. Tap k is phase k mod period of g, k // period steps later."""
    cdef Py_ssize_t c, j, k, per = job.size.kernel_size * job.size.parts, phases = job.branches.count // job.size.parts
    cdef Py_ssize_t later = (job.size.kernel_size - 1) // job.taps.period * job.taps.step
    cdef const real **pairs = rows + block.channels
    load_branches[real](&job.g, job.microkernels, &job.branches, g, job.size.parts, 0,
                        job.size.outputs * job.branches.count, i, n + later, tile, job.cut.ldg)
    for j in range(block.pairs):
        k = j % per // job.size.parts
        pairs[j] = (tile
                    + ((j // per * phases + k % job.taps.period) * job.size.parts + j % job.size.parts) * job.cut.ldg
                    + k // job.taps.period * job.taps.step)
    for c in range(block.channels):
        job.microkernels.dot(rows[c], <const void **>pairs, block.pairs, sums + c * block.pairs * job.cut.ldc,
                             job.cut.ldc, n)


cdef void run(const Job *job, const Block *block, const real *x, const real *g, Py_ssize_t i, Py_ssize_t n,
              bint all_inside, real *sums, real *tile, real *room, const real **rows,
              const real *zeros) noexcept nogil:
    """Add time steps i .. i+n-1. `all_inside`: of all pairs the positions lie inside g."""
    cdef Py_ssize_t r, u, k, stride
    cdef bint copied = i < 0 or i + n > job.x.length
    if copied or job.along != ALONG_G and job.x.sl != 1:
        load_run[real](&job.x, job.microkernels, x, job.size.parts, block.c0, block.c0 + block.channels, i, n, room,
                       job.cut.ldroom)
    for r in range(block.channels):
        rows[r] = room + r * job.cut.ldroom
        if not copied and (job.x.sl == 1 or job.along == ALONG_G):
            rows[r] = x + ((block.c0 + r) // job.size.parts) * job.x.sc + (block.c0 + r) % job.size.parts + i * job.x.sl
    stride = 1 if copied else job.x.sl
    if job.along == ALONG_TIME:
        dots[real](job, block, g, i, n, sums, tile, rows)
        return
    if job.along == ALONG_X:
        transpose[real](job, rows, block.channels, n, zeros, tile)
        stride = job.taps.stride * job.g.sl
        for r in range(block.pairs):
            rows[r] = place[real](job, g, block.j0 + r) + i * stride
            u = i * job.taps.stride + position(job, block.j0 + r)
            if not all_inside and not 0 <= u < job.g.length:
                rows[r] = zeros         # n is 1
    else:
        r = max(UNFOLD_SIZE // block.ncolumns, <Py_ssize_t>8)
        k = 0
        while k < n:
            unfold[real](job, block, g, i + k, min(r, n - k), tile + k * job.cut.ldc)
            k += r
    job.microkernels.correlate(<const void **>rows, stride, block.nrows, tile, job.cut.ldc, sums, job.cut.ldc, n,
                               block.ncolumns, job.microkernels.sizes.rows_ahead)


cdef void finish(const Job *job, const Block *block, const real *sums, const real **rows, const real *zeros,
                 real *out) noexcept nogil:
    """A block's sums into the gradient of its group: out[c, (o, k)]."""
    cdef Py_ssize_t r, k, c, j, px, pg, lane
    cdef real *to
    cdef real value
    if job.size.parts == 1 and job.along == ALONG_X:
        for r in range(block.nrows):
            rows[r] = sums + r * job.cut.ldc
        job.microkernels.interleave(out + block.c0 * job.size.pairs + block.j0, job.size.pairs, <const void **>rows, 0,
                                    block.nrows, block.ncolumns, zeros)
        return
    for r in range(block.nrows):
        for k in range(block.ncolumns):
            value = sums[r * job.cut.ldc + k]
            if job.along == ALONG_X:
                c, j = block.c0 + k, block.j0 + r
            elif job.along == ALONG_G:
                c, j = block.c0 + r, block.j0 + k
            elif k > 0:
                break
            else:
                c, j = r // job.size.pairs, r % job.size.pairs
                for lane in range(1, block.ncolumns):
                    value += sums[r * job.cut.ldc + lane]
            if job.size.parts == 1:
                out[c * job.size.pairs + j] = value
                continue
            # both sides alternate between re and im: of the four products of a pair, the first of each part begins it
            px, pg = c % 2, j % 2
            to = out + c // 2 * job.size.pairs + j - pg + (px ^ pg)
            if px == 1 and pg == 0:
                value = -value
            to[0] = value if (pg if job.along == ALONG_X else px) == 0 else to[0] + value


cdef void run_item(const Job *job, Py_ssize_t item, real *workspace) noexcept nogil:
    """One block of the gradient; all of time."""
    cdef Py_ssize_t group = item // (job.cut.column_blocks * job.cut.row_blocks)
    cdef Py_ssize_t row0 = item // job.cut.column_blocks % job.cut.row_blocks * job.cut.rows
    cdef Py_ssize_t column0 = item % job.cut.column_blocks * job.cut.columns
    cdef bint inside
    cdef Block block
    # the workspace: sums, vectors, rows on their way, a row of zeros, pointers
    cdef real *sums = workspace
    cdef real *tile = sums + job.cut.rows * job.cut.ldc
    cdef real *room = tile + (job.size.outputs * job.branches.count * job.cut.ldg if job.along == ALONG_TIME
                              else job.cut.tile * job.cut.ldc)
    cdef real *zeros
    cdef const real **rows
    cdef const real *x = <const real *>job.x.x + group * (job.size.inputs // job.size.parts) * job.x.sc
    cdef const real *g = <const real *>job.g.x + group * job.size.outputs * job.g.sc
    cdef Py_ssize_t n, i, end, steps, lo, hi, S = job.taps.stride, near, far
    if job.along == ALONG_TIME:
        block.c0, block.channels, block.j0, block.pairs = 0, job.size.inputs, 0, job.size.pairs
        block.nrows, block.ncolumns = job.cut.rows, job.cut.columns
        zeros = room + job.size.inputs * job.cut.ldroom
    elif job.along == ALONG_X:
        block.c0, block.channels = column0, min(job.cut.columns, job.size.inputs - column0)
        block.j0, block.pairs = row0, min(job.cut.rows, job.size.pairs - row0)
        block.nrows, block.ncolumns = block.pairs, block.channels
        zeros = room + job.cut.columns * job.cut.ldroom
    else:
        block.c0, block.channels = row0, min(job.cut.rows, job.size.inputs - row0)
        block.j0, block.pairs = column0, min(job.cut.columns, job.size.pairs - column0)
        block.nrows, block.ncolumns = block.channels, block.pairs
        zeros = room + job.cut.rows * job.cut.ldroom
    rows = <const real **>(zeros + job.cut.ldzeros)      # a multiple of 16: aligned for pointers
    memset(sums, 0, block.nrows * job.cut.ldc * sizeof(real))
    memset(zeros, 0, max(job.cut.rows, job.cut.ldc) * sizeof(real))
    # time steps [lo, hi) at which all pairs meet g
    near, far = -job.taps.left, job.taps.dilation * (job.size.kernel_size - 1) - job.taps.left
    lo = max(-floor_div(near, S), <Py_ssize_t>0)
    hi = min(floor_div(job.g.length - 1 - far, S) + 1, job.x.length)
    for n in range(job.size.batch):
        i, end = -job.taps.before, job.x.length + job.taps.after
        while i < end:
            if 0 <= i < job.x.length and (job.along != ALONG_X or lo <= i < hi):
                steps = min(job.cut.tile, (hi if job.along == ALONG_X else job.x.length) - i)
                inside = True
            else:
                steps = 1
                if job.along != ALONG_X:
                    steps = min(<Py_ssize_t>HALO_STEPS, (0 if i < 0 else end) - i)
                inside = False
            run[real](job, &block, x + n * job.x.sn, g + n * job.g.sn, i, steps, inside, sums, tile, room, rows, zeros)
            i += steps
    finish[real](job, &block, sums, rows, zeros,
                 <real *>job.out + group * (job.size.inputs // job.size.parts) * job.size.pairs)


cdef void run_items(const Job *job, Py_ssize_t items, int threads, void **workspaces, RegionTimer *timer,
                    real unused) noexcept nogil:
    cdef int thread
    cdef Shares shares
    share_out(&shares, items, threads)
    begin_region(timer)
    for thread in prange(threads, schedule="static", chunksize=1, num_threads=threads):
        run_share[real](job, &shares, <real *>workspaces[thread], thread, timer)


cdef void run_share(const Job *job, Shares *shares, real *workspace, int thread, RegionTimer *timer) noexcept nogil:
    cdef Py_ssize_t item, first, past
    while next_items(shares, thread, &first, &past):
        for item in range(first, past):
            run_item[real](job, item, workspace)
        add_items(timer, past - first)


def weight_gradient(plan, geometry, sources, halo, x, g, out, int threads):
    """Write the gradient into `out`.

    Parameters
    ----------
    plan : gradient.GradientPlan
    geometry : Geometry
    sources : tuple of ndarray
        As from `padding.halo_sources`.
    halo : (int, int)
        Time steps left and right of x that the padding mode adds.
    x : ndarray (N, C_in, L)
    g : ndarray (N, C_out, L_out)
        Both of the compute type, any strides.
    out : ndarray (C_in, C_out / groups, K)
        C-contiguous, of the compute type.
    threads : int
    """
    cdef Job job
    cdef const int64_t[::1] before = sources[0]
    cdef const int64_t[::1] after = sources[1]
    cdef const int64_t[::1] offsets = plan.offsets
    cdef Py_buffer xb, gb, ob
    cdef Py_ssize_t size = x.dtype.itemsize // plan.parts, items, n
    cdef bint double_precision = size == 8
    cdef void *workspaces[MOST_THREADS]
    cdef int i, taken = 0
    cdef RegionTimer timer
    job.microkernels = microkernels_for(double_precision)
    job.size.parts, job.size.batch, job.size.groups = plan.parts, x.shape[0], geometry.groups
    job.size.outputs = g.shape[1] // job.size.groups
    job.size.kernel_size, job.taps.stride, job.taps.dilation = geometry.kernel_size, geometry.stride, geometry.dilation
    job.taps.left, job.taps.before, job.taps.after = geometry.padding[0], halo[0], halo[1]
    job.size.inputs = x.shape[1] // job.size.groups * job.size.parts
    job.size.pairs = job.size.outputs * job.size.kernel_size * job.size.parts
    job.along = {"x": ALONG_X, "g": ALONG_G, "time": ALONG_TIME}[plan.along]
    job.cut.tile, job.cut.rows, job.cut.columns = plan.tile, plan.rows, plan.columns
    job.cut.ldc = leading_dimension(job.cut.columns)
    job.cut.ldroom = <Py_ssize_t>HALO_STEPS if job.along == ALONG_G else job.cut.tile
    job.branches.stride, job.branches.count, job.branches.offsets = job.taps.stride, plan.branches, &offsets[0]
    job.branches.consecutive = job.taps.dilation == 1
    job.taps.period, job.taps.step = plan.period, plan.step
    job.cut.ldg = leading_dimension(job.cut.tile + (job.size.kernel_size - 1) // job.taps.period * job.taps.step)
    job.x.length, job.g.length = x.shape[2], g.shape[2]
    job.x.hl, job.x.hr, job.g.hl, job.g.hr = before.shape[0], after.shape[0], 0, 0
    job.x.before = &before[0] if job.x.hl else NULL
    job.x.after = &after[0] if job.x.hr else NULL
    job.g.before = job.g.after = NULL
    job.cut.column_blocks = 1
    if job.along != ALONG_TIME:
        n = job.size.inputs if job.along == ALONG_X else job.size.pairs
        job.cut.column_blocks = (n + job.cut.columns - 1) // job.cut.columns
    # several items a thread if the gradient is large enough; the size of a block does not change its bits
    threads = max(1, min(threads, MOST_THREADS))
    while True:
        job.cut.row_blocks = 1
        if job.along != ALONG_TIME:
            n = job.size.pairs if job.along == ALONG_X else job.size.inputs
            job.cut.row_blocks = (n + job.cut.rows - 1) // job.cut.rows
        items = job.size.groups * job.cut.row_blocks * job.cut.column_blocks
        if threads == 1 or items >= 4 * threads or job.cut.rows <= FEWEST_ROWS or job.along == ALONG_TIME:
            break
        job.cut.rows = max(job.cut.rows // 2 // FEWEST_ROWS * FEWEST_ROWS, <Py_ssize_t>FEWEST_ROWS)
    job.cut.ldzeros = leading_dimension(max(job.cut.rows, job.cut.ldc))
    threads = <int>min(threads, items)
    PyObject_GetBuffer(x, &xb, PyBUF_STRIDED_RO)
    try:
        PyObject_GetBuffer(g, &gb, PyBUF_STRIDED_RO)
        try:
            PyObject_GetBuffer(out, &ob, PyBUF_STRIDED_RO | PyBUF_WRITABLE)
            try:
                job.x.x, job.g.x, job.out = xb.buf, gb.buf, ob.buf
                job.x.sn, job.x.sc, job.x.sl = xb.strides[0] // size, xb.strides[1] // size, xb.strides[2] // size
                job.g.sn, job.g.sc, job.g.sl = gb.strides[0] // size, gb.strides[1] // size, gb.strides[2] // size
                job.x.sp = job.g.sp = 1
                threads = team(threads)
                try:
                    while taken < threads:
                        workspaces[taken] = take_workspace()
                        taken += 1
                    with nogil:
                        if double_precision:
                            run_items[double](&job, items, threads, workspaces, &timer, 0)
                        else:
                            run_items[float](&job, items, threads, workspaces, &timer, 0)
                    if threads > 1:
                        finish_region(&timer, items)
                finally:
                    for i in range(taken):
                        give_workspace(workspaces[i])
            finally:
                PyBuffer_Release(&ob)
        finally:
            PyBuffer_Release(&gb)
    finally:
        PyBuffer_Release(&xb)
