// Launching a kernel from outside: arguments in, the grid's blocks one after another, results or one message out.
//
// EMULATED_KERNEL(name) makes a function emulation_launch_<name> of C for it; emulation/build.py calls it.
#pragma once

#include <csignal>
#include <deque>
#include <tuple>
#include <utility>

#include "block.cuh"

extern "C" {

enum EmulationArgumentKind { EMULATION_VALUE = 0, EMULATION_INPUT = 1, EMULATION_OUTPUT = 2 };

struct EmulationArgument {
  void* data;      // of a value, or of an array
  uint64_t bytes;  // its size
  int32_t kind;    // an array is INPUT if the kernel's pointer is const; otherwise it is copied back
  const char* name;
};

struct EmulationRequest {
  uint32_t grid[3], block[3];
  uint64_t shared_bytes;
  int32_t order;
  uint32_t seed;
  int32_t num_arguments;
  const EmulationArgument* arguments;
};

struct EmulationReport {
  char message[2048];
  uint64_t instruction;  // where a fault happened, as an offset into the library; 0 if it was not a fault
};

}  // extern "C"

namespace emulation {

// The kernel's parameters: an array is its guarded copy, a value its bytes.
template <class T>
T unpack(const EmulationArgument& argument, const GuardedBuffer& copy) {
  T value;
  if constexpr (std::is_pointer_v<T>) {
    value = reinterpret_cast<T>(copy.data());
  } else {
    if (argument.bytes != sizeof(T)) fail("argument %s has %llu bytes, the parameter %zu", argument.name,
                                          static_cast<unsigned long long>(argument.bytes), sizeof(T));
    memcpy(&value, argument.data, sizeof value);
  }
  return value;
}

// A copy of each array argument; nothing for a value.
using Copies = std::deque<GuardedBuffer>;

inline void copy_arrays(const EmulationRequest& request, Copies& copies) {
  for (int i = 0; i < request.num_arguments; i++) {
    const EmulationArgument& argument = request.arguments[i];
    if (argument.kind == EMULATION_VALUE) {
      copies.emplace_back();
      continue;
    }
    copies.emplace_back(argument.bytes);
    if (argument.bytes) memcpy(copies.back().data(), argument.data, argument.bytes);
  }
}

// A kernel and what it is called with.
template <class... Parameters>
struct Call {
  void (*kernel)(Parameters...);
  std::tuple<Parameters...> values;

  template <size_t... I>
  Call(void (*kernel)(Parameters...), const EmulationRequest& request, const Copies& copies, std::index_sequence<I...>)
      : kernel(kernel), values{unpack<Parameters>(request.arguments[I], copies[I])...} {}

  static void run(const void* self) {
    const Call& call = *static_cast<const Call*>(self);
    std::apply(call.kernel, call.values);
  }
};

inline void run_grid(const EmulationRequest& request, const Copies& copies) {
  const int num_blocks = gridDim.x * gridDim.y * gridDim.z;
#ifdef EMULATION_THREADS
  std::vector<int> numbers(num_blocks);
  for (int i = 0; i < num_blocks; i++) numbers[i] = i;
#else
  const std::vector<int> numbers = schedule.permutation(num_blocks);
#endif
  for (int number : numbers) {
    blockIdx = {number % gridDim.x, number / gridDim.x % gridDim.y, number / (gridDim.x * gridDim.y)};
    poison_shared_memory();
    run_block();
    if (!block.dynamic_shared->intact()) fail("writes beyond the ends of dynamic shared memory");
    for (int i = 0; i < request.num_arguments; i++)
      if (!copies[i].intact()) fail("writes beyond the ends of argument %s", request.arguments[i].name);
  }
}

#ifndef EMULATION_THREADS

// A fault in a kernel: noted in the handler, which runs on a stack of its own, and told by the launch.
struct Fault {
  int signal;
  const char* address;
  uint64_t instruction;
};
inline Fault fault;
inline char handler_stack[64 * 1024];

inline void on_fault(int signal, siginfo_t* info, void* context) {
  fault = {signal, static_cast<const char*>(info->si_addr), 0};
#if defined(__x86_64__)
  fault.instruction = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
  fault.instruction = static_cast<ucontext_t*>(context)->uc_mcontext.pc;
#else
  (void)context;
#endif
  siglongjmp(escape, 1);
}

class FaultHandler {
 public:
  FaultHandler() {
    stack_t own = {};
    own.ss_sp = handler_stack;
    own.ss_size = sizeof handler_stack;
    sigaltstack(&own, &old_stack_);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < 3; i++) sigaction(SIGNALS[i], &action, &old_actions_[i]);
  }
  ~FaultHandler() {
    for (int i = 0; i < 3; i++) sigaction(SIGNALS[i], &old_actions_[i], nullptr);
    sigaltstack(&old_stack_, nullptr);
  }

