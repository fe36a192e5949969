// conv_weight_grad: the weight gradient of convolutions of few channels, on tensor cores, in one pass over x and dy.
//
// One of the two images is the centre; its pixel p meets pixels STRIDE * p + tap - k / 2 of the image around it:
//
//   sums[tap][a][b] = sum over p of centre[p][a] * around[STRIDE * p + tap - k / 2][b]
//
// dy is the centre, with STRIDE 2 for "down" and else 1. For "up" it is x, with STRIDE 2: the pixels that meet are
// those of "down", seen from the other side. With STRIDE 2 there are k + 1 taps a direction, for k and for two pixels
// that are averaged or alike; an element of dw is the sum of 2x2 taps. The second kernel adds these and the blocks.
//
// A block takes 32 channels of either image and consecutive tiles of the centre; its sums stay in registers. Warps
// share out the taps, and those of the same taps the pixels. The order of all sums depends on the device alone.
#include <algorithm>
#include <type_traits>

#include "tile.cuh"

namespace pggan::cuda {
namespace {

constexpr int SLICE = 32;     // channels of one image in a block
constexpr int PITCH = 40;     // elements from pixel to pixel in shared memory: fragments come without bank conflicts
constexpr int SUM_LANES = 8;  // of the second kernel: threads that share one element's sum

// Tiles [0, count) of the centre, row by row, sample by sample: `each` in a row for a block.
struct Tiles {
  int64_t count, each;
  int rows, columns;  // in one sample
};

// [blocks, taps, taps, a, b], channels padded to multiples of 16.
struct Sums {
  float* data;
  int a, b;
};

// How warps share out the work.
template <int k, int STRIDE>
struct Shares {
  static constexpr int SIDE = k + STRIDE - 1, COUNT = SIDE * SIDE;
  static constexpr int EACH = k == 3 && STRIDE == 1 ? 3 : STRIDE;  // taps of a warp, neighbours in a row
  static constexpr int GROUPS = COUNT / EACH;
  static constexpr int PARTS = GROUPS == 3 ? 2 : 8 / GROUPS;  // of the pixels
  static constexpr int THREADS = 32 * GROUPS * PARTS;
};

// Where a column lies in a row of WIDTH. With stride 2 even columns come first: those of one tap are neighbours.
template <int WIDTH, int STRIDE>
DEVICE int place(int column) {
  return STRIDE == 1 ? column : (column & 1) * (WIDTH / 2) + column / 2;
}

// A tile in shared memory: the centre's [HEIGHT, TILE_COLUMNS] pixels and those around them.
template <class T, int k, int STRIDE>
struct Layout {
  static constexpr int HEIGHT = 16 / int(STRIDE * sizeof(T)), PIXELS = HEIGHT * TILE_COLUMNS;
  static constexpr int AROUND_HEIGHT = STRIDE * HEIGHT + k - 1, AROUND_WIDTH = STRIDE * TILE_COLUMNS + k - 1;
  static constexpr int AROUND = PIXELS * PITCH, SIZE = AROUND + AROUND_HEIGHT * AROUND_WIDTH * PITCH;
};

// Fragments of K pixels from the first of them in shared memory: a [16 channels, K], b [K, 16 channels] as two of 8.
template <class P>
struct Fragments {
  using T = typename P::Element;
  static constexpr int K = STEP_BYTES / sizeof(T);

  // The lane's four registers: of 8 x 8 pixels by channels each, of which `pixels` and `channels` say where.
  static DEVICE void read(uint32_t (&raw)[4], const T* from, int pixel_step, int channel_step) {
    const int lane = threadIdx.x % 32;
    if constexpr (sizeof(T) == 2) {
      const int i = lane / 8, pixel = i / pixel_step % 2 * 8 + lane % 8, channel = i / channel_step % 2 * 8;
      ldmatrix_transposed(raw, from + pixel * PITCH + channel);
    } else {  // ldmatrix transposes 16 bits only
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int pixel = i / pixel_step % 2 * 4 + lane % 4, channel = i / channel_step % 2 * 8 + lane / 4;
        memcpy(&raw[i], from + pixel * PITCH + channel, 4);
      }
    }
  }

  static DEVICE Operand<4> read_a(const T* from) {
    uint32_t raw[4];
    read(raw, from, 2, 1);
    return P::operand(raw);
  }

  static DEVICE void read_b(Operand<2> (&out)[2], const T* from) {
    uint32_t raw[4];
    read(raw, from, 1, 2);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const uint32_t half[2] = {raw[2 * n], raw[2 * n + 1]};
      out[n] = P::operand(half);
    }
  }
};

