// What the driver's cases are written with. A case is run twice from the same numbers, serially and with every chunk in
// a thread of its own, and has to leave the same bits: results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../../csrc/kernels.h"

namespace driver {

using namespace pggan;

constexpr int64_t SLOTS = sizeof(Kernels) / sizeof(int (*)());

inline int accumulator(int dtype) { return dtype == F64 ? F64 : F32; }

// The memory of one run. The numbers depend on the order of the calls alone; every tensor is an allocation of its own
// and of its exact size, so that AddressSanitizer sees its ends.
class Tensors {
 public:
  void* in(int dtype, int64_t n) { return add(dtype, n, true, false); }      // numbers in [-1, 1)
  void* out(int dtype, int64_t n) { return add(dtype, n, false, true); }     // compared afterwards
  void* in_out(int dtype, int64_t n) { return add(dtype, n, true, true); }   // both
  const float* alpha() { return static_cast<const float*>(in(F32, 1)); }
  uint8_t* mask(int64_t n);  // random bits
  uint8_t* mask_out(int64_t n) { return memory(n, true); }

  bool same_results(const Tensors& other) const;

 private:
  struct Memory {
    std::unique_ptr<uint8_t[]> data;
    int64_t size;
    bool result;
  };
  std::vector<Memory> all_;
  uint64_t seed_ = 0;

  uint64_t random();
  uint8_t* memory(int64_t size, bool result);
  void* add(int dtype, int64_t n, bool filled, bool result);
};

class Driver {
 public:
  std::string how;  // the variant that is run, for messages
  std::string without;  // a kernel to leave out

  // A kernel of the table on the arguments that make(Tensors&) gives.
  template <class Args, class Make>
  void run(const char* name, int (*Kernels::*kernel)(const Args&), const Make& make) {
    if (name == without) return;
    const auto* first = reinterpret_cast<const char*>(&table_);
    called_[(reinterpret_cast<const char*>(&(table_.*kernel)) - first) / static_cast<int64_t>(SLOT)] = true;
    run(name, table_.*kernel, make);
  }

  template <class Args, class Make>
  void run(const char* name, int (*kernel)(const Args&), const Make& make) {
    Tensors serial, threaded;
    const Args one = make(serial), other = make(threaded);
    use_threads(false);
    int status = kernel(one);
    use_threads(true);
    if (status == OK) status = kernel(other);
    judge(name, status, serial.same_results(threaded));
  }

  // Whether all was well; prints how much there was, and which slots of the table no case filled in.
  bool finish(bool all_kernels) const;

 private:
  static constexpr size_t SLOT = sizeof(int (*)());
  static const Kernels& table_;
  bool called_[SLOTS] = {};
  int64_t runs_ = 0;
  bool failed_ = false;

  static void use_threads(bool on);
  void judge(const char* name, int status, bool same);
};

void run_kernels(Driver& d);                                         // cases.cpp
bool run_fault(Driver& d, const std::string& name, bool correct);  // faults.cpp; false: there is no such fault

}  // namespace driver
