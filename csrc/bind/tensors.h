// Tensors as Python passes them, without torch: by the C functions of DLPack's exchange (github.com/dmlc/dlpack, ABI 1),
// which a tensor's class hands out. A look at an address, a shape and strides takes 30 ns, from Python 1 us.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace pggan {

namespace dlpack {

enum DeviceType : int32_t { CPU = 1 };

struct Device {
  int32_t type, id;
};

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct Exchange {
  uint32_t major, minor;
  Exchange* previous;
  void *allocate, *managed_from_object, *object_from_managed;
  int (*from_object)(void* object, Tensor* out);  // borrowed; not 0: a Python error is set. Null where there is none
  void* current_stream;
};

}  // namespace dlpack

// Of the tensors that this module reads by themselves; null: it takes addresses alone.
inline const dlpack::Exchange* exchange = nullptr;

// What `object` is in memory; false where it is nothing of the kind, or of zeros that are nowhere.
inline bool read_tensor(PyObject* object, dlpack::Tensor* out) {
  if (exchange == nullptr) return false;
  if (exchange->from_object(object, out) != 0) {
    PyErr_Clear();
    return false;
  }
  if (out->data != nullptr) return true;
  for (int32_t i = 0; i < out->ndim; ++i)
    if (out->shape[i] == 0) return true;
  return false;
}

// The address of an argument: a tensor's in host memory where this module reads tensors, an int as it is, 0 for None.
struct Address {
  std::uintptr_t value;
};

}  // namespace pggan

template <>
struct pybind11::detail::type_caster<pggan::Address> {
  PYBIND11_TYPE_CASTER(pggan::Address, const_name("Tensor | int | None"));

  bool load(handle source, bool) {
    if (source.is_none()) {
      value = {0};
      return true;
    }
    if (PyLong_Check(source.ptr())) {
      value = {PyLong_AsSize_t(source.ptr())};
      if (!PyErr_Occurred()) return true;
      PyErr_Clear();
      return false;
    }
    pggan::dlpack::Tensor tensor;
    if (!pggan::read_tensor(source.ptr(), &tensor) || tensor.device.type != pggan::dlpack::CPU) return false;
    value = {reinterpret_cast<std::uintptr_t>(tensor.data) + tensor.byte_offset};
    return true;
  }
};
