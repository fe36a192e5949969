// Parallel loops on torch's own thread pool, and scratch memory for them.
#pragma once

#include <cstdint>
#include <cstdlib>

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

// A division of `units` into pieces that does not depend on the number of threads, so that sums that are formed per
// chunk and then added in order are the same whatever runs them.
struct Chunks {
  int64_t units, size, count;
  bool parallel;

  Chunks(int64_t units_, int64_t elements_per_unit) : units(units_) {
    constexpr int64_t least_elements = 16384, most_chunks = 64;
    size = maximum(ceil_div(least_elements, maximum(elements_per_unit, 1)), ceil_div(units, most_chunks));
    count = ceil_div(units, size);
    // at::internal::GRAIN_SIZE: torch's elementwise ops run serially up to here. Threads gain nothing there, and in a
    // forked child, where the parent's pool is gone and a parallel loop waits for it forever, torch's small ops run on.
    constexpr int64_t most_serial_elements = 32768;
    parallel = count > 1 && units * elements_per_unit > most_serial_elements;
  }

  // body(chunk, begin, end) for every chunk.
  template <class Body>
  int run(const Body& body) const {
    struct Context {
      const Chunks& chunks;
      const Body& body;
    } context{*this, body};
    const auto some = [](int64_t first, int64_t last, void* data) {
      const auto& [chunks, body] = *static_cast<Context*>(data);
      for (int64_t i = first; i < last; ++i) body(i, i * chunks.size, minimum((i + 1) * chunks.size, chunks.units));
    };
    if (parallel && parallel_for) return parallel_for(0, count, 1, some, &context) == 0 ? OK : PARALLEL_FAILED;
    some(0, count, &context);
    return OK;
  }
};

// Memory for the length of one call; false where there is none to be had. Never throws. Its size is the exact one, not
// a multiple of 64 as aligned_alloc wants it, so that AddressSanitizer sees its end.
template <class E>
struct Scratch {
  E* data;
  explicit Scratch(int64_t count) {
    void* memory;
    const bool given = posix_memalign(&memory, 64, static_cast<size_t>(maximum(count, 1)) * sizeof(E)) == 0;
    data = given ? static_cast<E*>(memory) : nullptr;
  }
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  explicit operator bool() const { return data != nullptr; }
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
