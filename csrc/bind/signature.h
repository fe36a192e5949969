// What tells calls apart: sizes, strides, types and devices of tensors, and scalars, as one string of bytes.
#pragma once

#include <cstring>

#include "tensors.h"

namespace pggan {

// The classes whose instances a signature describes, and no others: borrowed, they live as long as the process.
struct Classes {
  PyTypeObject *tensor, *parameter, *dtype;
};

class Signature {
 public:
  // Whether `object` could be added.
  bool add(PyObject* object, const Classes& classes) {
    PyTypeObject* kind = Py_TYPE(object);
    if (kind == classes.tensor || kind == classes.parameter) return add_tensor(object);
    if (object == Py_None) return put('-');
    if (kind == &PyFloat_Type) return put('f') && put(PyFloat_AS_DOUBLE(object));
    if (kind == &PyBool_Type) return put(object == Py_True ? 't' : 'u');
    if (kind == &PyLong_Type) return add_int(object);
    if (kind == &PyUnicode_Type) return add_text(object);
    return kind == classes.dtype && put('d') && put(object);  // there is one object of each
  }

  PyObject* bytes() const { return PyBytes_FromStringAndSize(data_, size_); }

 private:
  char data_[1536];
  Py_ssize_t size_ = 0;

  bool put(const void* from, size_t count) {
    if (count > sizeof(data_) - size_) return false;
    std::memcpy(data_ + size_, from, count);
    size_ += static_cast<Py_ssize_t>(count);
    return true;
  }

  template <class T>
  bool put(const T& value) {
    return put(&value, sizeof(value));
  }

  bool add_tensor(PyObject* object) {
    static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
    dlpack::Tensor t;
    if (!read_tensor(object, &t)) return false;
    PyObject* negated = PyObject_CallMethodNoArgs(object, is_neg);
    if (negated == nullptr) {
      PyErr_Clear();
      return false;
    }
    const char tag = negated == Py_True ? 'N' : 'T';
    Py_DECREF(negated);
    const size_t sizes = sizeof(int64_t) * static_cast<size_t>(t.ndim);
    return put(tag) && put(t.ndim) && put(t.dtype) && put(t.device) && put(t.shape, sizes) && put(t.strides, sizes);
  }

  bool add_int(PyObject* object) {
    int overflow;
    const long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow == 0 && put('i') && put(value);
  }

  bool add_text(PyObject* object) {
    Py_ssize_t size;
    const char* text = PyUnicode_AsUTF8AndSize(object, &size);
    if (text == nullptr) {
      PyErr_Clear();
      return false;
    }
    return put('s') && put(size) && put(text, static_cast<size_t>(size));
  }
};

}  // namespace pggan
