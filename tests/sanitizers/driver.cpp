// The kernels of csrc/cpu in a program without torch and Python, for ThreadSanitizer: torch's thread pool is libgomp's,
// whose barriers it does not see, so that every loop on it would be reported as a race.
//
// usage: driver [KERNEL to leave out] | driver FAULT correct|faulty
#include "driver.h"

#include <cstdio>
#include <cstring>
#include <string>
#include <thread>

#include "../../csrc/cpu/element.h"
#include "../../csrc/cpu/parallel.h"

namespace pggan {

ParallelFor parallel_for = nullptr;

namespace {

int64_t pieces = 0;  // of the loops of one kernel

// Two chunks that share a thread race with nobody, so none do. The last one begins first: order matters to no result.
int in_threads(int64_t begin, int64_t end, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
  std::vector<std::thread> threads;
  for (int64_t i = end; i-- > begin;) threads.emplace_back(body, i, i + 1, context);
  for (std::thread& thread : threads) thread.join();
  pieces += end - begin;
  return 0;
}

}  // namespace
}  // namespace pggan

namespace driver {

const Kernels& Driver::table_ = PGGAN_ISA::kernels;

void Driver::use_threads(bool on) {
  pieces = 0;
  parallel_for = on ? in_threads : nullptr;
}

void Driver::judge(const char* name, int status, bool same) {
  ++runs_;
  const char* fault = status != OK  ? "failed"
                      : !same       ? "gives other results with threads"
                      : pieces == 0 ? "runs in one piece, so that nothing can race"
                                    : nullptr;
  if (!fault) return;
  failed_ = true;
  std::fprintf(stderr, "%s, %s: %s\n", name, how.c_str(), fault);
}

bool Driver::finish(bool all_kernels) const {
  bool all = true;
  for (int64_t i = 0; i < SLOTS && all_kernels; ++i) {
    if (!called_[i]) std::fprintf(stderr, "no case runs slot %d of Kernels\n", static_cast<int>(i));
    all = all && called_[i];
  }
  std::printf("runs: %d\n", static_cast<int>(runs_));
  return all && !failed_;
}

uint64_t Tensors::random() {  // splitmix64
  uint64_t x = seed_ += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

uint8_t* Tensors::memory(int64_t size, bool result) {
  all_.push_back({std::unique_ptr<uint8_t[]>(new uint8_t[size]), size, result});
  std::memset(all_.back().data.get(), 0xa5, size);
  return all_.back().data.get();
}

uint8_t* Tensors::mask(int64_t n) {
  uint8_t* bits = memory(n, false);
  for (int64_t i = 0; i < n; ++i) bits[i] = static_cast<uint8_t>(random());
  return bits;
}

void* Tensors::add(int dtype, int64_t n, bool filled, bool result) {
  const int64_t size = dtype == F64 ? 8 : dtype == F32 ? 4 : 2;
  uint8_t* data = memory(n * size, result);
  for (int64_t i = 0; i < n && filled; ++i) {
    const double x = static_cast<double>(random() >> 11) * 0x1p-52 - 1.0;
    const float f = static_cast<float>(x);
    PGGAN_ISA::Half half;
    PGGAN_ISA::BFloat bfloat;
    PGGAN_ISA::narrow(f, half);
    PGGAN_ISA::narrow(f, bfloat);
    const void* from = dtype == F64   ? static_cast<const void*>(&x)
                       : dtype == F32 ? static_cast<const void*>(&f)
                       : dtype == F16 ? static_cast<const void*>(&half)
                                      : static_cast<const void*>(&bfloat);
    std::memcpy(data + i * size, from, size);
  }
  return data;
}

bool Tensors::same_results(const Tensors& other) const {
  for (size_t i = 0; i < all_.size(); ++i)
    if (all_[i].result && std::memcmp(all_[i].data.get(), other.all_[i].data.get(), all_[i].size) != 0) return false;
  return true;
}

}  // namespace driver

int main(int count, char** arguments) {
  driver::Driver d;
  if (count == 3) {
    d.how = arguments[2];
    if (!driver::run_fault(d, arguments[1], d.how == "correct")) return 2;
  } else {
    if (count == 2) d.without = arguments[1];
    driver::run_kernels(d);
  }
  return d.finish(count != 3) ? 0 : 1;
}
