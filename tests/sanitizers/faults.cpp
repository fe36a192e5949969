// Seeded faults beside their correct twins, written as kernels are. Pointers go through `hidden`, so that the compiler
// neither warns nor knows better.
#include "../../csrc/cpu/parallel.h"
#include "driver.h"

namespace driver {
namespace {

using PGGAN_ISA::Chunks;
using PGGAN_ISA::Scratch;

constexpr int64_t CHUNK = 16384, COUNT = 4 * CHUNK;

struct Line {
  const float* in;  // [n]
  float* out;       // [n]
  int64_t n;
};

template <class T>
__attribute__((noinline)) T hidden(T value) {
  asm volatile("" : "+r"(value));
  return value;
}

// f(chunk, begin, end), four times
template <class F>
int chunks(const Line& a, const F& f) {
  return Chunks(a.n, 1).run(f);
}

// Memory

template <bool correct>
int read_past_the_end(const Line& a) {
  return chunks(a, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) a.out[i] = a.in[i] + a.in[i + (correct ? 0 : 1)];
  });
}

template <bool correct>
int read_before_the_beginning(const Line& a) {
  return chunks(a, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) a.out[i] = a.in[i] - (correct && i == 0 ? 0.0f : a.in[i - 1]);
  });
}

template <bool correct>
int write_past_the_end(const Line& a) {
  return chunks(a, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) a.out[i + (correct ? 0 : 1)] = a.in[i];
  });
}

// What an intrinsic's unaligned load is; the last one begins where 15 numbers are left.
template <bool correct>
int vector_past_the_end(const Line& a) {
  typedef float Wide __attribute__((vector_size(64), aligned(4)));
  return chunks(a, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += 16) {
      const Wide wide = *reinterpret_cast<const Wide*>(a.in + i + (correct ? 0 : 1));
      a.out[i] = wide[0];
    }
  });
}

template <bool correct>
int scratch_past_the_end(const Line& a) {
  return chunks(a, [&](int64_t, int64_t begin, int64_t) {
    Scratch<float> three(3);
    hidden(three.data)[correct ? 2 : 3] = a.in[begin];
  });
}

template <bool correct>
int scratch_after_its_end(const Line& a) {
  return chunks(a, [&](int64_t, int64_t begin, int64_t) {
    const float* kept;
    {
      Scratch<float> scratch(16);
      scratch.data[0] = a.in[begin];
      kept = hidden(scratch.data);
      if (correct) a.out[begin] = *kept;
    }
    if (!correct) a.out[begin] = *kept;
  });
}

template <bool correct>
int local_past_the_end(const Line& a) {
  return chunks(a, [&](int64_t, int64_t begin, int64_t end) {
    float buffer[64];
    float* to = hidden(buffer);
    for (int64_t i = begin; i < end; i += 64) {
      for (int64_t j = 0; j < (correct ? 64 : 65); ++j) to[j] = a.in[begin];
      a.out[i] = to[63];
    }
  });
}

// Arithmetic and pointers without a meaning

template <bool correct>
int sum_out_of_range(const Line& a) {
  return chunks(a, [&](int64_t chunk, int64_t begin, int64_t) {
    const int most = hidden(0x7fffffff - (correct ? 4 : 0));
    a.out[begin] = static_cast<float>(most + static_cast<int>(chunk));
  });
}

template <bool correct>
int shift_out_of_range(const Line& a) {
  return chunks(a, [&](int64_t, int64_t begin, int64_t) {
    a.out[begin] = static_cast<float>(1 << hidden(correct ? 30 : 32));
  });
}

template <bool correct>
int float_at_an_odd_address(const Line& a) {
  return chunks(a, [&](int64_t, int64_t begin, int64_t) {
    const char* from = reinterpret_cast<const char*>(a.in + begin) + (correct ? 0 : 2);
    a.out[begin] = *reinterpret_cast<const float*>(hidden(from));
  });
}

// Races

