// Images in planes, [N, C, H, W], as rows for the length of one call: for small ones, which torch copies in more time
// than a kernel takes.
#pragma once

#include "parallel.h"

namespace pggan::PGGAN_ISA {

template <class T>
class InRows {
 public:
  // Of an image of n samples, c channels and that many pixels; `planes`: it is in planes, else in rows already.
  InRows(const void* image, bool planes, int64_t n, int64_t c, int64_t pixels)
      : image_(static_cast<T*>(const_cast<void*>(image))), planes_(planes), n_(n), c_(c), pixels_(pixels),
        memory_(planes ? n * c * pixels : 0) {}

  explicit operator bool() const { return static_cast<bool>(memory_); }

  T* data() const { return planes_ ? memory_.data : image_; }

  // Its pixels, before they are read.
  T* read() const {
    if (planes_) each([](T& plane, T& row) { row = plane; });
    return data();
  }

  // Into the planes, after `data` was written.
  void write() const {
    if (planes_) each([](T& plane, T& row) { plane = row; });
  }

 private:
  T* image_;
  bool planes_;
  int64_t n_, c_, pixels_;
  Scratch<T> memory_;

  template <class F>
  void each(const F& f) const {
    for (int64_t n = 0; n < n_; ++n)
      for (int64_t p = 0; p < pixels_; ++p)
        for (int64_t c = 0; c < c_; ++c)
          f(image_[(n * c_ + c) * pixels_ + p], memory_.data[(n * pixels_ + p) * c_ + c]);
  }
};

}  // namespace pggan::PGGAN_ISA
