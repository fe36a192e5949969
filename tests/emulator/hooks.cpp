// What g++ calls at every load and store of a kernel, and where its arithmetic is undefined.
//
// In the build for AddressSanitizer g++ calls that instead. Shadow memory then misses what kernels write, and judges
// nothing.
#include <link.h>

#include "shadow.h"
#include "traffic.h"

namespace cusim {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool SEES_ALL = false;
#else
constexpr bool SEES_ALL = true;
#endif

struct Range {
  uintptr_t begin, end;
};

int collect(dl_phdr_info* info, size_t, void* ranges) {
  const uintptr_t here = reinterpret_cast<uintptr_t>(&collect);
  std::vector<Range> segments;
  bool ours = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type != PT_LOAD) continue;
    const uintptr_t begin = info->dlpi_addr + header.p_vaddr;
    segments.push_back({begin, begin + header.p_memsz});
    ours |= here >= begin && here < segments.back().end;
  }
  if (ours) *static_cast<std::vector<Range>*>(ranges) = segments;
  return ours;
}

// Constants of kernels lie in the module.
bool in_module(uintptr_t address, size_t bytes) {
  static const std::vector<Range> segments = [] {
    std::vector<Range> found;
    dl_iterate_phdr(collect, &found);
    return found;
  }();
  for (const Range& r : segments) {
    if (address >= r.begin && address + bytes <= r.end) return true;
  }
  return false;
}

// The earlier of two reads that is worth keeping beside `c.reads[0]`; see Cell.
inline void remember(Cell& c, const Access& access, const Thread& thread) {
  Access& latest_read = c.reads[0];
  if (latest_read.thread != access.thread || !of_this_block(latest_read)) {
    const Access& kept = c.reads[1];
    const bool elsewhere = !of_this_block(kept) || kept.thread / 32 != unsigned(thread.warp);
    if (!(elsewhere && unordered(kept, thread))) c.reads[1] = latest_read;
  }
  latest_read = access;
}

inline void touch(Region& region, Cell& c, uintptr_t address, size_t bytes, Kind kind, const Access& access,
                  const Thread& thread) {
  if (__builtin_expect(c.flags & (UNALLOCATED | UNINITIALISED | PENDING), 0)) {
    tell_flags(region, c, address, bytes, kind, access.site);
  }
  const bool both_atomic = kind == Kind::atomic && c.flags & ATOMIC;
  if (unordered(c.write, thread) && !both_atomic) tell_race(region, address, c.write, access, kind, false);
  if (kind == Kind::read) return remember(c, access, thread);
  for (const Access& read : c.reads) {
    if (unordered(read, thread)) {
      tell_race(region, address, read, access, kind, true);
      break;
    }
  }
  c = {access, {}, uint8_t((c.flags & PENDING) | (kind == Kind::atomic ? ATOMIC : 0))};
}

// `counted`: as traffic.
inline void judge(uintptr_t address, size_t bytes, Kind kind, uint32_t site, bool counted) {
  if (!SEES_ALL) return;
  const Thread& thread = *current;
  ++counts.accesses;
  Region* region = find(address);
  if (region == nullptr) {
    if (kind == Kind::read) {
      if (address >= parameters_begin && address + bytes <= parameters_end) return;
      if (in_module(address, bytes)) return;
    }
    fail_outside(nullptr, address, bytes, kind, site);
  }
  if (address + bytes > region->end()) fail_outside(region, address, bytes, kind, site);
  if ((bytes & (bytes - 1)) == 0 && (address & (bytes - 1)) != 0) {
    fail(Fault::misaligned, text("access of %zu bytes at %#lx ", bytes, long(address)) + at(site));
  }
  region->fit(address, bytes);
  const Access access{now.epoch, unsigned(thread.number), thread.known[thread.lane], site};
  for (Cell *c = region->first(address), *last = region->last(address, bytes); c <= last; ++c) {
    touch(*region, *c, address, bytes, kind, access, thread);
  }
  if (settings.traffic && counted) count_traffic(address, bytes, kind, region->shared(), site);
}

template <size_t bytes, Kind kind>
inline void hook(const void* p, const void* returns) {
  if (current == nullptr) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(p);
  if (current->fiber.on_stack(address)) return;
  judge(address, bytes, kind, offset_of(returns), true);
}

inline void hook_range(const void* p, size_t bytes, Kind kind, const void* returns) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(p);
  if (current == nullptr || bytes == 0 || current->fiber.on_stack(address)) return;
  judge(address, bytes, kind, offset_of(returns), true);
}

template <class T>
T atomic_add(T* to, T value, uint32_t site) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(to);
  if (current != nullptr && !current->fiber.on_stack(address)) watch(address, sizeof(T), Kind::atomic, site);
  const T before = *to;
  *to = before + value;
  return before;
}

}  // namespace