template <bool correct>
int two_chunks_write_one_element(const Line& a) {
  return chunks(a, [&](int64_t, int64_t begin, int64_t end) {
    const int64_t last = correct || end == a.n ? end : end + 1;
    for (int64_t i = begin; i < last; ++i) a.out[i] = a.in[i];
  });
}

template <bool correct>
int two_chunks_write_one_byte(const Line& a) {  // a mask's, of which each sets its own bit
  auto* mask = reinterpret_cast<uint8_t*>(a.out);
  return chunks(a, [&](int64_t chunk, int64_t, int64_t) {
    uint8_t& byte = mask[correct ? chunk : 0];
    byte = static_cast<uint8_t>(byte | 1 << chunk);
  });
}

template <bool correct>
int one_sum_for_all_chunks(const Line& a) {
  double sums[4] = {};
  const int status = chunks(a, [&](int64_t chunk, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sums[correct ? chunk : 0] += a.in[i];
  });
  a.out[0] = static_cast<float>(sums[0] + sums[1] + sums[2] + sums[3]);
  return status;
}

template <bool correct>
int one_buffer_for_all_chunks(const Line& a) {
  Scratch<float> scratch(4);
  if (!scratch) return NO_MEMORY;
  return chunks(a, [&](int64_t chunk, int64_t begin, int64_t end) {
    float& one = scratch.data[correct ? chunk : 0];
    for (int64_t i = begin; i < end; ++i) {
      one = 2.0f * a.in[i];
      a.out[i] = one + 1.0f;
    }
  });
}

template <bool correct>
int a_chunk_reads_what_another_writes(const Line& a) {
  return chunks(a, [&](int64_t, int64_t begin, int64_t end) {
    float last = correct || begin == 0 ? 0.0f : a.out[begin - 1];
    for (int64_t i = begin; i < end; ++i) a.out[i] = last = a.in[i] - last;
  });
}

// What no sanitizer sees, and the driver does

template <bool correct>
int as_many_sums_as_threads(const Line& a) {
  float sums[4] = {};
  const int64_t used = correct || parallel_for ? 4 : 1;
  const int status = chunks(a, [&](int64_t chunk, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sums[used == 1 ? 0 : chunk] += a.in[i];
  });
  a.out[0] = ((sums[0] + sums[1]) + sums[2]) + sums[3];
  return status;
}

template <bool correct>
int all_in_one_chunk(const Line& a) {
  return Chunks(correct ? a.n : CHUNK, 1).run([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) a.out[i] = a.in[i];
  });
}

struct Fault {
  const char* name;
  int (*correct)(const Line&);
  int (*faulty)(const Line&);
};

#define SEEDED(name) \
  { #name, &name<true>, &name<false> }

const Fault FAULTS[] = {
    SEEDED(read_past_the_end),
    SEEDED(read_before_the_beginning),
    SEEDED(write_past_the_end),
    SEEDED(vector_past_the_end),
    SEEDED(scratch_past_the_end),
    SEEDED(scratch_after_its_end),
    SEEDED(local_past_the_end),
    SEEDED(sum_out_of_range),
    SEEDED(shift_out_of_range),
    SEEDED(float_at_an_odd_address),
    SEEDED(two_chunks_write_one_element),
    SEEDED(two_chunks_write_one_byte),
    SEEDED(one_sum_for_all_chunks),
    SEEDED(one_buffer_for_all_chunks),
    SEEDED(a_chunk_reads_what_another_writes),
    SEEDED(as_many_sums_as_threads),
    SEEDED(all_in_one_chunk),
};

}  // namespace

bool run_fault(Driver& d, const std::string& name, bool correct) {
  for (const Fault& fault : FAULTS) {
    if (fault.name != name) continue;
    d.run(fault.name, correct ? fault.correct : fault.faulty, [](Tensors& t) {
      return Line{static_cast<const float*>(t.in(F32, COUNT)), static_cast<float*>(t.out(F32, COUNT)), COUNT};
    });
    return true;
  }
  return false;
}

}  // namespace driver
