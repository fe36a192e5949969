// In place of the emulator's cusim.h: launches are noted and not run, on the chip that Python names.
#pragma once
#include "../../emulator/cusim.h"

namespace recorder {
void note(const char* file, const void* kernel, dim3 grid, dim3 block, size_t shared);
cudaError_t opt_in(const void* kernel, cudaFuncAttribute what, int value);
cudaError_t attribute(int* value, cudaDeviceAttr what);
}  // namespace recorder

#undef LAUNCH
#define LAUNCH(kernel, grid, block, shared, stream, ...)                                       \
  do {                                                                                         \
    (void)(stream);                                                                            \
    auto* recorded = kernel;                                                                   \
    recorder::note(__BASE_FILE__, (const void*)recorded, dim3(grid), dim3(block), shared);     \
  } while (0)
#define cudaFuncSetAttribute(kernel, what, value) recorder::opt_in((const void*)(kernel), what, value)
#define cudaDeviceGetAttribute(value, what, device) recorder::attribute(value, what)
