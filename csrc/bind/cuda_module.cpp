// pggan_fast._cuda: the CUDA kernels for Python. Every function takes a device and a stream first, then the arguments
// of bind/arguments.h; it starts its kernels and returns.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "../cuda/launchers.h"
#include "arguments.h"

namespace py = pybind11;

#if defined(PGGAN_EMULATOR)
void bind_emulator(py::module_);
#endif

namespace pggan::cuda {

thread_local Launch last_launch{"", {}, {}, 0};

namespace {

std::string text(const dim3& d) {
  return std::to_string(d.x) + "x" + std::to_string(d.y) + "x" + std::to_string(d.z);
}

void check(cudaError_t error, int device) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // launches after this one are judged by themselves
  const Launch& l = last_launch;
  throw std::runtime_error(std::string("CUDA error in ") + l.kernel + " on device " + std::to_string(device) + ": " +
                           cudaGetErrorString(error) + " (grid " + text(l.grid) + ", block " + text(l.block) + ", " +
                           std::to_string(l.shared) + " bytes of shared memory)");
}

// Makes `device` current, and the one before current again.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) : device_(device) {
    check(cudaGetDevice(&before_), device);
    if (before_ != device) check(cudaSetDevice(device), device);
  }
  ~DeviceGuard() {
    if (before_ != device_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int device_, before_ = 0;
};

template <class Struct, class... Args>
void bind(py::module_& m, const char* name, Struct (*make)(Args...),
          cudaError_t (*launch)(const Struct&, cudaStream_t)) {
  m.def(
      name,
      [=](int device, Address stream, Args... args) {
        last_launch = {name, {}, {}, 0};
        const DeviceGuard guard(device);
        check(launch(make(args...), at<CUstream_st>(stream)), device);
      },
      py::call_guard<py::gil_scoped_release>());
}

// m.<name>(device, stream, the arguments of a launch, 0 for its workspace) -> what launchers.h says it counts
template <class Struct, class... Args>
void bind_count(py::module_& m, const char* name, Struct (*make)(Args...), int64_t (*count)(const Struct&)) {
  m.def(name, [=](int device, Address, Args... args) {
    last_launch = {name, {}, {}, 0};
    const DeviceGuard guard(device);
    return count(make(args...));
  });
}

}  // namespace
}  // namespace pggan::cuda

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  using namespace pggan;
  using cuda::bind, cuda::bind_count;
  m.doc() = "CUDA kernels of pggan_fast over raw addresses; use pggan_fast.ops instead.";
  m.def("runtime_version", [] {
    int version = 0;
    cudaRuntimeGetVersion(&version);
    return version;
  });
  m.def("driver_version", [] {  // 0: no driver
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
  });

  bind(m, "bias_act_forward", &arguments::bias_act_forward, &cuda::bias_act_forward);
  bind(m, "bias_act_backward", &arguments::bias_act_backward, &cuda::bias_act_backward);
  bind_count(m, "bias_act_backward_workspace", &arguments::bias_act_backward, &cuda::bias_act_backward_workspace);
  bind(m, "masked_pool", &arguments::masked_pool, &cuda::masked_pool);
  bind(m, "fade_in_forward", &arguments::fade_in_forward, &cuda::fade_in_forward);
  bind(m, "fade_in_backward", &arguments::fade_in_backward, &cuda::fade_in_backward);
  bind(m, "fade_reals", &arguments::fade_reals, &cuda::fade_reals);
  bind(m, "to_rgb_fade_in_forward", &arguments::to_rgb_fade_in_forward, &cuda::to_rgb_fade_in_forward);
  bind(m, "from_rgb_fade_in_forward", &arguments::from_rgb_fade_in_forward, &cuda::from_rgb_fade_in_forward);
  bind(m, "minibatch_stddev_forward", &arguments::minibatch_stddev_forward, &cuda::minibatch_stddev_forward);
  bind_count(m, "minibatch_stddev_forward_workspace", &arguments::minibatch_stddev_forward,
             &cuda::minibatch_stddev_forward_workspace);
  bind(m, "minibatch_stddev_backward", &arguments::minibatch_stddev_backward, &cuda::minibatch_stddev_backward);
  bind_count(m, "minibatch_stddev_backward_workspace", &arguments::minibatch_stddev_backward,
             &cuda::minibatch_stddev_backward_workspace);
  bind(m, "pack_weight", &arguments::pack_weight, &cuda::pack_weight);
  bind_count(m, "pack_weight_elements", &arguments::pack_weight, &cuda::pack_weight_elements);
  bind(m, "scaled_conv2d", &arguments::scaled_conv2d, &cuda::scaled_conv2d);
  bind_count(m, "scaled_conv2d_rows", &arguments::scaled_conv2d, &cuda::scaled_conv2d_rows);
  bind(m, "conv_to_rgb", &arguments::conv_to_rgb, &cuda::conv_to_rgb);
  bind_count(m, "conv_to_rgb_rows", &arguments::conv_to_rgb, &cuda::conv_to_rgb_rows);
  bind(m, "conv_from_rgb", &arguments::conv_from_rgb, &cuda::conv_from_rgb);
  bind_count(m, "conv_from_rgb_rows", &arguments::conv_from_rgb, &cuda::conv_from_rgb_rows);
  bind(m, "conv_weight_grad", &arguments::conv_weight_grad, &cuda::conv_weight_grad);
  bind_count(m, "conv_weight_grad_workspace", &arguments::conv_weight_grad, &cuda::conv_weight_grad_workspace);
  bind(m, "generator_stage", &arguments::generator_stage, &cuda::generator_stage);
  bind_count(m, "generator_stage_rows", &arguments::generator_stage, &cuda::generator_stage_rows);
#if defined(PGGAN_EMULATOR)
  bind_emulator(m.def_submodule("emulator"));
#endif
}
