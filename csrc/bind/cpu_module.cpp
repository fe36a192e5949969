// pggan_fast._cpu: the CPU kernels for Python. Tensors arrive as addresses (0: none); Python owns memory and checks.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "../cpu/kernels.h"

namespace py = pybind11;

namespace pggan {

#define PGGAN_DECLARE(isa)       \
  namespace isa {                \
  extern const Kernels kernels;  \
  }
PGGAN_DECLARE(baseline)
#if defined(__x86_64__)
PGGAN_DECLARE(avx2)
PGGAN_DECLARE(avx512)
#endif

using ParallelFor = int (*)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);
ParallelFor parallel_for = nullptr;  // read by cpu/parallel.h

namespace {

struct Isa {
  const char* name;
  const Kernels* kernels;
};

// Compiled and runnable here, the best last.
std::vector<Isa> runnable() {
  std::vector<Isa> found{{"baseline", &baseline::kernels}};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2) found.push_back({"avx2", &avx2::kernels});
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found.push_back({"avx512", &avx512::kernels});
#endif
  return found;
}

const std::vector<Isa> isas = runnable();
std::atomic<const Isa*> active{&isas.back()};

void set_isa(const std::string& name) {
  std::string known;
  for (const Isa& isa : isas) {
    if (name == isa.name) {
      active = &isa;
      return;
    }
    known += std::string(known.empty() ? "" : ", ") + isa.name;
  }
  throw py::value_error("instruction set '" + name + "' cannot run here; known: " + known);
}

void check(int status) {
  switch (status) {
    case OK: return;
    case NO_MEMORY: throw std::bad_alloc();
    case BAD_DTYPE: throw py::value_error("unknown dtype code");
    default: throw std::runtime_error("torch's parallel loop failed");
  }
}

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

const Kernels& kernels() { return *active.load(std::memory_order_relaxed)->kernels; }

void bias_act_forward(Address u, Address bias, Address y, Address r, Address mask, int dtype, int bias_dtype, int64_t n,
                      int64_t c, int64_t h, int64_t w, bool channels_last, bool pool, double scale, double bias_scale,
                      double slope, int norm, double eps, bool eps_inside) {
  check(kernels().bias_act_forward({at<void>(u), at<void>(bias), at<void>(y), at<void>(r), at<uint8_t>(mask), dtype,
                                    bias_dtype, {n, c, h, w, channels_last}, pool, scale, bias_scale, slope, norm, eps,
                                    eps_inside}));
}

void bias_act_backward(Address dy, Address dr, Address y, Address r, Address mask, Address du, Address db, int dtype,
                       int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last, bool pool, double scale,
                       double bias_scale, double slope, int norm, double eps, bool eps_inside) {
  check(kernels().bias_act_backward({at<void>(dy), at<void>(dr), at<void>(y), at<void>(r), at<uint8_t>(mask),
                                     at<void>(du), at<void>(db), dtype, {n, c, h, w, channels_last}, pool, scale,
                                     bias_scale, slope, norm, eps, eps_inside}));
}

void masked_pool(Address g, Address mask, Address out, int dtype, int64_t n, int64_t c, int64_t h, int64_t w,
                 bool channels_last, double scale, double slope) {
  check(kernels().masked_pool({at<void>(g), at<uint8_t>(mask), at<void>(out), dtype, {n, c, h, w, channels_last},
                               scale, slope}));
}

void fade_in_forward(Address low, Address high, Address alpha, Address out, int dtype, int64_t n, int64_t c, int64_t h,
                     int64_t w, bool channels_last, bool up) {
  check(kernels().fade_in_forward({at<void>(low), at<void>(high), at<float>(alpha), at<void>(out), dtype,
                                   {n, c, h, w, channels_last}, up}));
}

void fade_in_backward(Address dy, Address alpha, Address dlow, Address dhigh, int dtype, int64_t n, int64_t c, int64_t h,
                      int64_t w, bool channels_last, bool up) {
  check(kernels().fade_in_backward({at<void>(dy), at<float>(alpha), at<void>(dlow), at<void>(dhigh), dtype,
                                    {n, c, h, w, channels_last}, up}));
}

void fade_reals(Address image, Address alpha, Address out, int dtype, int64_t n, int64_t c, int64_t h, int64_t w,
                bool channels_last) {
  check(kernels().fade_reals({at<void>(image), at<float>(alpha), at<void>(out), dtype, {n, c, h, w, channels_last}}));
}

void to_rgb_fade_in_forward(Address x_low, Address x_high, Address w_low, Address b_low, Address w_high, Address b_high,
                            Address alpha, Address image, int dtype, int w_low_dtype, int b_low_dtype, int w_high_dtype,
                            int b_high_dtype, int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last,
                            int64_t c_low, int64_t c_high, double weight_scale_low, double weight_scale_high,
                            double bias_scale_low, double bias_scale_high) {
  if (c > MAX_IMAGE_CHANNELS) throw py::value_error("too many image channels");
  check(kernels().to_rgb_fade_in_forward(
      {at<void>(x_low), at<void>(x_high),
       {at<void>(w_low), at<void>(b_low), w_low_dtype, b_low_dtype, weight_scale_low, bias_scale_low},
       {at<void>(w_high), at<void>(b_high), w_high_dtype, b_high_dtype, weight_scale_high, bias_scale_high},
       at<float>(alpha), at<void>(image), dtype, {n, c, h, w, channels_last}, c_low, c_high}));
}

