// Kernels that only the tests of the emulator know: seeded faults beside their correct twins, and probes of single
// operations.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace seeded {

constexpr int COUNT = 128;

struct Memory {
  const float* in;  // COUNT numbers
  float* out;       // COUNT that nobody has written
  float* zeros;     // COUNT zeros
};

constexpr int THREADS = 64;

template <class T>
struct List {
  const T* first;
  int count;
  const T* begin() const { return first; }
  const T* end() const { return first + count; }
};

// A launcher of the kernel with its fault, or of its correct twin.
struct Kernel {
  const char* name;
  cudaError_t (*run)(bool correct, Memory m);
};
List<Kernel> memory_faults();
List<Kernel> shared_faults();
List<Kernel> thread_faults();
List<Kernel> host_faults();  // in the build for AddressSanitizer alone, which has none of the others

// The kernel name<correct>(Memory); <false> has the fault.
#define SEEDED(name, grid, block, shared)                            \
  {                                                                  \
    #name, [](bool correct, Memory m) -> cudaError_t {               \
      if (correct) RUN(name<true>, grid, block, shared, nullptr, m); \
      else RUN(name<false>, grid, block, shared, nullptr, m);        \
      return cudaSuccess;                                            \
    }                                                                \
  }

// 32-bit words in and out: registers of lanes [32, n], rows of matrices
struct Probe {
  const char* name;
  cudaError_t (*run)(const uint32_t* in, uint32_t* out);
};
List<Probe> probes();

}  // namespace seeded
