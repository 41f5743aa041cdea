// The threads of a block as threads of the operating system, for ThreadSanitizer, AddressSanitizer and their kin.
//
// The sanitizers watch; whether the barriers are met by everybody is the fibers' business. A thread that returns early
// no longer counts at the barriers, and a kernel that deadlocks here hangs: whoever starts the program sets a limit.
#pragma once

#include <barrier>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "block.cuh"

namespace emulation {

constexpr int KERNEL_FAILED = 3;  // the program's exit code

inline thread_local int current = 0;
inline int this_thread() { return current; }

[[noreturn]] inline void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  std::_Exit(KERNEL_FAILED);
}

inline std::unique_ptr<std::barrier<>> whole_block;
inline std::mutex lanes_mutex;
inline std::map<std::pair<int, unsigned>, std::unique_ptr<std::barrier<>>> lanes;  // by warp and mask

inline void block_barrier(Place) { whole_block->arrive_and_wait(); }

inline void warp_barrier(unsigned mask, Place) {
  std::barrier<>* barrier;
  {
    const std::lock_guard lock(lanes_mutex);
    auto& entry = lanes[{current / warpSize, mask}];
    if (!entry) entry = std::make_unique<std::barrier<>>(__builtin_popcount(mask));
    barrier = entry.get();
  }
  barrier->arrive_and_wait();
}

inline void run_block() {
  prepare_threads();
  whole_block = std::make_unique<std::barrier<>>(block.num_threads);
  lanes.clear();
  std::vector<std::thread> threads;
  for (int i = 0; i < block.num_threads; i++)
    threads.emplace_back([i] {
      current = i;
      threadIdx = block.threads[i].index;
      run_thread();
      whole_block->arrive_and_drop();
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace emulation
