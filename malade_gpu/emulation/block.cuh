// The block that is running: its threads, its shared memory, and what its threads tell each other.
//
// Two schedulers run a block. Both provide
//     int this_thread()                       number of the calling thread in its block
//     void block_barrier(Place)               wait for all threads of the block
//     void warp_barrier(unsigned mask, Place) wait for the lanes of a mask
//     void run_block()                        run all threads of the block
//     [[noreturn]] void fail(format, ...)     give up the launch with a message
#pragma once

#include <cstdarg>
#include <cstdio>
#include <source_location>
#include <vector>

#include "fiber.cuh"
#include "memory.cuh"

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Where all threads are the same ...
inline dim3 gridDim, blockDim;
inline uint3 blockIdx;
constexpr int warpSize = 32;
// ... and where they differ.
#ifdef EMULATION_THREADS
inline thread_local uint3 threadIdx;
#else
inline uint3 threadIdx;  // set whenever another fiber goes on
#endif

namespace emulation {

// A place of the source: file, line and column, so that two barriers on one line are two places.
using Place = std::source_location;

inline bool same_place(const Place& a, const Place& b) {
  return a.line() == b.line() && a.column() == b.column() && !strcmp(a.file_name(), b.file_name());
}
inline const char* file_of(const Place& place) {
  const char* slash = strrchr(place.file_name(), '/');
  return slash ? slash + 1 : place.file_name();
}

// One asynchronous copy, issued and not yet delivered.
struct AsyncCopy {
  void* destination;
  const void* source;
  int bytes;
  bool valid;  // else zeros are delivered
};

constexpr int MAX_WORDS = 6;  // of a lane in one exchange: a matrix product's operands

struct Warp {
  uint32_t mail[32][MAX_WORDS];
};

enum class State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, RETURNED };

struct Thread {
  uint3 index{};
  std::vector<std::vector<AsyncCopy>> committed;  // groups of copies, oldest first
  std::vector<AsyncCopy> uncommitted;
  // Of a fiber: what it waits for.
  Fiber fiber;
  State state = State::READY;
  unsigned mask = 0;
  Place place;
};

struct Block {
  int num_threads = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  GuardedBuffer* dynamic_shared = nullptr;
  void (*kernel)(const void* arguments) = nullptr;
  const void* arguments = nullptr;
};
inline Block block;

int this_thread();
void block_barrier(Place);
void warp_barrier(unsigned mask, Place);
void run_block();
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Variables declared __shared__ are gathered in a section of their own, whose ends the linker names.
extern "C" char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));

inline size_t static_shared_bytes() {
  return __start_emulated_shared ? __stop_emulated_shared - __start_emulated_shared : 0;
}

inline bool in_shared_memory(const void* address, size_t bytes) {
  const char* first = static_cast<const char*>(address);
  const bool in_static = __start_emulated_shared && first >= __start_emulated_shared &&
                         first + bytes <= __stop_emulated_shared;
  return in_static || block.dynamic_shared->contains(address, bytes);
}

// AddressSanitizer puts forbidden zones between these variables; poison is written across them.
__attribute__((no_sanitize("address", "thread"))) inline void poison_shared_memory() {
  volatile char* const first = __start_emulated_shared;
  for (size_t i = 0; i < static_shared_bytes(); i++) first[i] = static_cast<char>(POISON);
  block.dynamic_shared->poison();
}

inline void prepare_threads() {
  block.threads.resize(std::max<size_t>(block.threads.size(), block.num_threads));
  block.warps.resize((block.num_threads + warpSize - 1) / warpSize);
  for (int i = 0; i < block.num_threads; i++) {
    Thread& thread = block.threads[i];
    thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    thread.state = State::READY;
    thread.committed.clear();
    thread.uncommitted.clear();
  }
}

// What every thread does, from its first to its last instruction.
inline void run_thread() {
  block.kernel(block.arguments);
  const Thread& thread = block.threads[this_thread()];
  for (const auto& group : thread.committed)
    if (!group.empty()) fail("a thread returns while asynchronous copies are on their way; wait for them");
  if (!thread.uncommitted.empty()) fail("a thread returns with asynchronous copies that it never committed");
}

inline int lane_of(int thread) { return thread % warpSize; }
inline Warp& warp_of(int thread) { return block.warps[thread / warpSize]; }

// Show words to the other lanes of a mask, and read theirs by `read(mail)`. The second barrier keeps the mail until
// everybody has read it.
template <class Read>
auto exchange(unsigned mask, const uint32_t* words, int count, Place place, Read read) {
  const int self = this_thread();
  if (!(mask >> lane_of(self) & 1)) fail("lane %d takes part in a warp operation whose mask 0x%x leaves it out, at %s:%u",
                                         lane_of(self), mask, file_of(place), place.line());
  Warp& warp = warp_of(self);
  memcpy(warp.mail[lane_of(self)], words, count * sizeof(uint32_t));
  warp_barrier(mask, place);
  const auto result = read(warp.mail);
  warp_barrier(mask, place);
  return result;
}

}  // namespace emulation
