// The bias gradient of every form of bias_act's backward pass.
#pragma once

#include <cstring>

#include "parallel.h"

namespace pggan::PGGAN_ISA {

// Sums over pixels per channel: one row of doubles per slot (a chunk of the loop, or a sample), added up in order.
class BiasSums {
 public:
  BiasSums(int64_t slots, int64_t c) : slots_(slots), c_(c), rows_(slots * padded<double>(c)) {
    if (rows_ && slots) std::memset(rows_.data, 0, slots * padded<double>(c) * sizeof(double));
  }
  explicit operator bool() const { return static_cast<bool>(rows_); }

  double* of(int64_t slot) { return rows_.data + slot * padded<double>(c_); }

  template <class A>
  void add(int64_t slot, const A* row) {
    double* sums = of(slot);
    for (int64_t c = 0; c < c_; ++c) sums[c] += row[c];
  }

  template <class A>
  void finish(double bias_scale, A* db) {
    if (!db) return;
    for (int64_t c = 0; c < c_; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < slots_; ++i) sum += of(i)[c];
      db[c] = static_cast<A>(bias_scale * sum);
    }
  }

 private:
  int64_t slots_, c_;
  Scratch<double> rows_;
};

}  // namespace pggan::PGGAN_ISA
