// The probes of tests/emulator by name, for a device: a library with the C functions below.
#include <cstring>

#include "../../csrc/cuda/launchers.h"
#include "../emulator/seeded.h"

namespace pggan::cuda {
thread_local Launch last_launch{"", {}, {}, 0};
}

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int count() { return seeded::probes().count; }

EXPORT const char* name(int i) { return seeded::probes().first[i].name; }

// Words on the current device; returns cudaSuccess when the kernel has finished.
EXPORT int run(const char* wanted, const uint32_t* in, uint32_t* out) {
  for (const seeded::Probe& probe : seeded::probes()) {
    if (std::strcmp(probe.name, wanted) != 0) continue;
    const cudaError_t launched = probe.run(in, out);
    return launched == cudaSuccess ? cudaDeviceSynchronize() : launched;
  }
  return cudaErrorInvalidValue;
}
