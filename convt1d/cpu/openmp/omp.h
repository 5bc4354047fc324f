/* SPDX-License-Identifier: MIT */
/* In place of the compiler's omp.h, which Cython includes and Apple's and other Clangs lack. */
#include "_openmp.h"
