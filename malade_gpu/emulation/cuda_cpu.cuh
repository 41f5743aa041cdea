// CUDA C++ on a CPU: what a kernel needs so that g++ can compile it and an ordinary process can run it.
//
// A kernel is an ordinary function here. The blocks of its grid run one after another; the threads of a block are fibers
// that hand the core to each other where they wait: at __syncthreads, __syncwarp, shuffles, votes and matrix products.
// The emulation is stricter than a GPU, because it is there to find bugs:
//
//   * shared memory holds NaN at the start of a block, and ends at a page that faults when touched;
//   * so does each array argument: a read or a write beyond its ends is an error with the kernel's line;
//   * a barrier must be passed by every thread of the block, at the same place of the source; a thread that returns
//     early, and lanes that a warp operation names and that never come, are errors;
//   * an asynchronous copy destroys its destination when it is issued and delivers when it is waited for, no earlier;
//   * the order in which threads and blocks run can be chosen (forward, reverse, random): a kernel whose results depend
//     on it has a race;
//   * with EMULATION_THREADS the threads are threads, for ThreadSanitizer and its kin.
//
// What it cannot show: the memory order between blocks, the GPU's own instructions behind the wrappers of tensor.cuh,
// and the last bits of the GPU's mathematical functions.
//
// Reading order: memory, fiber, block, schedule_fibers (or schedule_threads), language, tensor, launch.
#pragma once

#include "memory.cuh"
#include "fiber.cuh"
#include "block.cuh"
#ifdef EMULATION_THREADS
#include "schedule_threads.cuh"
#else
#include "schedule_fibers.cuh"
#endif
#include "language.cuh"
#include "tensor.cuh"
#include "launch.cuh"
