// 3x3 convolutions, "none", "up" and "down", and their input gradients, by tiles (tiled_conv.h).
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
    return with_form(a.resample, a.large_tiles, [&](auto form) {
      return run<decltype(form), typename decltype(t)::T, typename decltype(t)::A>(a);
    });
  });
}

int tiled_weight(const TiledConv& a) {
  return dispatch(a.dtype, [&](auto t) {
    return with_form(a.resample, a.large_tiles, [&](auto form) {
      return TransformedWeights<decltype(form), typename decltype(t)::A>(a).transform(a);
    });
  });
}

}  // namespace pggan::PGGAN_ISA
