# SPDX-License-Identifier: MIT
# cython: language_level=3, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Activations of whole arrays: rows, cut into parts of a few thousand numbers, by any number of threads."""

from cython.parallel cimport prange

from convt1d.cpu._microkernels cimport Microkernels, real
from convt1d.cpu._runtime cimport MOST_THREADS, microkernels_for, team

cdef enum:
    PART = 8192     # numbers of a row at a time: they stay in L1 from one step of a microkernel to the next


def activate(int kind, const double[::1] a, const double[::1] b, const real[:, :, :] x, real[:, :, :] y, int threads):
    """y = f(x), both (N, C, L) of consecutive samples; a, b: one number, or one for each channel. y may be x."""
    cdef const Microkernels *microkernels = microkernels_for(real is double)
    cdef Py_ssize_t channels = x.shape[1], length = x.shape[2], parts = (length + PART - 1) // PART
    cdef Py_ssize_t item, n, c, at, next = a.shape[0] > 1
    if y.size == 0:
        return
    threads = team(max(1, min(threads, MOST_THREADS)))
    with nogil:
        for item in prange(x.shape[0] * channels * parts, num_threads=threads, schedule="static"):
            n, c, at = item // parts // channels, item // parts % channels, item % parts * PART
            microkernels.activate(kind, &x[n, c, at], NULL, &y[n, c, at], min(PART, length - at), a[c * next],
                                  b[c * next])
