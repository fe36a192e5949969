// Convolutions, 3x3 with "none", "up" and "down" or 1x1, and their input gradients, by tiles (tiled_conv.h).
#include "planes.h"
#include "tiled_conv.h"

namespace pggan::PGGAN_ISA {
namespace {

template <class Form, class T, class A>
int run(const TiledConv& a) {
  Convolution<Form, T, T, A> conv(a);
  if (int status = conv.prepare()) return status;
  const auto x = Image<const T>::whole(static_cast<const T*>(a.x), a.h, a.w, a.in_channels);
  const auto y = Image<T>::whole(static_cast<T*>(a.y), conv.h, conv.w, a.out_channels);
  const Chunks chunks = tile_chunks(conv.grid, Form::POINTS * Form::POINTS * (a.in_channels + a.out_channels));
  return chunks.run_with<A>(conv.memory(), [&](A* memory, int64_t, int64_t begin, int64_t end) {
    conv.tiles(x, y, static_cast<A*>(a.r), begin, end, memory);
  });
}

}  // namespace

int tiled_conv(const TiledConv& a) {
  if (a.n * a.h * a.w * a.in_channels * a.out_channels == 0) return OK;
  return dispatch(a.dtype, [&](auto t) {
    using T = typename decltype(t)::T;
    const InRows<T> x(a.x, a.x_planes, a.n, a.in_channels, a.h * a.w);
    const InRows<T> y(a.y, a.y_planes, a.n, a.out_channels, resampled_pixels(a.resample, a.h * a.w));
    if (!x || !y) return static_cast<int>(NO_MEMORY);
    TiledConv in_rows = a;
    in_rows.x = x.read();
    in_rows.y = y.data();
    const int status = with_form(a.k, a.resample, a.large_tiles, [&](auto form) {
      return run<decltype(form), T, typename decltype(t)::A>(in_rows);
    });
    y.write();
    return status;
  });
}

int tiled_weight(const TiledConv& a) {
  return dispatch(a.dtype, [&](auto t) {
    return with_form(a.k, a.resample, a.large_tiles, [&](auto form) {
      return TransformedWeights<decltype(form), typename decltype(t)::A>(a).transform(a);
    });
  });
}

}  // namespace pggan::PGGAN_ISA
