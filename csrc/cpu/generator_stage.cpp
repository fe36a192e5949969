// A block of the generator: conv(conv_up(x)), each with its epilogue, and the image that it shows. Features go through
// a window of a few rows that stays in cache: those that a row of tiles of the second convolution reads.
#include "pointwise.h"
#include "tiled_conv.h"

namespace pggan::PGGAN_ISA {
namespace {

// From features of T to features of U, or by way of U = A to an image of T.
template <class Form, class T, class U, class A>
class Stage {
  static constexpr int64_t OUT = Form::OUT, PLACES = OUT + 4;  // rows of features between the convolutions
  static constexpr int64_t LEAST_ROWS = 32 / OUT;  // of tiles in a piece, whose neighbours' edges are computed twice

 public:
  explicit Stage(const TiledStage& a_)
      : a(a_), up(a.up), conv(a.conv), high(a.high, a.image_channels, a.conv.out_channels),
        low(a.low, a.image_channels, a.up.in_channels),
        x(Image<const T>::whole(static_cast<const T*>(a.up.x), a.up.h, a.up.w, a.up.in_channels)) {}

  int run() {
    if (int status = up.prepare()) return status;
    if (int status = conv.prepare()) return status;
    if (!high || !low) return NO_MEMORY;
    if (high.status != OK || low.status != OK) return BAD_DTYPE;
    const int64_t c = a.up.out_channels, work = padded<A>(maximum(up.memory(), conv.memory()));
    const int64_t features = padded<A>(PLACES * up.w * c), shown = a.image ? image_memory() : 0;
    const int64_t tile_rows = conv.grid.rows;
    const Chunks chunks(a.up.n * tile_rows, PLACES * up.w * c, 64, LEAST_ROWS);
    return chunks.run_with<A>(work + features + shown, [&](A* memory, int64_t, int64_t begin, int64_t end) {
      A *window = memory + work, *image = window + features;
      int64_t next = 0;  // row of tiles of the first convolution
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / tile_rows, row = unit % tile_rows;  // which reads rows of features from top on
        const int64_t top = maximum(OUT * row - 1, 0), bottom = minimum(OUT * row + OUT + 1, conv.h);
        if (unit == begin || row == 0) next = top / 2;
        for (; 2 * next < bottom; ++next)
          convolve(up, x, Image<A>::window(window, up.w, c, 2 * next, 2 * next + 2, PLACES), n, next, memory);
        second(Image<const A>::window(window, up.w, c, top, bottom, PLACES), n, row, memory, image);
      }
    });
  }

 private:
  const TiledStage& a;
  Convolution<Doubled, T, A, A> up;
  Convolution<Form, A, U, A> conv;
  Weights<A> high, low;
  Image<const T> x;

  int64_t shown_rows() const { return padded<A>(OUT * conv.w * a.conv.out_channels); }
  int64_t image_line() const { return padded<A>(a.image_channels * conv.w); }
  int64_t image_memory() const {
    return shown_rows() + 2 * image_line() + rgb_buffer<A>(maximum(a.up.in_channels, a.conv.out_channels));
  }

  template <class C, class From, class To>
  static void convolve(const C& c, const Image<const From>& from, const Image<To>& to, int64_t n, int64_t row,
                       A* memory) {
    const int64_t first = (n * c.grid.rows + row) * c.grid.columns;
    c.tiles(from, to, nullptr, first, first + c.grid.columns, memory);
  }

  // A row of tiles of the second convolution, and of the image.
  void second(const Image<const A>& between, int64_t n, int64_t row, A* memory, A* image) const {
    const int64_t c = a.conv.out_channels;
    if (!a.image)
      return convolve(conv, between, Image<U>::whole(static_cast<U*>(a.conv.y), conv.h, conv.w, c), n, row, memory);
    if constexpr (std::is_same_v<U, A>) {
      const int64_t top = OUT * row, bottom = minimum(top + OUT, conv.h);
      convolve(conv, between, Image<A>::window(image, conv.w, c, top, bottom, OUT), n, row, memory);
      A* line = image + shown_rows();
      store(image, n, row, line, line + image_line(), line + 2 * image_line());
    }
  }

  // The image of a row of tiles.
  void store(const A* rows, int64_t n, int64_t row, A* rgb, A* low_rgb, A* buffer) const {
    const bool fades = a.low.weight != nullptr;
    const Shape s{a.up.n, a.image_channels, conv.h, conv.w, a.image_channels_last};
    for (int64_t i = 0; i < minimum(OUT, conv.h - OUT * row); ++i) {
      const int64_t h = OUT * row + i;
      if (fades && i % 2 == 0) rgb_of_rows(low, x.line(n, h / 2), x.w, s.c, low_rgb, buffer);
      rgb_of_rows(high, rows + i * s.w * a.conv.out_channels, s.w, s.c, rgb, buffer);
      store_image_line(static_cast<T*>(a.image), s, n, h, rgb, fades ? low_rgb : nullptr,
                       fades ? A(clamped(a.alpha)) : A(1));
    }
  }
};

template <class Form, class T, class A>
int run(const TiledStage& a) {
  return a.image ? Stage<Form, T, A, A>(a).run() : Stage<Form, T, T, A>(a).run();
}

}  // namespace

int tiled_stage(const TiledStage& a) {
  if (a.up.n * a.up.h * a.up.w * a.up.in_channels * a.up.out_channels * a.conv.out_channels == 0) return OK;
  return dispatch(a.up.dtype, [&](auto t) {
    using T = typename decltype(t)::T;
    using A = typename decltype(t)::A;
    return a.conv.large_tiles ? run<LargeWinograd, T, A>(a) : run<Winograd, T, A>(a);
  });
}

}  // namespace pggan::PGGAN_ISA
