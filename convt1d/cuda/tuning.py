# SPDX-License-Identifier: MIT
"""The numbers that the choice of a kernel and the size of its work go by, as data.

One row serves every GPU, so that the order of sums is the same on each. The table below was measured on an NVIDIA H200
on 2026-11-26. A number without a measurement beside it was reckoned. A bound that hardware or cuBLAS sets stands with
the kernel that it binds.

**fused against the others.** `fused` moves fewer bytes than the other kernels and multiplies more slowly than cuBLAS.
The table has microseconds for a batch of 16, and the flops per byte of x and y up to which `fused` is chosen:

    C_in -> C_out           64->32  128->64  256->128  512->256  1536->768
    flops per byte, 4 bytes    43       64       205       410        1229    chosen up to
    float32   fused           287      501       907       510        1318             160
              rows            962     1045       940       570        1109
    tf32      fused           132      187       282       171         392             400
              rows            405      434       430       178         805
    float16   fused           140      179       244       137         305             690 (of 2 bytes)
              rows            358      362       295        92         109

`rows` is never the faster one in TF32, as cuBLAS is slow at its operands: `columns` follows beyond 400 flops per byte.
That was measured for one output channel only (K = 1024, stride 256: `columns` 62, `fused` 95). In float16 so few output
channels take 1/32 of what `rows` does last: `rows` 197, `fused` 80. 3xTF32 was slower than float32 in every layer
(first layer 352 against 287, last layer 1812 against 1318).
"""

import math

# Bytes that a call may use besides its output. Columns need as many times the output's bytes as a branch has taps: the
# bound is enough for a product to fill a GPU many times over, and little beside a GPU's memory.
# `CONVT1D_CUDA_WORKSPACE` sets another one.
WORKSPACE = 256 * 1024 * 1024

# direct: blocks that are enough for any GPU of today (132 to 192 multiprocessors, eight such blocks each).
DIRECT_BLOCKS = 2048

# rows: the most groups, since cuBLAS is called for each of them: its batch is taken by the overlap.
ROWS_GROUPS = 8
# rows: the most taps of a branch. So many products read all weights, each for one of so many outputs.
ROWS_TAPS = 64
# rows: the fewest output channels of a group, since 32 channels at a time are put in order.
ROWS_OUTPUTS = 16

# fused: flops per byte of x and y up to which it is the fastest kernel, by arithmetic; see the table above.
FUSED_INTENSITY = {"float32": 160, "tf32": 400, "3xtf32": math.inf, "float16": 690, "bfloat16": 690}
# fused: fewer input channels of a group, rows (phases times output channels) or samples fill too little of a tile.
FUSED_LEAST = {"input channels of a group": 16, "rows": 32, "samples": 16}
# fused: blocks that an H100 runs at once, two to a multiprocessor.
FUSED_BLOCKS = 264
# fused: the fewest steps of a split of the inner size, since the sums of each split are written and read again.
FUSED_SPLIT_STEPS = 8

# Architectures where three products of TF32 should pay: the A100, whose tensor cores are eight times as fast as its
# float32. Not measured.
THREE_TF32 = (80,)
