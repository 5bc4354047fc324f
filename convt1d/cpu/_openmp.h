/* SPDX-License-Identifier: MIT */
/* The few OpenMP calls we make, and their serial meaning in a build without OpenMP. */
#ifndef CONVT1D_OPENMP_H
#define CONVT1D_OPENMP_H
/* Threads of one call at most. */
#define MOST_THREADS 256
#ifdef _OPENMP
  #include <omp.h>
  #define BUILT_WITH_OPENMP 1
#else
  #define BUILT_WITH_OPENMP 0
  static inline int omp_get_thread_num(void) { return 0; }
  static inline int omp_get_max_threads(void) { return 1; }
  static inline int omp_get_num_procs(void) { return 1; }
  static inline double omp_get_wtime(void) { return 0; }
#endif
#endif
