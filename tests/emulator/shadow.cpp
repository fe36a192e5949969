#include "shadow.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <unordered_map>

namespace cusim {

Now now;
Region* shared_memory;
Region* latest;

namespace {

constexpr size_t ARENA = 512 * 1024;  // shared memory with its gaps
constexpr size_t GAP = 256;           // between arrays in shared memory: nobody's bytes

std::vector<std::unique_ptr<Region>> memory;  // of the device
std::vector<uint32_t> block_starts;           // epochs, of the running kernel

// An array of the running block in shared memory.
struct Array {
  const char* name;
  uintptr_t begin, end;
};
std::vector<Array> arrays;
std::unordered_map<const void*, void*> statics;
uintptr_t used_until;
unsigned char* dynamic_array;
size_t static_bytes;

const char* verb(Kind kind) { return kind == Kind::read ? "read" : kind == Kind::write ? "write" : "atomic"; }

void map_arena() {
  void* p = mmap(nullptr, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  shared_memory = new Region(reinterpret_cast<uintptr_t>(p), ARENA, UNALLOCATED, "shared memory", true);
  used_until = shared_memory->begin();
}

unsigned char* allocate(size_t bytes, const char* name) {
  const uintptr_t begin = (used_until + GAP + 127) / 128 * 128;
  if (begin + bytes + GAP > shared_memory->end()) fail(Fault::launch, "the arrays in shared memory are too large");
  used_until = begin + bytes;
  shared_memory->fit(begin, bytes);
  shared_memory->reset(begin, bytes, UNINITIALISED);
  arrays.push_back({name, begin, used_until});
  unsigned char* p = reinterpret_cast<unsigned char*>(begin);
  std::fill_n(p, bytes, 0xff);  // NaN in every type
  return p;
}

// "global float32[2, 3] +16", "shared tile +0"
std::string place(const Region& region, uintptr_t address) {
  if (!region.shared()) return text("global %s %+ld", region.name().c_str(), long(address - region.begin()));
  for (const Array& a : arrays) {
    if (address >= a.begin && address < a.end + GAP) return text("shared %s +%ld", a.name, long(address - a.begin));
  }
  return "shared memory before its first array";
}

// The array that an address just misses.
const Region* nearby(uintptr_t address) {
  uintptr_t distance = 64;  // what allocators leave between two
  const Region* nearest = nullptr;
  for (const auto& region : memory) {
    const uintptr_t gap = address < region->begin() ? region->begin() - address : address - region->end() + 1;
    if (gap > distance) continue;
    distance = gap;
    nearest = region.get();
  }
  return nearest;
}

int block_of(const Access& a) {
  return int(std::upper_bound(block_starts.begin(), block_starts.end(), a.epoch) - block_starts.begin()) - 1;
}

}  // namespace

Region::Region(uintptr_t begin, size_t bytes, uint8_t flags, std::string name, bool shared)
    : begin_(begin), end_(begin + bytes), origin_(begin / 16 * 16), name_(std::move(name)), shared_(shared) {
  cells_.reset(static_cast<Cell*>(calloc(count(), sizeof(Cell))));
  if (!cells_) throw std::bad_alloc();
  if (flags != 0) {
    for (size_t i = 0; i < count(); ++i) cells_.get()[i].flags = flags;
  }
}

void Region::refine(int shift) {
  const size_t before = count(), copies = size_t(1) << (shift_ - shift);
  shift_ = shift;
  std::unique_ptr<Cell, Free> fine(static_cast<Cell*>(malloc(before * copies * sizeof(Cell))));
  if (!fine) throw std::bad_alloc();
  for (size_t i = 0; i < before; ++i) std::fill_n(fine.get() + i * copies, copies, cells_.get()[i]);
  cells_ = std::move(fine);
}

void Region::reset(uintptr_t address, size_t bytes, uint8_t flags) {
  if (bytes != 0) std::fill(first(address), last(address, bytes) + 1, Cell{{}, {}, flags});
}

void Region::mark(uintptr_t address, size_t bytes, uint8_t flag, bool on) {
  for (Cell *c = first(address), *end = last(address, bytes) + 1; c < end; ++c) {
    c->flags = on ? c->flags | flag : c->flags & ~flag;
  }
}

Region* find_elsewhere(uintptr_t address) {
  for (const auto& region : memory) {
    if (region->contains(address)) return latest = region.get();
  }
  return nullptr;
}

void add_memory(uintptr_t begin, size_t bytes, bool initialised, const std::string& name) {
  memory.push_back(std::make_unique<Region>(begin, bytes, initialised ? 0 : UNINITIALISED, name, false));
}

// No cell is left that holds an epoch, so that they can be counted from 1 again.
void forget_memory() {
  memory.clear();
  latest = nullptr;
  now = {};
}

void begin_kernel() {
  now.kernel = now.epoch + 1;
  block_starts.clear();
}

void begin_block(size_t dynamic_bytes) {
  if (shared_memory == nullptr) map_arena();
  now.block = ++now.epoch;
  block_starts.push_back(now.epoch);
  shared_memory->reset(shared_memory->begin(), used_until - shared_memory->begin(), UNALLOCATED);
  used_until = shared_memory->begin();
  arrays.clear();
  statics.clear();
  static_bytes = 0;
  dynamic_array = dynamic_bytes != 0 ? allocate(dynamic_bytes, "dynamic") : nullptr;
}

void begin_epoch() { ++now.epoch; }

size_t static_shared_bytes() { return static_bytes; }

unsigned char* dynamic_shared() { return dynamic_array; }

void* static_shared(const void* key, size_t bytes, const char* name) {
  void*& found = statics[key];
  if (found == nullptr) {
    found = allocate(bytes, name);
    static_bytes += bytes;
  }
  return found;
}

void tell_flags(const Region& region, const Cell& cell, uintptr_t address, size_t bytes, Kind kind, uint32_t site) {
  if (cell.flags & UNALLOCATED) fail_outside(&region, address, bytes, kind, site);
  if (cell.flags & PENDING && is_new(Fault::async, site)) {
    note(Fault::async, text("%s of %zu bytes where a copy_async is under way: %s ", verb(kind), bytes,
                            place(region, address).c_str()) + at(site));
  }
  if (cell.flags & UNINITIALISED && kind != Kind::write && is_new(Fault::uninitialised, site)) {
    const std::string where = place(region, address);
    note(Fault::uninitialised, text("%s of %zu bytes: %s ", verb(kind), bytes, where.c_str()) + at(site));
  }
}

void tell_race(const Region& region, uintptr_t address, const Access& before, const Access& after, Kind kind,
               bool after_read) {
  if (!is_new(Fault::race, before.site, after.site)) return;
  const char* which = after_read ? "write-after-read" : kind == Kind::read ? "read-after-write" : "write-write";
  note(Fault::race, text("%s: %s, block %d thread %d %s against block %d thread %d %s", which,
                         place(region, address).c_str(), block_of(before), before.thread, at(before.site).c_str(),
                         block_of(after), after.thread, at(after.site).c_str()));
}

void fail_outside(const Region* region, uintptr_t address, size_t bytes, Kind kind, uint32_t site) {
  if (region == nullptr) region = nearby(address);
  const std::string where = region != nullptr ? place(*region, address) : text("%#lx, no device memory", long(address));
  fail(Fault::out_of_bounds, text("%s of %zu bytes: %s ", verb(kind), bytes, where.c_str()) + at(site));
}

}  // namespace cusim