// The block loads channels [first, first + 16 * tiles) of the rectangle of pixels from (row, column) on.
template <class T, int HEIGHT, int WIDTH, int STRIDE, int THREADS>
DEVICE void load_slice(T* to, const T* image, const Image& size, int row, int column, int first, int tiles) {
  constexpr int IN_UNIT = 16 / sizeof(T);
  const int log = (sizeof(T) == 2 ? 0 : 1) + tiles;  // of the units in a pixel
  for (int i = int(threadIdx.x); i < HEIGHT * WIDTH << log; i += THREADS) {
    const int pixel = i >> log, channel = (i & ((1 << log) - 1)) * IN_UNIT, r = pixel / WIDTH, c = pixel % WIDTH;
    T* unit = to + (r * WIDTH + place<WIDTH, STRIDE>(c)) * PITCH + channel;
    load_unit(unit, image, size, row + r, column + c, first + channel);
  }
}

// Where the block is: a tile of a sample.
struct Cursor {
  int64_t sample;
  int row, column;

  static DEVICE Cursor at(int64_t tile, const Tiles& tiles) {
    const int64_t row = tile / tiles.columns;
    return {row / tiles.rows, int(row % tiles.rows), int(tile % tiles.columns)};
  }

  DEVICE void next(const Tiles& tiles) {
    if (++column < tiles.columns) return;
    column = 0;
    if (++row < tiles.rows) return;
    row = 0;
    ++sample;
  }
};

template <class T>
DEVICE const T* sample_of(const T* images, const Image& size, int64_t sample) {
  return images + sample * size.height * size.width * size.channels;
}

// 16 x 16 channels of the slices in use, the same for all threads.
struct Used {
  int a, b;
};

// The sums of a warp: [taps][16 a][16 b] as two fragments of 16 x 8
template <int EACH>
using Accumulators = float[EACH][SLICE / 16][SLICE / 16][2][4];

// Exact products have a second register for each of an operand's; steps side by side would take too many.
template <class P>
constexpr int UNROLLED = std::is_same_v<P, IeeeProduct> ? 1 : 8;

template <class P, int k, int STRIDE>
DEVICE void add_tile(Accumulators<Shares<k, STRIDE>::EACH>& sums, const typename P::Element* tile, int group, int part,
                     Used used) {
  using T = typename P::Element;
  using On = Layout<T, k, STRIDE>;
  using By = Shares<k, STRIDE>;
  using F = Fragments<P>;
  const int tap = group * By::EACH;
  const T* around = tile + On::AROUND + tap / By::SIDE * On::AROUND_WIDTH * PITCH;
#pragma unroll(UNROLLED<P>)
  for (int step = 0; step < On::PIXELS / F::K / By::PARTS; ++step) {
    const int pixel = (step * By::PARTS + part) * F::K;
    const int row = pixel / TILE_COLUMNS * STRIDE * On::AROUND_WIDTH, column = pixel % TILE_COLUMNS;
    Operand<4> a[SLICE / 16];
#pragma unroll
    for (int m = 0; m < SLICE / 16; ++m)
      if (m < used.a) a[m] = F::read_a(tile + pixel * PITCH + m * 16);
#pragma unroll
    for (int t = 0; t < By::EACH; ++t) {
#pragma unroll
      for (int n = 0; n < SLICE / 16; ++n) {
        if (n >= used.b) continue;
        Operand<2> b[2];
        F::read_b(b, around + (row + column + place<On::AROUND_WIDTH, STRIDE>(tap % By::SIDE + t)) * PITCH + n * 16);
#pragma unroll
        for (int m = 0; m < SLICE / 16; ++m)
          if (m < used.a)
            for (int i = 0; i < 2; ++i) P::multiply(sums[t][m][n][i], a[m], b[i]);
      }
    }
  }
}

// f(fragment, index, t, m, n, half) for all that are in use.
template <int EACH, class F>
DEVICE void each_fragment(Accumulators<EACH>& sums, Used used, const F& f) {
#pragma unroll
  for (int i = 0; i < EACH * 8; ++i) {
    const int t = i / 8, m = i / 4 % 2, n = i / 2 % 2;
    if (m < used.a && n < used.b) f(sums[t][m][n][i % 2], i, t, m, n);
  }
}

// Adds the sums of the warps of the same taps, one after the other through shared memory; true for those of the last.
template <class By>
DEVICE bool add_parts(Accumulators<By::EACH>& sums, float* shared, int group, int part, Used used) {
  float* mine = shared + group * By::EACH * 8 * 128 + threadIdx.x % 32 * 4;
#pragma unroll 1
  for (int turn = 0; turn < By::PARTS; ++turn) {
    if (turn == part)
      each_fragment<By::EACH>(sums, used, [&](float(&d)[4], int i, int, int, int) {
        Vec<float> before = {};
        if (turn > 0) before = Vec<float>::read(mine + i * 128);
#pragma unroll
        for (int j = 0; j < 4; ++j) d[j] = before.v[j] += d[j];
        if (turn + 1 < By::PARTS) before.write_shared(mine + i * 128);
      });
    __syncthreads();
  }
  return part == By::PARTS - 1;
}