void from_rgb_fade_in_forward(Address image, Address high, Address weight, Address bias, Address alpha, Address y,
                              Address mask, int dtype, int weight_dtype, int bias_dtype, int64_t n, int64_t c, int64_t h,
                              int64_t w, bool channels_last, int64_t image_channels, double weight_scale,
                              double bias_scale, double slope) {
  if (image_channels > MAX_IMAGE_CHANNELS) throw py::value_error("too many image channels");
  check(kernels().from_rgb_fade_in_forward(
      {at<void>(image), at<void>(high), {at<void>(weight), at<void>(bias), weight_dtype, bias_dtype, weight_scale,
       bias_scale}, at<float>(alpha), at<void>(y), at<uint8_t>(mask), dtype, {n, c, h, w, channels_last},
       image_channels, slope}));
}

void minibatch_stddev_forward(Address x, Address out, int dtype, int64_t n, int64_t c, int64_t h, int64_t w,
                              bool channels_last, int64_t group, bool strided, int64_t divisor, double eps) {
  check(kernels().minibatch_stddev_forward({at<void>(x), at<void>(out), dtype, {n, c, h, w, channels_last}, group,
                                            strided, divisor, eps}));
}

void minibatch_stddev_backward(Address dy, Address x, Address dx, int dtype, int64_t n, int64_t c, int64_t h, int64_t w,
                               bool channels_last, int64_t group, bool strided, int64_t divisor, double eps) {
  check(kernels().minibatch_stddev_backward({at<void>(dy), at<void>(x), at<void>(dx), dtype,
                                             {n, c, h, w, channels_last}, group, strided, divisor, eps}));
}

// All kernels on tiles have one signature, and so do all on Winograd's and on phase-summed weights.
template <auto kernel>
void tiles(Address image, Address tiles, int dtype, int64_t n, int64_t c, int64_t h, int64_t w, int64_t first,
           int64_t count) {
  check((kernels().*kernel)({at<void>(image), at<void>(tiles), dtype, {n, c, h, w, true}, first, count}));
}

template <auto kernel>
void winograd_weights(Address weight, Address transformed, int dtype, int64_t pairs, bool flip, double scale) {
  check((kernels().*kernel)({at<void>(weight), at<void>(transformed), dtype, pairs, flip, scale}));
}

template <auto kernel>
void phase_weights(Address weight, Address summed, int dtype, int64_t out_channels, int64_t in_channels,
                   int64_t out_stride, int64_t in_stride, int64_t row_stride, int64_t column_stride, bool flip,
                   double scale) {
  check((kernels().*kernel)({at<void>(weight), at<void>(summed), dtype, out_channels, in_channels,
                             {out_stride, in_stride, row_stride, column_stride}, flip, scale}));
}

}  // namespace
}  // namespace pggan

// Workers touch no Python object: the module neither needs the GIL nor holds it while a kernel runs.
PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  using namespace pggan;
  m.doc() = "CPU kernels of pggan_fast over raw addresses; use pggan_fast.ops instead.";
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Isa& isa : isas) names.emplace_back(isa.name);
    return names;
  });
  m.def("isa", [] { return active.load()->name; });
  m.def("set_isa", &set_isa);
  m.def("set_parallel_for", [](Address function) { parallel_for = reinterpret_cast<ParallelFor>(function); });

  const auto without_gil = py::call_guard<py::gil_scoped_release>();
  m.def("bias_act_forward", &bias_act_forward, without_gil);
  m.def("bias_act_backward", &bias_act_backward, without_gil);
  m.def("masked_pool", &masked_pool, without_gil);
  m.def("fade_in_forward", &fade_in_forward, without_gil);
  m.def("fade_in_backward", &fade_in_backward, without_gil);
  m.def("fade_reals", &fade_reals, without_gil);
  m.def("to_rgb_fade_in_forward", &to_rgb_fade_in_forward, without_gil);
  m.def("from_rgb_fade_in_forward", &from_rgb_fade_in_forward, without_gil);
  m.def("minibatch_stddev_forward", &minibatch_stddev_forward, without_gil);
  m.def("minibatch_stddev_backward", &minibatch_stddev_backward, without_gil);
  m.def("winograd_input", &tiles<&Kernels::winograd_input>, without_gil);
  m.def("winograd_output_gradient", &tiles<&Kernels::winograd_output_gradient>, without_gil);
  m.def("winograd_output", &tiles<&Kernels::winograd_output>, without_gil);
  m.def("winograd_weight", &winograd_weights<&Kernels::winograd_weight>, without_gil);
  m.def("winograd_weight_gradient", &winograd_weights<&Kernels::winograd_weight_gradient>, without_gil);
  m.def("phase_weight", &phase_weights<&Kernels::phase_weight>, without_gil);
  m.def("phase_weight_gradient", &phase_weights<&Kernels::phase_weight_gradient>, without_gil);
}
