// One register of neighbouring channels, by the compiler's vector extension: operators work lane by lane.
#pragma once

#include <utility>  // integer_sequence, a type: none of its functions

#include "element.h"

// Before loops over registers.
#define PGGAN_UNROLL _Pragma("GCC unroll 16")

namespace pggan::PGGAN_ISA {

#if defined(__AVX512F__)
constexpr int64_t VECTOR_BYTES = 64, VECTOR_REGISTERS = 32;
#elif defined(__AVX__)
constexpr int64_t VECTOR_BYTES = 32, VECTOR_REGISTERS = 16;
#else
constexpr int64_t VECTOR_BYTES = 16, VECTOR_REGISTERS = 16;
#endif

template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float Type __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t Mask __attribute__((vector_size(VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double Type __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t Mask __attribute__((vector_size(VECTOR_BYTES)));
};

template <class A>
using Vector = typename VectorOf<A>::Type;
template <class A>
constexpr int64_t LANES = VECTOR_BYTES / sizeof(A);

template <class A>
inline Vector<A> read_vector(const A* from) {
  Vector<A> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// LANES elements of T, or `lanes` of them and zeros.
template <class A, class T>
inline Vector<A> read_vector(const T* from, int64_t lanes) {
  if constexpr (std::is_same_v<T, A>) {
    if (lanes == LANES<A>) return read_vector<A>(from);
    Vector<A> v{};
    for (int64_t j = 0; j < lanes; ++j) v[j] = from[j];
    return v;
  } else {
    A wide[LANES<A>] = {};
    if (lanes == LANES<A>)
      widen_row(from, wide, LANES<A>);
    else
      widen_row(from, wide, lanes);
    return read_vector<A>(wide);
  }
}

template <class A>
inline void write_vector(A* to, const Vector<A>& v) {
  std::memcpy(to, &v, sizeof v);
}

template <class A>
inline void write_vector(A* to, const Vector<A>& v, int64_t lanes) {
  if (lanes == LANES<A>) return write_vector(to, v);
  for (int64_t j = 0; j < lanes; ++j) to[j] = v[j];
}

template <class A>
inline Vector<A> leaky_relu(const Vector<A>& v, A slope) {
  return v > A(0) ? v : slope * v;
}

// Two vectors of sums, in groups of GROUP lanes that belong together, to one with groups of half the size.
template <int64_t GROUP, class A, int64_t... J>
inline Vector<A> fold(const Vector<A>& a, const Vector<A>& b, std::integer_sequence<int64_t, J...>) {
  constexpr int64_t half = GROUP / 2;
#if defined(__clang__) || __GNUC__ >= 12
#define PGGAN_SHUFFLE(offset) __builtin_shufflevector(a, b, (J / half * GROUP + J % half + offset)...)
#else
#define PGGAN_SHUFFLE(offset) \
  __builtin_shuffle(a, b, typename VectorOf<A>::Mask{(J / half * GROUP + J % half + offset)...})
#endif
  return PGGAN_SHUFFLE(0) + PGGAN_SHUFFLE(half);
#undef PGGAN_SHUFFLE
}

// Lane p of the result is the sum of v[p]'s lanes; v is used up.
template <class A, int64_t COUNT = LANES<A>>
inline Vector<A> sums_of(Vector<A>* v) {
  if constexpr (COUNT == 1) {
    return v[0];
  } else {
    PGGAN_UNROLL for (int64_t p = 0; p < COUNT / 2; ++p)
      v[p] = fold<COUNT, A>(v[2 * p], v[2 * p + 1], std::make_integer_sequence<int64_t, LANES<A>>());
    return sums_of<A, COUNT / 2>(v);
  }
}

}  // namespace pggan::PGGAN_ISA