 private:
  static constexpr int SIGNALS[3] = {SIGSEGV, SIGBUS, SIGFPE};
  stack_t old_stack_;
  struct sigaction old_actions_[3];
};

inline void describe_fault(const EmulationRequest& request, const Copies& copies, char* text, size_t room) {
  if (fault.signal == SIGFPE) {
    snprintf(text, room, "divides an integer by zero");
    return;
  }
  if (block.dynamic_shared->guards(fault.address)) {
    snprintf(text, room, "reads or writes at byte %td of dynamic shared memory, which has %zu",
             fault.address - block.dynamic_shared->data(), block.dynamic_shared->bytes());
    return;
  }
  for (int i = 0; i < request.num_arguments; i++) {
    if (!copies[i].guards(fault.address)) continue;
    snprintf(text, room, "reads or writes at byte %td of argument %s, which has %zu", fault.address - copies[i].data(),
             request.arguments[i].name, copies[i].bytes());
    return;
  }
  if (block.threads[current].fiber.guards(fault.address)) {
    snprintf(text, room, "needs more than %zu KiB of stack in a thread", STACK_BYTES / 1024);
    return;
  }
  snprintf(text, room, "reads or writes at an address of no argument (%p)", static_cast<const void*>(fault.address));
}

#endif

extern "C" const char __ehdr_start[] __attribute__((visibility("hidden")));  // the library's first byte, by the linker

template <class... Parameters>
int launch(void (*kernel)(Parameters...), const EmulationRequest& request, EmulationReport& report) {
  gridDim = dim3(request.grid[0], request.grid[1], request.grid[2]);
  blockDim = dim3(request.block[0], request.block[1], request.block[2]);
  block.num_threads = blockDim.x * blockDim.y * blockDim.z;
  GuardedBuffer dynamic_shared(request.shared_bytes);
  block.dynamic_shared = &dynamic_shared;
  Copies copies;
  copy_arrays(request, copies);
#ifndef EMULATION_THREADS
  schedule.order = static_cast<Order>(request.order);
  schedule.state = request.seed;
  fault = {};
  threadIdx = {};
  const FaultHandler handler;
  if (sigsetjmp(escape, 1)) {  // fail, or a fault, comes back here
    char text[sizeof failure];
    if (fault.signal) {
      describe_fault(request, copies, text, sizeof text);
      report.instruction = fault.instruction - reinterpret_cast<uint64_t>(__ehdr_start);
    } else {
      memcpy(text, failure, sizeof text);
    }
    snprintf(report.message, sizeof report.message, "%.1800s; block (%u, %u, %u), thread (%u, %u, %u)", text, blockIdx.x,
             blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    return 1;
  }
#endif
  if (static_cast<size_t>(request.num_arguments) != sizeof...(Parameters))
    fail("got %d arguments, has %zu parameters", request.num_arguments, sizeof...(Parameters));
  const Call<Parameters...> call(kernel, request, copies, std::index_sequence_for<Parameters...>());
  block.kernel = call.run;
  block.arguments = &call;
  run_grid(request, copies);
  for (int i = 0; i < request.num_arguments; i++) {
    const EmulationArgument& argument = request.arguments[i];
    if (argument.kind == EMULATION_OUTPUT && argument.bytes) memcpy(argument.data, copies[i].data(), argument.bytes);
  }
  (void)report;
  return 0;
}

}  // namespace emulation

#define EMULATED_KERNEL(name)                                                        \
  extern "C" __attribute__((visibility("default"))) int emulation_launch_##name(     \
      const EmulationRequest* request, EmulationReport* report) {                    \
    return emulation::launch(name, *request, *report);                               \
  }