void watch(uintptr_t address, size_t bytes, Kind kind, uint32_t site) { judge(address, bytes, kind, site, true); }

void watch_copy(uintptr_t address, size_t bytes, Kind kind, uint32_t site) { judge(address, bytes, kind, site, false); }

void copy_memory(void* to, const void* from, size_t bytes) {
  const void* caller = __builtin_return_address(0);
  hook_range(from, bytes, Kind::read, caller);
  hook_range(to, bytes, Kind::write, caller);
  __builtin_memcpy(to, from, bytes);
}

}  // namespace cusim

using cusim::Kind;

float atomicAdd(float* to, float value) { return cusim::atomic_add(to, value, CUSIM_CALLER); }
int atomicAdd(int* to, int value) { return cusim::atomic_add(to, value, CUSIM_CALLER); }
unsigned atomicAdd(unsigned* to, unsigned value) { return cusim::atomic_add(to, value, CUSIM_CALLER); }
unsigned long long atomicAdd(unsigned long long* to, unsigned long long value) {
  return cusim::atomic_add(to, value, CUSIM_CALLER);
}

namespace pggan {

Vec16 load128(const void* from) {
  cusim::hook<16, Kind::read>(from, __builtin_return_address(0));
  return *static_cast<const Vec16*>(from);
}

void store128(void* to, Vec16 v) {
  using namespace cusim;
  if (shared_memory != nullptr && shared_memory->contains(reinterpret_cast<uintptr_t>(to))) {
    fail(Fault::out_of_bounds, "store128 to what is not device memory " + at(CUSIM_CALLER));
  }
  hook<16, Kind::write>(to, __builtin_return_address(0));
  *static_cast<Vec16*>(to) = v;
}

void store128_shared(void* to, Vec16 v) {
  using namespace cusim;
  if (shared_memory == nullptr || !shared_memory->contains(reinterpret_cast<uintptr_t>(to))) {
    fail(Fault::out_of_bounds, "store128_shared to what is not shared memory " + at(CUSIM_CALLER));
  }
  hook<16, Kind::write>(to, __builtin_return_address(0));
  *static_cast<Vec16*>(to) = v;
}

}  // namespace pggan

#if !defined(__SANITIZE_ADDRESS__)
extern "C" {

#define CUSIM_HOOKS(bytes)                                                                                          \
  void __tsan_read##bytes(void* p) { cusim::hook<bytes, Kind::read>(p, __builtin_return_address(0)); }              \
  void __tsan_write##bytes(void* p) { cusim::hook<bytes, Kind::write>(p, __builtin_return_address(0)); }            \
  void __tsan_unaligned_read##bytes(void* p) { cusim::hook<bytes, Kind::read>(p, __builtin_return_address(0)); }    \
  void __tsan_unaligned_write##bytes(void* p) { cusim::hook<bytes, Kind::write>(p, __builtin_return_address(0)); }
CUSIM_HOOKS(1)
CUSIM_HOOKS(2)
CUSIM_HOOKS(4)
CUSIM_HOOKS(8)
CUSIM_HOOKS(16)
#undef CUSIM_HOOKS

void __tsan_read_range(void* p, size_t bytes) {
  cusim::hook_range(p, bytes, Kind::read, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t bytes) {
  cusim::hook_range(p, bytes, Kind::write, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// What -fsanitize=bounds and its like call. Host code has no thread to stop.
static void cusim_undefined(const char* what, uint32_t site) {
  using namespace cusim;
  if (current != nullptr) fail(Fault::undefined, std::string(what) + " " + at(site));
  if (is_new(Fault::undefined, site)) note(Fault::undefined, std::string(what) + " in a launcher " + at(site));
}
#define CUSIM_UNDEFINED(name, what, ...) \
  void __ubsan_handle_##name(__VA_ARGS__) { cusim_undefined(what, CUSIM_CALLER); }
CUSIM_UNDEFINED(out_of_bounds, "array index out of range", void*, void*)
CUSIM_UNDEFINED(shift_out_of_bounds, "shift by more than the type has bits", void*, void*, void*)
CUSIM_UNDEFINED(divrem_overflow, "division by zero", void*, void*, void*)
CUSIM_UNDEFINED(add_overflow, "signed sum out of range", void*, void*, void*)
CUSIM_UNDEFINED(sub_overflow, "signed difference out of range", void*, void*, void*)
CUSIM_UNDEFINED(mul_overflow, "signed product out of range", void*, void*, void*)
CUSIM_UNDEFINED(negate_overflow, "signed negation out of range", void*, void*)
#undef CUSIM_UNDEFINED

}  // extern "C"
#endif
