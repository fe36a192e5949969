// pggan_fast._cpu: the CPU kernels for Python, which owns memory and checks; and what tells its calls apart.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.h"
#include "signature.h"

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

Classes classes;

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

const Kernels& kernels() { return *active.load(std::memory_order_relaxed)->kernels; }

// From now on tensors are read by their class's own DLPack functions, if those see `probe` as it is: at its address, two
// rows of two float32, and nothing between.
bool read_tensors(const py::capsule& functions, py::handle probe, std::uintptr_t address, const py::type& parameter,
                  const py::type& dtype) {
  const auto* given = functions.get_pointer<const dlpack::Exchange>();
  exchange = given->major == 1 && given->from_object != nullptr ? given : nullptr;
  classes = {Py_TYPE(probe.ptr()), reinterpret_cast<PyTypeObject*>(parameter.ptr()),
             reinterpret_cast<PyTypeObject*>(dtype.ptr())};
  dlpack::Tensor t;
  const bool agrees = read_tensor(probe.ptr(), &t) &&
                      reinterpret_cast<std::uintptr_t>(t.data) + t.byte_offset == address && t.ndim == 2 &&
                      t.shape[0] == 2 && t.shape[1] == 2 && t.strides[0] == 2 && t.strides[1] == 1 &&
                      t.dtype.code == 2 && t.dtype.bits == 32;
  if (!agrees) exchange = nullptr;
  return agrees;
}

// signature(arguments) -> bytes, equal for tuples of equal kinds; None where one is neither a plain tensor nor a scalar.
PyObject* signature(PyObject*, PyObject* arguments) {
  Signature found;
  if (!PyTuple_CheckExact(arguments)) Py_RETURN_NONE;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(arguments); ++i)
    if (!found.add(PyTuple_GET_ITEM(arguments, i), classes)) Py_RETURN_NONE;
  return found.bytes();
}

PyMethodDef methods[] = {{"signature", signature, METH_O, nullptr}, {}};  // pybind11 would take longer than the rest

// m.<name>(tensors, sizes, scalars): the kernel runs without the GIL.
template <class Struct, class... Args>
void bind(py::module_& m, const char* name, Struct (*make)(Args...), int (*Kernels::*kernel)(const Struct&)) {
  m.def(name, [=](Args... args) { check((kernels().*kernel)(make(args...))); },
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace
}  // namespace pggan

// Workers touch no Python object: the module neither needs the GIL nor holds it while a kernel runs.
PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  using namespace pggan;
  m.doc() = "CPU kernels of pggan_fast over dense tensors; use pggan_fast.ops instead.";
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Isa& isa : isas) names.emplace_back(isa.name);
    return names;
  });
  m.def("isa", [] { return active.load()->name; });
  m.def("set_isa", &set_isa);
#if defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 10)
  m.attr("multiplies_bfloat16") = __builtin_cpu_supports("avx512bf16") != 0;  // as torch's convolutions then do
#else
  m.attr("multiplies_bfloat16") = false;
#endif
  m.def("set_parallel_for", [](Address function) { parallel_for = reinterpret_cast<ParallelFor>(function.value); });
  m.def("read_tensors", &read_tensors);
  PyModule_AddFunctions(m.ptr(), methods);

  bind(m, "bias_act_forward", &arguments::bias_act_forward, &Kernels::bias_act_forward);
  bind(m, "bias_act_backward", &arguments::bias_act_backward, &Kernels::bias_act_backward);
  bind(m, "masked_pool", &arguments::masked_pool, &Kernels::masked_pool);
  bind(m, "fade_in_forward", &arguments::fade_in_forward, &Kernels::fade_in_forward);
  bind(m, "fade_in_backward", &arguments::fade_in_backward, &Kernels::fade_in_backward);
  bind(m, "fade_reals", &arguments::fade_reals, &Kernels::fade_reals);
  bind(m, "to_rgb_fade_in_forward", &arguments::to_rgb_fade_in_forward, &Kernels::to_rgb_fade_in_forward);
  bind(m, "from_rgb_fade_in_forward", &arguments::from_rgb_fade_in_forward, &Kernels::from_rgb_fade_in_forward);
  bind(m, "minibatch_stddev_forward", &arguments::minibatch_stddev_forward, &Kernels::minibatch_stddev_forward);
  bind(m, "minibatch_stddev_backward", &arguments::minibatch_stddev_backward, &Kernels::minibatch_stddev_backward);
  bind(m, "tiled_conv", &arguments::tiled_conv, &Kernels::tiled_conv);
  bind(m, "tiled_weight", &arguments::tiled_conv, &Kernels::tiled_weight);
  bind(m, "tiled_stage", &arguments::tiled_stage, &Kernels::tiled_stage);
  bind(m, "tiled_conv_weight_grad", &arguments::tiled_conv_weight_grad, &Kernels::tiled_conv_weight_grad);
  bind(m, "tiled_layer_backward", &arguments::tiled_layer_backward, &Kernels::tiled_layer_backward);
}
