# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The weights' gradient: x correlated with the output's gradient g, summed over time and batch.

    grad[c, o, k] = sum over n, i of  x[n, c, i] * g[n, o, stride*i + dilation*k - left]

Time steps i of all samples, one after the other, are cut into tiles. A tile makes two small matrices

    x rows, packed        [time][row]          c, of register blocks: what the direct product takes as its weights
    g unfolded            [time][(o, k)]       the K positions that a time step reaches, for each output channel

whose product, over time, is added to a block of the gradient. Blocks are independent; each sums over time in the
same order, whatever its size: the same bits for any number of threads. Complex numbers are two rows and two columns
(re, im), combined when they are added: conj(x) * g = (re re + im im) + (re im - im re) i.
"""

from cpython.buffer cimport (
    PyBUF_STRIDED_RO, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cython.parallel cimport prange
from libc.stdint cimport int64_t

from convt1d.cpu._load cimport Signal, floor_div, leading, load_run
from convt1d.cpu._runtime cimport (
    LEVEL, MOST_THREADS, give_workspace, going_parallel, omp_get_thread_num, take_workspace,
)
from convt1d.cpu._simd cimport AHEAD, Sum, direct_block, direct_leaf, gather_leaf, real, simd_rows, unfold_leaf

cdef enum:
    UNFOLD_STEPS = 32      # time steps unfolded at a time: their rows lie in few pages
    GROUP_ROWS = 16        # rows multiplied at a time, so that their sums stay in L1; dispatch.DIRECT_ROWS

cdef struct Block:
    Py_ssize_t o0, outputs, k0, k1
    Py_ssize_t width        # columns: outputs * (k1 - k0) * parts

cdef struct Job:
    Signal x, g
    void *out
    int level
    Py_ssize_t parts, batch, channels, outputs, groups, kernel_size      # channels and outputs of a group
    Py_ssize_t stride, dilation, left
    Py_ssize_t first, steps             # time steps of a sample: first .. first+steps-1, what the padding mode adds too
    Py_ssize_t tile, rows, row_blocks, nblocks, ldg
    const int64_t *blocks


cdef inline Block block_of(const Job *job, Py_ssize_t b) noexcept nogil:
    cdef Block block
    cdef const int64_t *row = job.blocks + 4 * b
    block.o0, block.outputs, block.k0, block.k1 = row[0], row[1], row[2], row[3]
    block.width = block.outputs * (block.k1 - block.k0) * job.parts
    return block


cdef void unfold(const Job *job, const Block *block, const real *g, Py_ssize_t i, Py_ssize_t n, const real **sources,
                 const real *zeros, real *dst) noexcept nogil:
    """Rows of time steps i .. i+n-1:  dst[t, (o, k)] = g[o, stride*(i+t) + dilation*k - left], 0 outside g."""
    cdef Py_ssize_t o, k, t, u, parts = job.parts, S = job.stride, D = job.dilation, sl = job.g.sl
    cdef Py_ssize_t width = (block.k1 - block.k0) * parts
    cdef Py_ssize_t at = D * block.k0 - job.left, span = D * (block.k1 - 1 - block.k0)
    # time steps whose positions all lie inside g
    cdef Py_ssize_t lo = min(max(-floor_div(at, S), i), i + n)
    cdef Py_ssize_t hi = max(min(floor_div(job.g.length - 1 - at - span, S) + 1, i + n), lo)
    cdef bint all_at_once = S == 1 and D > 1 and sl == 1
    cdef const real *row
    cdef real *to
    for o in range(block.outputs):
        row = g + o * job.g.sc
        to = dst + o * width
        if all_at_once:
            for k in range(width):
                sources[o * width + k] = row + D * k + at
        elif D == 1 and sl == parts:
            unfold_leaf[real](job.level, to + (lo - i) * job.ldg, job.ldg, row + (S * lo + at) * parts, S * parts,
                              width, hi - lo)
        elif parts == 1:
            for t in range(lo - i, hi - i):
                u = (S * (i + t) + at) * sl
                for k in range(width):
                    to[t * job.ldg + k] = row[u + k * D * sl]
        else:
            for t in range(lo - i, hi - i):
                u = (S * (i + t) + at) * sl
                for k in range(width // 2):
                    to[t * job.ldg + 2 * k] = row[u + k * D * sl]
                    to[t * job.ldg + 2 * k + 1] = row[u + k * D * sl + 1]
        for t in range(lo - i):
            edge[real](job, row, (i + t) * S + at, width, to + t * job.ldg)
        for t in range(hi - i, n):
            edge[real](job, row, (i + t) * S + at, width, to + t * job.ldg)
    if all_at_once and hi > lo:
        gather_leaf[real](job.level, dst + (lo - i) * job.ldg, job.ldg, sources, lo, block.width, hi - lo, zeros)


cdef inline void edge(const Job *job, const real *row, Py_ssize_t u, Py_ssize_t width, real *dst) noexcept nogil:
    """One time step's row, position by position."""
    cdef Py_ssize_t k
    for k in range(width):
        dst[k] = row[u * job.g.sl + k % job.parts] if 0 <= u < job.g.length else 0
        if k % job.parts == job.parts - 1:
            u += job.dilation


