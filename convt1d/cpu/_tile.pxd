# SPDX-License-Identifier: MIT
"""What a kernel sees of a layer, of a call and of the tile at hand, and the functions that it provides.

    Layer      one type's packed weights        Call    one input length and batch size      Tile    of one work item
      Shape      sizes in real numbers            Signal   where x lies                        Piece   channels and taps
      Block      a weight block                   Cut      how it is cut into tiles            Prefetch
      Ops        the kernel's functions           Output   where y lies, and its entries

Sizes are those of one group, in real numbers; problem.py and plan.py say what each field means.
"""

from libc.stdint cimport int64_t

from convt1d.cpu._load cimport InputRows, Signal
from convt1d.cpu._microkernels cimport Microkernels, Prefetch, real

# Packs the channels c0 .. c1-1 of one block into their places in `out`, the block's packed weights. `row` holds the
# block's rows. If `ratio` is not 0, adds the absolute values of each row's taps to `sizes`: `Problem.taps`
# numbers for each row.
ctypedef void (*pack_function)(const Layer *layer, const Block *block, const Weights *weights, const Row *row,
                               Py_ssize_t c0, Py_ssize_t c1, void *out, void *sizes) noexcept nogil

# Loads columns i .. i+n-1 of the channels c0 .. c1-1 of one sample into rows of ldx, by way of `row` if it needs
# one, with the activation `before` applied to the samples. Returns the form of the tile; `form` is the one asked for.
ctypedef int (*load_function)(const Layer *layer, const Call *call, const Activation *before, const void *x,
                              Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t i, Py_ssize_t n, void *dst, void *row,
                              int form) noexcept nogil

# Multiplies one piece of a tile with one weight block; the last piece of a block stores its output.
ctypedef void (*run_function)(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                              const void *weights) noexcept nogil

cdef struct Ops:
    pack_function pack
    load_function load
    run_function run

cdef struct Weights:           # w[c, o, k] of one group, of any strides
    const void *w
    Py_ssize_t channel, output, tap     # strides, in real numbers

cdef struct Row:               # what a row of columns adds to the place of its weights
    Py_ssize_t re, im          # for a real channel, or the real part of a complex one; for the imaginary part

cdef struct Activation:        # of `Microkernels.activate`
    int kind                   # 0: the identity
    const double *a            # its parameters: one of each, or one for each channel
    const double *b
    Py_ssize_t next            # from a channel's parameters to the next channel's: 0 or 1

cdef struct Block:
    Py_ssize_t output0, outputs
    Py_ssize_t entry0, entry1
    Py_ssize_t branch0, branches
    Py_ssize_t weights                  # where its packed weights begin
    Py_ssize_t rows                     # outputs * branches
    Py_ssize_t long_branches, long_rows  # their rows come first

cdef struct Entry:
    # Its column i stands at stride*(i + shift) + phase - left of the output; the first of a set so, if there are sets,
    # the others behind it.
    Py_ssize_t phase, shift
    Py_ssize_t branch, step
    Py_ssize_t first, last     # the q = i + shift whose position is inside the output: first <= q < last

cdef struct Shape:
    Py_ssize_t parts, channels, outputs, groups
    Py_ssize_t stride          # output positions of a column; of sets of them, on average
    Py_ssize_t taps            # of a long branch, as the tile loop counts them
    Py_ssize_t step, period
    Py_ssize_t alignment       # input steps of a column
    Py_ssize_t residues        # columns come in sets of so many, see plan.Plan
    bint correlates            # a convolution: taps count from the last, rows of x are residue classes
    bint channels_last         # of y
    bint consecutive           # the entries of a block, or of each run of it, lie side by side in the output

cdef struct Memory:            # tuning.MemoryTuning and LoadTuning
    Py_ssize_t y_ahead, x_stays, y_stays, few_samples
    bint x_two_channels

cdef struct Layer:
    Ops ops
    const Microkernels *microkernels
    Shape shape
    InputRows input_rows
    Memory memory
    Py_ssize_t planes          # rows of the tile for each row of x
    Py_ssize_t runs            # of entries in a block
    Py_ssize_t piece_channels, piece_taps, group_size, nblocks
    int in_place
    double ratio, most         # of taps that are added up: Packing.ratio, and their largest size
    Block *blocks
    const int64_t *own         # numbers that only this kernel reads, see its .pxd

cdef struct Output:
    void *y
    const void *bias           # or NULL
    Activation after           # applied to columns + bias
    const void *add            # laid out as y, added last; or NULL
    Py_ssize_t length, left    # in real numbers
    Entry *entries
    Py_ssize_t nentries
    bint aligned               # no entry is shifted, and all stand side by side ...
    Py_ssize_t first_inside, last_inside    # ... inside the output for these i

cdef struct Cut:               # plan.Tiling
    Py_ssize_t batch, first, columns, history, tile, tiles, edge, ldx, ldc
    Py_ssize_t unit            # columns of a register block
    bint merged, nontemporal

cdef struct Room:              # plan.Workspace
    Py_ssize_t columns, sources, bias, row

cdef struct Call:
    Signal x
    Activation before          # applied to x
    Output output
    Cut cut
    Room room
    const void *weights
    int in_place
    Py_ssize_t origin          # input steps of the first column that lie before x: x[0] may not begin a column
    Py_ssize_t blocks_per_item, block_groups

cdef struct Piece:
    Py_ssize_t c0, c1, m0, m1
    bint first, last           # of a block

cdef struct Tile:
    Py_ssize_t sample, group
    Py_ssize_t f0, f1          # its columns
    Piece piece
    const void *x              # the sample that the piece's oldest tap meets in column f0
    Py_ssize_t ldx
    int form                   # as `load` returned it
    bint first_block
    Prefetch prefetch
    void *columns              # room for a block's columns, rows of cut.ldc; or the edge buffer
    const void **sources       # room for a pointer for each row
    void *bias                 # ... and a number
