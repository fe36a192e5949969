// Parallel loops on torch's own thread pool, and scratch memory for them.
#pragma once

#include <cstdint>
#include <cstdlib>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../kernels.h"

namespace pggan {

// The signature of torch_parallel_for, a C function that libtorch_cpu exports (torch >= 2.10).
using ParallelFor = int (*)(int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void*),
                            void* context);

// Defined and set by csrc/bind/cpu_module.cpp; null: loops run serially.
extern ParallelFor parallel_for;

namespace PGGAN_ISA {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t maximum(int64_t a, int64_t b) { return a > b ? a : b; }

// A large page: the first touch of a small one costs as much as writing it.
constexpr size_t LARGE_PAGE = size_t(2) << 20;

inline void use_large_pages(void* memory, size_t bytes) {
#if defined(__linux__)
  const auto first = (reinterpret_cast<uintptr_t>(memory) + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
  const auto last = (reinterpret_cast<uintptr_t>(memory) + bytes) / LARGE_PAGE * LARGE_PAGE;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // only advice
#else
  (void)memory, (void)bytes;
#endif
}

// Memory for the length of one call; false where there is none to be had. Never throws. Its size is the exact one, not
// a multiple of 64 as aligned_alloc wants it, so that AddressSanitizer sees its end.
template <class E>
struct Scratch {
  E* data;
  explicit Scratch(int64_t count) {
    const size_t bytes = static_cast<size_t>(maximum(count, 1)) * sizeof(E);
    void* memory;
    const bool given = posix_memalign(&memory, bytes < 2 * LARGE_PAGE ? 64 : LARGE_PAGE, bytes) == 0;
    data = given ? static_cast<E*>(memory) : nullptr;
    if (given) use_large_pages(memory, bytes);
  }
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  explicit operator bool() const { return data != nullptr; }
};

// A division of `units` into pieces that does not depend on the number of threads, so that sums that are formed per
// chunk and then added in order are the same whatever runs them.
struct Chunks {
  static constexpr int64_t LEAST_ELEMENTS = 16384;
  int64_t units, size, count;
  bool parallel;

  Chunks(int64_t units_, int64_t elements_per_unit, int64_t most_chunks = 64, int64_t least_units = 1) : units(units_) {
    size = maximum(ceil_div(LEAST_ELEMENTS, maximum(elements_per_unit, 1)), ceil_div(units, most_chunks));
    size = maximum(size, least_units);
    count = ceil_div(units, size);
    // at::internal::GRAIN_SIZE: torch's elementwise ops run serially up to here. Threads gain nothing there, and in a
    // forked child, where the parent's pool is gone and a parallel loop waits for it forever, torch's small ops run on.
    constexpr int64_t most_serial_elements = 32768;
    parallel = count > 1 && units * elements_per_unit > most_serial_elements;
  }

  // body(chunk, begin, end) for every chunk.
  template <class Body>
  int run(const Body& body) const {
    return each_range([&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) body(i, i * size, minimum((i + 1) * size, units));
      return OK;
    });
  }

  // body(memory, chunk, begin, end), with memory for `elements` of E, zeros at first, of the thread that runs it.
  template <class E, class Body>
  int run_with(int64_t elements, const Body& body) const {
    return each_range([&](int64_t first, int64_t last) {
      const Scratch<E> memory(elements);
      if (!memory) return NO_MEMORY;
      for (int64_t j = 0; j < elements; ++j) memory.data[j] = E(0);
      for (int64_t i = first; i < last; ++i) body(memory.data, i, i * size, minimum((i + 1) * size, units));
      return OK;
    });
  }

 private:
  // body(first, last) -> Status for ranges of chunks, in parallel.
  template <class Body>
  int each_range(const Body& body) const {
    struct Context {
      const Body& body;
      int status;
    } context{body, OK};
    const auto some = [](int64_t first, int64_t last, void* data) {
      auto* context = static_cast<Context*>(data);
      if (const int status = context->body(first, last)) __atomic_store_n(&context->status, status, __ATOMIC_RELAXED);
    };
    if (parallel && parallel_for) {
      if (parallel_for(0, count, 1, some, &context) != 0) return PARALLEL_FAILED;
    } else {
      some(0, count, &context);
    }
    return context.status;
  }
};

// Rounds up to whole cache lines, so that two threads never write to the same one, and to an odd number of them:
// rows that lie a multiple of 4096 bytes apart make loads of one wait for stores to the other.
template <class E>
constexpr int64_t padded(int64_t count) {
  constexpr int64_t line = 64 / sizeof(E);
  return (ceil_div(count, line) | 1) * line;
}

}  // namespace PGGAN_ISA
}  // namespace pggan