template <class P, int k, int STRIDE>
__global__ void __launch_bounds__(Shares<k, STRIDE>::THREADS, 2)
    conv_weight_grad_kernel(const typename P::Element* centre, Image centre_size, const typename P::Element* around,
                            Image around_size, Tiles tiles, Sums out) {
  using T = typename P::Element;
  using On = Layout<T, k, STRIDE>;
  using By = Shares<k, STRIDE>;
  SHARED_DYNAMIC(bytes);
  T* shared = reinterpret_cast<T*>(bytes);  // two tiles: one is loaded while the other is added
  const int lane = threadIdx.x % 32, group = threadIdx.x / 32 % By::GROUPS, part = threadIdx.x / 32 / By::GROUPS;
  const int slices = (out.b + SLICE - 1) / SLICE;
  const int a = blockIdx.y / slices * SLICE, b = blockIdx.y % slices * SLICE;
  const Used used{out.a - a > 16 ? 2 : 1, out.b - b > 16 ? 2 : 1};

  const auto load = [&](T* to, const Cursor& at) {
    const int row = at.row * On::HEIGHT, column = at.column * TILE_COLUMNS;
    load_slice<T, On::HEIGHT, TILE_COLUMNS, 1, By::THREADS>(to, sample_of(centre, centre_size, at.sample), centre_size,
                                                            row, column, a, used.a);
    load_slice<T, On::AROUND_HEIGHT, On::AROUND_WIDTH, STRIDE, By::THREADS>(
        to + On::AROUND, sample_of(around, around_size, at.sample), around_size, row * STRIDE - k / 2,
        column * STRIDE - k / 2, b, used.b);
    copy_commit();
  };

  Accumulators<By::EACH> sums = {};
  const int64_t first = blockIdx.x * tiles.each, left = tiles.count - first;
  const int64_t count = left < tiles.each ? left : tiles.each;
  Cursor at = Cursor::at(first, tiles);
  load(shared, at);
  for (int64_t i = 0; i < count; ++i) {
    if (i + 1 < count) {
      at.next(tiles);
      load(shared + (i + 1) % 2 * On::SIZE, at);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    __syncthreads();
    add_tile<P, k, STRIDE>(sums, shared + i % 2 * On::SIZE, group, part, used);
    __syncthreads();
  }

  if (!add_parts<By>(sums, reinterpret_cast<float*>(bytes), group, part, used)) return;
  float* corner = out.data + (int64_t(blockIdx.x) * By::COUNT + group * By::EACH) * out.a * out.b;
  each_fragment<By::EACH>(sums, used, [&](const float(&d)[4], int i, int t, int m, int n) {
    float* to = corner + (t * out.a + a + m * 16 + lane / 4) * out.b + b + n * 16 + i % 2 * 8 + lane % 4 * 2;
    Vec<float, 2>{{d[0], d[1]}}.write(to);
    Vec<float, 2>{{d[2], d[3]}}.write(to + 8 * out.b);
  });
}

struct Gradient {
  void* data;  // [c, cin, k, k]
  int dtype, c, cin, k;
  float scale;
};

DEVICE void write(const Gradient& dw, int i, float x) {
  if (dw.dtype == F16) static_cast<Half*>(dw.data)[i] = narrow<Half>(x);
  if (dw.dtype == BF16) static_cast<BFloat*>(dw.data)[i] = narrow<BFloat>(x);
  if (dw.dtype == F32) static_cast<float*>(dw.data)[i] = x;
}

// dw from the blocks' sums: a block of this kernel takes 32 of its elements [k * k, a, b], one a warp's lane.
__global__ void __launch_bounds__(32 * SUM_LANES)
    add_blocks_kernel(Sums in, int64_t blocks, Gradient dw, int stride, bool up) {
  SHARED(float, shared, 32 * SUM_LANES);
  const int i = blockIdx.x * 32 + threadIdx.x % 32, lane = threadIdx.x / 32, side = dw.k + stride - 1;
  const int channels = in.a * in.b, element = i / channels;
  const int y = up ? dw.k - 1 - element / dw.k : element / dw.k, x = up ? dw.k - 1 - element % dw.k : element % dw.k;
  float sum = 0.0f;
  for (int tap = 0; tap < stride * stride; ++tap) {
    const float* from = in.data + ((y + tap / stride) * side + x + tap % stride) * channels + i % channels;
#pragma unroll 4
    for (int64_t block = lane; block < blocks; block += SUM_LANES) sum += from[block * side * side * channels];
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  const int a = i % channels / in.b, b = i % in.b, c = up ? b : a, cin = up ? a : b;
  if (lane > 0 || c >= dw.c || cin >= dw.cin) return;
  for (int other = 1; other < SUM_LANES; ++other) sum += shared[other * 32 + threadIdx.x];
  write(dw, (c * dw.cin + cin) * dw.k * dw.k + element, sum * dw.scale);
}

// What a call comes to.
struct Plan {
  const void *centre, *around;
  Image centre_size, around_size;
  Tiles tiles;
  Sums sums;
  int stride, slices;
  int64_t blocks;
};

Plan plan_of(const ConvWeightGrad& a) {
  const bool up = a.resample == RESAMPLE_UP, down = a.resample == RESAMPLE_DOWN;
  const int size = a.dtype == F32 ? 4 : 2, stride = up || down ? 2 : 1;
  const Image x(a.h, a.w, a.in_channels, size, a.x);
  const Image dy(up ? 2 * a.h : a.h / stride, up ? 2 * a.w : a.w / stride, a.out_channels, size, a.dy);
  const Image &centre = up ? x : dy, &around = up ? dy : x;
  const Sums sums{a.workspace, int(ceil_div(centre.channels, 16) * 16), int(ceil_div(around.channels, 16) * 16)};
  const int slices = int(ceil_div(sums.a, SLICE) * ceil_div(sums.b, SLICE));
  const int64_t rows = ceil_div(centre.height, 16 / (stride * size)), columns = ceil_div(centre.width, TILE_COLUMNS);
  const int64_t tiles = a.n * rows * columns, work = tiles * slices, processors = multiprocessors();
  // One block a multiprocessor until it has four tiles, for its sums cost as much as some tiles; then two.
  const int64_t each = std::max(ceil_div(work, 2 * processors), std::min<int64_t>(4, ceil_div(work, processors)));
  const int64_t blocks = tiles > 0 ? ceil_div(tiles, each) : 0;
  return {up ? a.x : a.dy, up ? a.dy : a.x, centre, around, {tiles, each, int(rows), int(columns)},
          sums, stride, slices, blocks};
}

template <class P, int k, int STRIDE>
cudaError_t launch_sums(const Plan& plan, cudaStream_t stream) {
  using T = typename P::Element;
  using By = Shares<k, STRIDE>;
  constexpr int bytes = 2 * Layout<T, k, STRIDE>::SIZE * sizeof(T);
  static_assert(By::PARTS == 1 || By::COUNT * SLICE * SLICE * 4 <= bytes, "sums take the place of the tiles");
  const auto kernel = reinterpret_cast<const void*>(conv_weight_grad_kernel<P, k, STRIDE>);
  const auto failed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (failed != cudaSuccess) return failed;
  RUN((conv_weight_grad_kernel<P, k, STRIDE>), dim3(unsigned(plan.blocks), plan.slices), By::THREADS, bytes, stream,
      static_cast<const T*>(plan.centre), plan.centre_size, static_cast<const T*>(plan.around), plan.around_size,
      plan.tiles, plan.sums);
  return cudaSuccess;
}

template <class P>
cudaError_t launch_sums(const Plan& plan, int64_t k, cudaStream_t stream) {
  if (k == 1) return plan.stride == 1 ? launch_sums<P, 1, 1>(plan, stream) : launch_sums<P, 1, 2>(plan, stream);
  return plan.stride == 1 ? launch_sums<P, 3, 1>(plan, stream) : launch_sums<P, 3, 2>(plan, stream);
}

}  // namespace

int64_t conv_weight_grad_workspace(const ConvWeightGrad& a) {
  const Plan plan = plan_of(a);
  const int64_t side = a.k + plan.stride - 1;
  return plan.blocks * side * side * plan.sums.a * plan.sums.b;
}

cudaError_t conv_weight_grad(const ConvWeightGrad& a, cudaStream_t stream) {
  if (a.out_channels * a.in_channels == 0) return cudaSuccess;
  const Plan plan = plan_of(a);
  if (plan.blocks > 0) {
    const cudaError_t failed = with_product(
        a.dtype, a.ieee, [&](auto product) { return launch_sums<decltype(product)>(plan, a.k, stream); });
    if (failed != cudaSuccess) return failed;
  }
  const float scale = float(a.resample == RESAMPLE_DOWN ? 0.25 * a.scale : a.scale);
  const Gradient dw{a.dw, a.dw_dtype, int(a.out_channels), int(a.in_channels), int(a.k), scale};
  const unsigned grid = unsigned(a.k * a.k * plan.sums.a * plan.sums.b / 32);
  RUN(add_blocks_kernel, grid, 32 * SUM_LANES, 0, stream, plan.sums, plan.blocks, dw, plan.stride,
      a.resample == RESAMPLE_UP);
  return cudaSuccess;
}

}  // namespace pggan::cuda
