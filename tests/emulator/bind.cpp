// The emulator's controls, in the module of the kernels' bindings.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "machine.h"
#include "seeded.h"
#include "shadow.h"
#include "traffic.h"

namespace py = pybind11;

namespace {

void configure(uint32_t seed, int order, bool traffic, int multiprocessors, int shared_limit) {
  cusim::settings = {seed, order, traffic, multiprocessors, shared_limit};
  cusim::counts = {};
  cusim::launches.clear();
  cusim::forget_traffic();
}

py::list launches() {
  py::list all;
  for (const auto& [kernel, moved] : cusim::launches) {
    py::dict launch;
    launch["kernel"] = kernel;
    launch["sectors"] = moved.sectors;
    launch["read"] = moved.read;
    launch["written"] = moved.written;
    all.append(launch);
  }
  return all;
}

py::list traffic() {
  py::list places;
  for (const cusim::Traffic& t : cusim::traffic()) {
    if (t.requests == 0) continue;
    py::dict place;
    place["site"] = t.site;
    place["space"] = t.shared ? "shared" : "global";
    place["kind"] = t.write ? "write" : "read";
    place["bytes"] = t.bytes;
    place["requests"] = t.requests;
    place["sectors"] = t.sectors;
    place["wavefronts"] = t.wavefronts;
    place["ideal"] = t.ideal;
    places.append(place);
  }
  return places;
}

py::dict counts() {
  const cusim::Unique unique = cusim::unique_bytes();
  py::dict all;
  all["accesses"] = cusim::counts.accesses;
  all["switches"] = cusim::counts.switches;
  all["threads"] = cusim::counts.threads;
  all["mma"] = cusim::counts.mma;
  all["read"] = unique.read;
  all["written"] = unique.written;
  return all;
}

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the next launch is judged by itself
  throw std::runtime_error(cudaGetErrorString(error));
}

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// f(device, stream, in, out, zeros, correct)
void bind_faults(py::module_ m, seeded::List<seeded::Kernel> faults) {
  for (const seeded::Kernel& kernel : faults) {
    m.def(kernel.name, [&](int, uintptr_t, uintptr_t in, uintptr_t out, uintptr_t zeros, bool correct) {
      check(kernel.run(correct, {at<float>(in), at<float>(out), at<float>(zeros)}));
    });
  }
}

#if defined(__SANITIZE_ADDRESS__)
void bind_seeded(py::module_ m) { bind_faults(m.def_submodule("faults"), seeded::host_faults()); }
#else
// and probes, f(device, stream, in, out)
void bind_seeded(py::module_ m) {
  py::module_ faults = m.def_submodule("faults"), probes = m.def_submodule("probes");
  for (const auto& list : {seeded::memory_faults(), seeded::shared_faults(), seeded::thread_faults()}) {
    bind_faults(faults, list);
  }
  for (const seeded::Probe& probe : seeded::probes()) {
    probes.def(probe.name, [&](int, uintptr_t, uintptr_t in, uintptr_t out) {
      check(probe.run(at<uint32_t>(in), at<uint32_t>(out)));
    });
  }
}
#endif

}  // namespace

void bind_emulator(py::module_ m) {
  const cusim::Settings usual;
  m.def("configure", &configure, py::kw_only(), py::arg("seed") = usual.seed, py::arg("order") = usual.order,
        py::arg("traffic") = usual.traffic, py::arg("multiprocessors") = usual.multiprocessors,
        py::arg("shared_limit") = usual.shared_limit);
  m.def("add_memory", &cusim::add_memory);
  m.def("forget_memory", &cusim::forget_memory);
  m.def("take_faults", &cusim::take_faults);
  m.def("traffic", &traffic);
  m.def("launches", &launches);
  m.def("counts", &counts);
  bind_seeded(m);
}
