// Memory whose ends are guarded, and the poison that unwritten memory holds.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace emulation {

// Every float, double and bfloat16 made of these bytes is NaN, and every index made of them is far outside.
constexpr int POISON = 0xFF;
constexpr size_t PAGE = 4096;
constexpr size_t ALIGNMENT = 16;  // of the widest load, float4

inline size_t rounded_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Bytes between two pages that fault when touched. The end lies at the second page, up to alignment; the gaps that
// remain on both sides are poisoned, and `intact` tells whether they still are.
class GuardedBuffer {
 public:
  GuardedBuffer() = default;  // of nothing

  explicit GuardedBuffer(size_t bytes) : bytes_(bytes) {
    const size_t end = rounded_up(bytes, ALIGNMENT);
#ifdef EMULATION_SANITIZED
    // The sanitizers put guards of their own around what comes from the heap, to the byte.
    data_ = static_cast<char*>(::operator new(std::max<size_t>(bytes, 1), std::align_val_t(ALIGNMENT)));
    (void)end;
#else
    inner_ = std::max(rounded_up(end, PAGE), PAGE);
    void* pages = mmap(nullptr, inner_ + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) throw std::bad_alloc();
    pages_ = static_cast<char*>(pages);
    if (mprotect(pages_ + PAGE, inner_, PROT_READ | PROT_WRITE)) throw std::bad_alloc();
    data_ = pages_ + PAGE + inner_ - end;
    memset(pages_ + PAGE, POISON, data_ - (pages_ + PAGE));
#endif
    poison();
  }

  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  ~GuardedBuffer() {
#ifdef EMULATION_SANITIZED
    ::operator delete(data_, std::align_val_t(ALIGNMENT));
#else
    if (pages_) munmap(pages_, inner_ + 2 * PAGE);
#endif
  }

  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  void poison() {
#ifdef EMULATION_SANITIZED
    memset(data_, POISON, bytes_);
#else
    memset(data_, POISON, rounded_up(bytes_, ALIGNMENT));
#endif
  }

  bool contains(const void* address, size_t bytes) const {
    const char* first = static_cast<const char*>(address);
    return first >= data_ && first + bytes <= data_ + bytes_;
  }

#ifdef EMULATION_SANITIZED
  bool intact() const { return true; }
  bool guards(const void*) const { return false; }
#else
  bool intact() const {
    const auto poisoned = [](char byte) { return byte == static_cast<char>(POISON); };
    if (!pages_) return true;
    return std::all_of(pages_ + PAGE, data_, poisoned) &&
           std::all_of(data_ + bytes_, data_ + rounded_up(bytes_, ALIGNMENT), poisoned);
  }
  // Whether an address lies in one of the two pages at the ends.
  bool guards(const void* address) const {
    const char* byte = static_cast<const char*>(address);
    return pages_ && byte >= pages_ && byte < pages_ + inner_ + 2 * PAGE && !(byte >= data_ && byte < data_ + bytes_);
  }
#endif

 private:
  size_t bytes_ = 0, inner_ = 0;
  char* pages_ = nullptr;
  char* data_ = nullptr;
};

}  // namespace emulation
