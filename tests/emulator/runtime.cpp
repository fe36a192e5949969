// Launches, and the functions of the CUDA runtime that launchers call.
#include <cuda_runtime.h>

#include <unordered_map>

#include "machine.h"
#include "shadow.h"
#include "traffic.h"

namespace cusim {

std::vector<Launched> launches;

namespace {

constexpr int UNASKED_SHARED = 48 * 1024;  // what a kernel has without asking for more

cudaError_t last_error = cudaSuccess;
std::unordered_map<const void*, int> allowed_shared;

std::string text_of(dim3 d) { return text("%ux%ux%u", d.x, d.y, d.z); }

// Why the device would refuse this launch; empty where it would not.
std::string refusal(const void* kernel, dim3 grid, dim3 block, size_t shared) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads < 1 || threads > 1024 || block.z > 64) return "a block of " + text_of(block) + " threads";
  if (grid.x < 1 || grid.y < 1 || grid.z < 1) return "a grid of " + text_of(grid) + " blocks";
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return "a grid of " + text_of(grid) + " blocks";
  const auto asked = allowed_shared.find(kernel);
  const int most = asked == allowed_shared.end() ? UNASKED_SHARED : asked->second;
  if (shared > size_t(most)) return text("%zu bytes of dynamic shared memory, %d are allowed", shared, most);
  return "";
}

void refuse(const std::string& why) {
  note(Fault::launch, why);
  last_error = cudaErrorInvalidConfiguration;
}

}  // namespace

void run(const Call& call, dim3 grid, dim3 block, size_t shared) {
  if (failed) return;  // as on a device: after a fault nothing runs
  if (const std::string why = refusal(call.kernel, grid, block, shared); !why.empty()) return refuse(why);
  run_grid(call, grid, block, shared);
  current = nullptr;
  launches.push_back({offset_of(static_cast<const char*>(call.kernel) + 1), take_launch_traffic()});
  const size_t fixed = static_shared_bytes(), most = shared > UNASKED_SHARED ? settings.shared_limit : UNASKED_SHARED;
  if (shared + fixed > most) refuse(text("%zu bytes of shared memory and %zu static, of %zu", shared, fixed, most));
  if (failed) last_error = cudaErrorLaunchFailure;
}

}  // namespace cusim

extern "C" {

cudaError_t cudaGetLastError() {
  const cudaError_t error = cusim::last_error;
  cusim::last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return cusim::last_error; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidValue: return "invalid argument";
    default: return "a fault that the emulator saw";
  }
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int) { return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || value > cusim::settings.shared_limit) return cusim::last_error = cudaErrorInvalidValue;
  int& allowed = cusim::allowed_shared[kernel];
  if (value < allowed && allowed <= cusim::settings.shared_limit) {  // beyond it: of an emulated device before this one
    cusim::refuse(cusim::text("%d bytes allowed after %d, with which another thread may launch", value, allowed));
    return cusim::last_error;
  }
  allowed = value;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = cusim::settings.multiprocessors; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = cusim::settings.shared_limit; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = cusim::settings.shared_limit + 1024; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = cusim::UNASKED_SHARED; return cudaSuccess;
    case cudaDevAttrWarpSize: *value = 32; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; return cudaSuccess;
    default: return cudaErrorInvalidValue;
  }
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  *blocks = 1;
  return cudaSuccess;
}

}  // extern "C"
