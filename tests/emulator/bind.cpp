// The emulator's controls, beside the kernels' bindings in one module.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;
extern "C" {
void cusim_config(uint32_t seed, int policy, int check, int stats, int late);
void cusim_memory(uintptr_t p, size_t bytes, int init, const char* name);
void cusim_forget(uintptr_t p);
int cusim_nerrors();
const char* cusim_error(int i);
const char* cusim_stats();
}

void bind_emulator(py::module_ m) {
  m.def("configure", [](uint32_t seed, int policy, bool check, bool stats, bool late) { cusim_config(seed, policy, check, stats, late); },
        py::arg("seed") = 1, py::arg("policy") = 0, py::arg("check") = true, py::arg("stats") = false, py::arg("late") = true);
  m.def("memory", [](uintptr_t p, size_t n, bool init, const std::string& name) { cusim_memory(p, n, init, name.c_str()); });
  m.def("forget", &cusim_forget);
  m.def("errors", [] { std::vector<std::string> e; for (int i = 0; i < cusim_nerrors(); i++) e.push_back(cusim_error(i)); return e; });
  m.def("traffic", [] { return std::string(cusim_stats()); });
}