cdef void pack(const Job *job, const real *x, Py_ssize_t row0, Py_ssize_t rows, Py_ssize_t i, Py_ssize_t n,
               Py_ssize_t at, Py_ssize_t steps, real *room, const real *zeros, real *dst) noexcept nogil:
    """Time steps i .. i+n-1 of real rows row0 .. row0+rows-1 to time `at` of  [group][register block][time][row]."""
    cdef const real *sources[8]
    cdef Py_ssize_t r = 0, j, width, in_group
    cdef bint inside = job.x.sl == 1 and i >= 0 and i + n <= job.x.length
    while r < rows:
        in_group = min(GROUP_ROWS, rows - r // GROUP_ROWS * GROUP_ROWS) - r % GROUP_ROWS
        width = direct_block(simd_rows(job.level), in_group)
        if not inside:
            load_run[real](&job.x, x, job.parts, row0 + r, row0 + r + width, i, n, room, job.tile)
        for j in range(width):
            sources[j] = x + (row0 + r + j) * job.x.sc + i if inside else room + j * job.tile
        gather_leaf[real](job.level, dst + r * steps + at * width, width, sources, 0, width, n, zeros)
        r += width


cdef inline void add_rows(const Job *job, const Block *block, const real *columns, Py_ssize_t ldc, Py_ssize_t c,
                          Py_ssize_t rows, bint add, real *out) noexcept nogil:
    """Add `rows` rows of products, the first of them channel c's, to the gradient of a group; or begin it with them
    (reading new memory before it is written would cost a second page fault)."""
    cdef Py_ssize_t r, k
    cdef const real *odd
    cdef real *to
    for r in range(rows // job.parts):
        to = out + (((c + r) * job.outputs + block.o0) * job.kernel_size + block.k0) * job.parts
        if not add:
            for k in range(block.width):
                to[k] = 0 if job.parts > 1 else columns[k]
        if job.parts == 1:
            for k in range(block.width if add else 0):
                to[k] += columns[k]
        else:
            odd = columns + ldc
            for k in range(block.width // 2):
                to[2 * k] += columns[2 * k] + odd[2 * k + 1]
                to[2 * k + 1] += columns[2 * k + 1] - odd[2 * k]
        columns += job.parts * ldc


cdef void run_item(const Job *job, Py_ssize_t item, real *workspace) noexcept nogil:
    """One block of the gradient: some input channels of a group, some outputs and taps; all of time."""
    cdef Py_ssize_t group = item // (job.nblocks * job.row_blocks)
    cdef Py_ssize_t row0 = item // job.nblocks % job.row_blocks * job.rows
    cdef Py_ssize_t rows = min(job.rows, job.channels * job.parts - row0)
    cdef Block block = block_of(job, item % job.nblocks)
    cdef const real *x = <const real *>job.x.x + group * job.channels * job.x.sc
    cdef const real *g = <const real *>job.g.x + (group * job.outputs + block.o0) * job.g.sc
    cdef real *out = <real *>job.out + group * job.channels * job.outputs * job.kernel_size * job.parts
    # the workspace: g unfolded, x packed, sums of a few rows, rows of x on their way, pointers
    cdef real *unfolded = workspace
    cdef real *packed = unfolded + job.tile * job.ldg
    cdef real *columns = packed + job.tile * job.rows
    cdef real *room = columns + GROUP_ROWS * job.ldg
    cdef real *zeros = room + 8 * job.tile
    cdef const real **sources = <const real **>(zeros + job.ldg)
    cdef Py_ssize_t f = 0, total = job.batch * job.steps, steps, done, n, within, run, r, k
    cdef Sum sum
    sum.taps, sum.step, sum.slots, sum.full, sum.first = 1, 0, 1, 1, 0
    for k in range(job.ldg):
        zeros[k] = 0
    while f < total:
        steps = min(job.tile, total - f)
        done = 0
        while done < steps:
            n, within = (f + done) // job.steps, (f + done) % job.steps
            run = min(steps - done, job.steps - within)
            k = 0
            while k < run:
                unfold[real](job, &block, g + n * job.g.sn, job.first + within + k,
                             min(run - k, <Py_ssize_t>UNFOLD_STEPS), sources, zeros, unfolded + (done + k) * job.ldg)
                k += UNFOLD_STEPS
            pack[real](job, x + n * job.x.sn, row0, rows, job.first + within, run, done, steps, room, zeros, packed)
            done += run
        sum.channels = sum.depth = steps
        r = 0
        while r < rows:
            k = min(<Py_ssize_t>GROUP_ROWS, rows - r)
            direct_leaf[real](job.level, unfolded, job.ldg, packed + r * steps, columns, job.ldg, &sum, k, block.width,
                              False, unfolded + AHEAD * job.ldg, job.ldg)
            add_rows[real](job, &block, columns, job.ldg, (row0 + r) // job.parts, k, f > 0, out)
            r += k
        f += steps


cdef void run_items(const Job *job, Py_ssize_t items, int threads, void **workspaces, real unused) noexcept nogil:
    cdef Py_ssize_t item
    if threads == 1:            # no parallel region at all
        for item in range(items):
            run_item[real](job, item, <real *>workspaces[0])
        return
    for item in prange(items, schedule="dynamic", num_threads=threads):
        run_item[real](job, item, <real *>workspaces[omp_get_thread_num()])


def weight_gradient(plan, geometry, Py_ssize_t first, Py_ssize_t steps, sources, x, g, out, int threads):
    """Write the gradient into `out`.

    Parameters
    ----------
    plan : dispatch.GradientPlan
    geometry : Geometry
    first, steps : int
        Time steps of a sample, the halo included.
    sources : tuple of ndarray
        As from `padding.halo_sources`.
    x : ndarray (N, C_in, L)
    g : ndarray (N, C_out, L_out)
        Both of the compute type, any strides.
    out : ndarray (C_in, C_out / groups, K)
        C-contiguous, of the compute type.
    threads : int
    """
    cdef Job job
    cdef const int64_t[:, ::1] blocks = plan.blocks
    cdef const int64_t[::1] before = sources[0]
    cdef const int64_t[::1] after = sources[1]
    cdef Py_buffer xb, gb, ob
    cdef Py_ssize_t size = x.dtype.itemsize // plan.parts, items
    cdef bint double_precision = size == 8
    cdef void *workspaces[MOST_THREADS]
    cdef int i, taken = 0
    job.level = LEVEL
    job.parts, job.batch, job.groups = plan.parts, x.shape[0], geometry.groups
    job.channels, job.outputs = x.shape[1] // job.groups, g.shape[1] // job.groups
    job.kernel_size, job.stride, job.dilation = geometry.kernel_size, geometry.stride, geometry.dilation
    job.left, job.first, job.steps = geometry.padding[0], first, steps
    job.tile, job.ldg = plan.tile, leading(plan.width)
    job.nblocks, job.blocks = blocks.shape[0], &blocks[0, 0]
    job.x.length, job.g.length = x.shape[2], g.shape[2]
    job.x.hl, job.x.hr, job.g.hl, job.g.hr = before.shape[0], after.shape[0], 0, 0
    job.x.before = &before[0] if job.x.hl else NULL
    job.x.after = &after[0] if job.x.hr else NULL
    job.g.before = job.g.after = NULL
    # several items a thread if the gradient is large enough; the size of a block does not change its bits
    job.rows = plan.rows
    threads = max(1, min(threads, MOST_THREADS))
    while True:
        job.row_blocks = (job.channels * job.parts + job.rows - 1) // job.rows
        items = job.groups * job.row_blocks * job.nblocks
        if threads == 1 or items >= 4 * threads or job.rows <= GROUP_ROWS:
            break
        job.rows = max(job.rows // 2 // GROUP_ROWS * GROUP_ROWS, <Py_ssize_t>GROUP_ROWS)
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
                if threads > 1:
                    going_parallel()
                try:
                    while taken < threads:
                        workspaces[taken] = take_workspace()
                        taken += 1
                    with nogil:
                        if double_precision:
                            run_items[double](&job, items, threads, workspaces, 0)
                        else:
                            run_items[float](&job, items, threads, workspaces, 0)
                finally:
                    for i in range(taken):
                        give_workspace(workspaces[i])
            finally:
                PyBuffer_Release(&ob)
        finally:
            PyBuffer_Release(&gb)
    finally:
        PyBuffer_Release(&xb)
