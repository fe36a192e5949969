// What was launched, for Python. Kernels are told by their offset in the module, which its symbol table names.
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace recorder {

using Dim = std::tuple<unsigned, unsigned, unsigned>;
// File, kernel, grid, block, bytes of dynamic shared memory, and the most that cudaFuncSetAttribute has asked for.
using Launch = std::tuple<std::string, uintptr_t, Dim, Dim, size_t, int>;

std::vector<Launch> launches;
std::map<const void*, int> opted;
int multiprocessors = 1, shared_block = 48 << 10, shared_multiprocessor = 48 << 10;

uintptr_t offset(const void* kernel) {
  Dl_info info{};
  dladdr(kernel, &info);
  return reinterpret_cast<uintptr_t>(kernel) - reinterpret_cast<uintptr_t>(info.dli_fbase);
}

void note(const char* file, const void* kernel, dim3 grid, dim3 block, size_t shared) {
  const auto found = opted.find(kernel);
  const int most = found == opted.end() ? 48 << 10 : found->second;  // what CUDA gives unasked
  launches.push_back({file, offset(kernel), {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared, most});
}

cudaError_t opt_in(const void* kernel, cudaFuncAttribute what, int value) {
  if (what != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value > shared_block) return cudaErrorInvalidValue;
  opted[kernel] = value < 48 << 10 ? 48 << 10 : value;
  return cudaSuccess;
}

cudaError_t attribute(int* value, cudaDeviceAttr what) {
  switch (what) {
    case cudaDevAttrMultiProcessorCount: *value = multiprocessors; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = shared_block; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = shared_multiprocessor; return cudaSuccess;
    default: return cudaErrorInvalidValue;  // a launcher asks for more than the recorder knows
  }
}

}  // namespace recorder

void bind_emulator(py::module_ m) {
  using namespace recorder;
  m.def("chip", [](int count, int block, int multiprocessor) {
    multiprocessors = count;
    shared_block = block;
    shared_multiprocessor = multiprocessor;
  });
  m.def("take", [] { return std::exchange(launches, {}); });
}
