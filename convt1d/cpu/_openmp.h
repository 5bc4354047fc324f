/* SPDX-License-Identifier: MIT */
/* The few OpenMP calls we make, and their serial meaning in a build without OpenMP. */
#ifndef CONVT1D_OPENMP_H
#define CONVT1D_OPENMP_H
#ifdef _OPENMP
  #include <omp.h>
  #define BUILT_WITH_OPENMP 1
  /* OpenMP 5.0; GCC has the call since 9 while still announcing 4.5. */
  #if _OPENMP >= 201811 || (defined(__GNUC__) && __GNUC__ >= 9)
    #define PAUSE_OPENMP() omp_pause_resource_all(omp_pause_soft)
  #else
    #define PAUSE_OPENMP() 0
  #endif
#else
  #define BUILT_WITH_OPENMP 0
  #define PAUSE_OPENMP() 0
  static inline int omp_get_thread_num(void) { return 0; }
  static inline int omp_get_max_threads(void) { return 1; }
#endif
#endif
