// Fibers: functions with stacks of their own, between which one core is handed over by hand.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <new>

#if !defined(__x86_64__) || defined(EMULATION_UCONTEXT)
#include <ucontext.h>
#endif

namespace emulation {

constexpr size_t STACK_BYTES = 128 * 1024;
constexpr size_t STACK_GUARD = 4096;

// A stack whose lowest page faults, so that too many local variables are an error and not a corruption.
class Stack {
 public:
  char* base() {
    if (!pages_) {
      void* pages = mmap(nullptr, STACK_GUARD + STACK_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (pages == MAP_FAILED || mprotect(pages, STACK_GUARD, PROT_NONE)) throw std::bad_alloc();
      pages_ = static_cast<char*>(pages);
    }
    return pages_ + STACK_GUARD;
  }
  bool guards(const void* address) const {
    const char* byte = static_cast<const char*>(address);
    return pages_ && byte >= pages_ && byte < pages_ + STACK_GUARD;
  }

 private:
  char* pages_ = nullptr;  // kept until the process ends: the next launch needs it again
};

#if defined(__x86_64__) && !defined(EMULATION_UCONTEXT)

// Pushes the registers that a function must preserve, stores the stack pointer, and does the reverse with another stack.
extern "C" void emulation_switch_stack(void** saved_stack_pointer, void* stack_pointer);
asm(R"(
.text
.local emulation_switch_stack
.type emulation_switch_stack, @function
emulation_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

class Fiber {
 public:
  void start(void (*entry)()) {
    constexpr int preserved_registers = 6;
    void** top = reinterpret_cast<void**>(stack_.base() + STACK_BYTES);
    *--top = nullptr;  // where entry would return to; it never does
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < preserved_registers; i++) *--top = nullptr;
    stack_pointer_ = top;
  }
  static void switch_between(Fiber& from, Fiber& to) { emulation_switch_stack(&from.stack_pointer_, to.stack_pointer_); }
  bool guards(const void* address) const { return stack_.guards(address); }

 private:
  Stack stack_;
  void* stack_pointer_ = nullptr;
};

#else  // other processors: the C library's contexts, slower because they also save the signal mask

class Fiber {
 public:
  void start(void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_.base();
    context_.uc_stack.ss_size = STACK_BYTES;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  static void switch_between(Fiber& from, Fiber& to) { swapcontext(&from.context_, &to.context_); }
  bool guards(const void* address) const { return stack_.guards(address); }

 private:
  Stack stack_;
  ucontext_t context_ = {};
};

#endif

}  // namespace emulation
