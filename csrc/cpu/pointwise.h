// The scaled weights of a 1x1 convolution to or from RGB.
#pragma once

#include "element.h"
#include "parallel.h"

namespace pggan::PGGAN_ISA {

// weight [rows, c] in at least MAX_IMAGE_CHANNELS rows, the missing ones zero; bias [rows].
template <class A>
struct Weights {
  int64_t c;
  Scratch<A> memory;
  A *weight, *bias;
  int status;

  Weights(const Pointwise& p, int64_t rows, int64_t c_) : c(c_), memory(all(rows) * (c_ + 1)), status(NO_MEMORY) {
    if (!memory) return;
    weight = memory.data;
    bias = weight + all(rows) * c;
    std::memset(weight, 0, all(rows) * c * sizeof(A));
    status = load_parameter(p.weight, p.weight_dtype, rows * c, p.weight_scale, weight);
    if (status == OK) status = load_parameter(p.bias, p.bias_dtype, rows, p.bias_scale, bias);
  }
  explicit operator bool() const { return static_cast<bool>(memory); }

 private:
  static int64_t all(int64_t rows) { return maximum(rows, MAX_IMAGE_CHANNELS); }
};

template <class T, class A>
inline void store_one(T* dst, A value) {
  if constexpr (std::is_same_v<T, A>)
    *dst = value;
  else
    narrow(value, *dst);
}

}  // namespace pggan::PGGAN_ISA
