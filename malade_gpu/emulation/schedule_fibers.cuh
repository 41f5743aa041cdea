// The threads of a block as fibers, in an order that can be chosen.
//
// Whenever no thread of a warp can go on, another warp is chosen: the first, the last, or a random one that can. So in
// the forward order warp 0 runs as far ahead as barriers allow, in the reverse order the last warp does, and whoever
// reads before the barrier what another warp writes finds poison in one of the two.
#pragma once

#include <csetjmp>
#include <numeric>

#include "block.cuh"

namespace emulation {

enum Order { FORWARD = 0, REVERSE = 1, RANDOM = 2 };

struct Schedule {
  Order order = FORWARD;
  uint64_t state = 1;

  // Knuth's linear congruential generator; its upper bits are random enough to find a bad order.
  unsigned random() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 33;
  }
  // 0..count-1 in the schedule's order.
  std::vector<int> permutation(int count) {
    std::vector<int> numbers(count);
    std::iota(numbers.begin(), numbers.end(), 0);
    if (order == REVERSE) std::reverse(numbers.begin(), numbers.end());
    if (order == RANDOM)
      for (int i = count - 1; i > 0; i--) std::swap(numbers[i], numbers[random() % (i + 1)]);
    return numbers;
  }
};
inline Schedule schedule;

inline Fiber scheduler;  // the stack that called the launch
inline int current = 0;
inline char failure[2048];
inline sigjmp_buf escape;  // back to the launch, from anywhere

inline int this_thread() { return current; }

[[noreturn]] inline void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(failure, sizeof failure, format, arguments);
  va_end(arguments);
  siglongjmp(escape, 1);
}

inline void wait(State state, unsigned mask, Place place) {
  Thread& thread = block.threads[current];
  thread.state = state;
  thread.mask = mask;
  thread.place = place;
  Fiber::switch_between(thread.fiber, scheduler);
}

inline void block_barrier(Place place) { wait(State::AT_BLOCK_BARRIER, 0, place); }
inline void warp_barrier(unsigned mask, Place place) { wait(State::AT_WARP_BARRIER, mask, place); }

inline void fiber_main() {
  run_thread();
  wait(State::RETURNED, 0, Place());
  abort();  // nobody resumes it
}

inline int first_of_warp(int warp) { return warp * warpSize; }
inline int lanes_of_warp(int warp) { return std::min(warpSize, block.num_threads - first_of_warp(warp)); }

inline bool can_go_on(int warp) {
  const Thread* lane = &block.threads[first_of_warp(warp)];
  return std::any_of(lane, lane + lanes_of_warp(warp), [](const Thread& t) { return t.state == State::READY; });
}

inline void run_ready_lanes(int warp) {
  for (int lane : schedule.permutation(lanes_of_warp(warp))) {
    Thread& thread = block.threads[first_of_warp(warp) + lane];
    if (thread.state != State::READY) continue;
    current = first_of_warp(warp) + lane;
    threadIdx = thread.index;
    Fiber::switch_between(scheduler, thread.fiber);
  }
}

// Lets go on all lanes of a warp whose companions, named by their masks, wait at the same place.
inline void release_lanes(int warp) {
  Thread* lanes = &block.threads[first_of_warp(warp)];
  const int count = lanes_of_warp(warp);
  const auto meets = [&](const Thread& a, int other) {
    const Thread& b = lanes[other];
    return other < count && b.state == State::AT_WARP_BARRIER && b.mask == a.mask && same_place(a.place, b.place);
  };
  for (int i = 0; i < count; i++) {
    if (lanes[i].state != State::AT_WARP_BARRIER) continue;
    const unsigned mask = lanes[i].mask;
    bool complete = true;
    for (int j = 0; j < warpSize && complete; j++) complete = !(mask >> j & 1) || meets(lanes[i], j);
    if (!complete) continue;
    for (int j = 0; j < count; j++)
      if (mask >> j & 1) lanes[j].state = State::READY;
  }
}

inline bool release_block() {
  Thread* const first = block.threads.data();
  Thread* const last = first + block.num_threads;
  const auto at_barrier = [&](const Thread& t) {
    return t.state == State::AT_BLOCK_BARRIER && same_place(t.place, first->place);
  };
  if (!std::all_of(first, last, at_barrier)) return false;
  std::for_each(first, last, [](Thread& t) { t.state = State::READY; });
  return true;
}

// Nothing can go on: say who waits where.
[[noreturn]] inline void fail_stuck() {
  struct Group {
    const Thread* example;
    int number, count;
  };
  std::vector<Group> groups;
  for (int i = 0; i < block.num_threads; i++) {
    const Thread& thread = block.threads[i];
    const auto alike = [&](const Group& g) {
      const bool returned = thread.state == State::RETURNED && g.example->state == State::RETURNED;
      return returned || (thread.state == g.example->state && thread.mask == g.example->mask &&
                          same_place(thread.place, g.example->place));
    };
    const auto group = std::find_if(groups.begin(), groups.end(), alike);
    if (group == groups.end()) groups.push_back({&thread, i, 1});
    else group->count++;
  }
  const bool lanes = std::any_of(groups.begin(), groups.end(),
                                 [](const Group& g) { return g.example->state == State::AT_WARP_BARRIER; });
  char text[1024];
  int length = snprintf(text, sizeof text, "%s:", lanes ? "lanes of a warp wait for lanes that do not come"
                                                        : "threads do not meet at one barrier");
  for (const Group& group : groups) {
    const size_t room = sizeof text - length;
    const Thread& t = *group.example;
    const char* comma = &group == &groups.front() ? "" : ",";
    if (room < 128) break;
    if (t.state == State::RETURNED)
      length += snprintf(text + length, room, "%s %d returned", comma, group.count);
    else if (t.state == State::AT_BLOCK_BARRIER)
      length += snprintf(text + length, room, "%s %d wait at __syncthreads %s:%u", comma, group.count, file_of(t.place),
                         t.place.line());
    else
      length += snprintf(text + length, room, "%s %d wait (mask 0x%x) at %s:%u", comma, group.count, t.mask,
                         file_of(t.place), t.place.line());
    length += snprintf(text + length, sizeof text - length, " (e.g. thread %d)", group.number);
  }
  fail("%s", text);
}

inline void run_block() {
  prepare_threads();
  for (int i = 0; i < block.num_threads; i++) block.threads[i].fiber.start(fiber_main);
  for (;;) {
    bool ran = false;
    for (int warp : schedule.permutation(static_cast<int>(block.warps.size()))) {
      while (can_go_on(warp)) {
        run_ready_lanes(warp);
        release_lanes(warp);
        ran = true;
        if (schedule.order == RANDOM && schedule.random() % 2) break;  // another warp's turn, before any barrier
      }
    }
    if (ran || release_block()) continue;
    const auto returned = [](const Thread& t) { return t.state == State::RETURNED; };
    if (std::all_of(block.threads.begin(), block.threads.begin() + block.num_threads, returned)) return;
    fail_stuck();
  }
}

}  // namespace emulation
