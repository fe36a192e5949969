// Shadow memory: what is known of every piece of device and shared memory. Two accesses race if nothing orders them:
// __syncthreads orders the threads of a block, __syncwarp the lanes of its mask, a kernel's end everything; shuffles
// and matrix instructions do not.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "machine.h"

namespace cusim {

enum class Kind : uint8_t { read, write, atomic };

// Who, when and where. Epochs count the starts of blocks and their barriers; 0: nobody yet.
struct Access {
  uint32_t epoch;
  uint32_t thread : 10, clock : 22;
  uint32_t site;
};

enum : uint8_t { UNALLOCATED = 1, UNINITIALISED = 2, PENDING = 4, ATOMIC = 8 };

// Cells of zeros are initialised and have not been accessed.
struct Cell {
  Access write;
  // The latest read since that write, and an earlier one that is worth more than those between: of another block, else
  // of another warp.
  Access reads[2];
  uint8_t flags;
};

// Which epochs the running block and the running kernel began with.
struct Now {
  uint32_t epoch = 1, block = 1, kernel = 1;
};
extern Now now;

inline bool of_this_block(const Access& a) { return a.epoch >= now.block; }

// Whether nothing orders `before` before what `thread` does now.
inline bool unordered(const Access& before, const Thread& thread) {
  if (before.epoch < now.kernel) return false;
  if (before.epoch != now.epoch) return !of_this_block(before);
  const int number = before.thread;
  if (number == thread.number) return false;
  return number / 32 != thread.warp || thread.known[number % 32] < before.clock;
}

// An array in device or shared memory with a cell per `1 << shift` bytes: 16 at first, fewer from the first access of
// fewer on.
class Region {
 public:
  Region(uintptr_t begin, size_t bytes, uint8_t flags, std::string name, bool shared);

  uintptr_t begin() const { return begin_; }
  uintptr_t end() const { return end_; }
  bool contains(uintptr_t address) const { return address - begin_ < end_ - begin_; }
  bool shared() const { return shared_; }
  const std::string& name() const { return name_; }

  // Makes cells small enough for an access of this size.
  void fit(uintptr_t address, size_t bytes) {
    const size_t odd = (address | bytes) & ((size_t(1) << shift_) - 1);
    if (__builtin_expect(odd != 0, false)) refine(__builtin_ctzll(odd));
  }
  // After fit: the cells of these bytes.
  Cell* first(uintptr_t address) { return cells_.get() + ((address - origin_) >> shift_); }
  Cell* last(uintptr_t address, size_t bytes) { return first(address + bytes - 1); }
  // Puts cells back: nobody has accessed these bytes.
  void reset(uintptr_t address, size_t bytes, uint8_t flags);
  void mark(uintptr_t address, size_t bytes, uint8_t flag, bool on);

 private:
  struct Free {
    void operator()(Cell* p) const { free(p); }
  };
  void refine(int shift);
  size_t count() const { return ((end_ - 1 - origin_) >> shift_) + 1; }

  uintptr_t begin_, end_, origin_;
  int shift_ = 4;
  std::unique_ptr<Cell, Free> cells_;
  std::string name_;
  bool shared_;
};

extern Region* shared_memory;
extern Region* latest;  // in device memory, that was found

// The region of an address; null where there is none.
Region* find_elsewhere(uintptr_t address);
inline Region* find(uintptr_t address) {
  if (shared_memory != nullptr && shared_memory->contains(address)) return shared_memory;
  if (latest != nullptr && latest->contains(address)) return latest;
  return find_elsewhere(address);
}

void add_memory(uintptr_t begin, size_t bytes, bool initialised, const std::string& name);
void forget_memory();

// A new kernel, block or epoch. Blocks are numbered as they ran.
void begin_kernel();
void begin_block(size_t dynamic_bytes);
void begin_epoch();
size_t static_shared_bytes();

// Judges an access and remembers it. A fault that makes going on senseless does not return.
void watch(uintptr_t address, size_t bytes, Kind kind, uint32_t site);
// A later step of a copy_async, which traffic does not count again.
void watch_copy(uintptr_t address, size_t bytes, Kind kind, uint32_t site);

// Faults of a cell, told apart from the usual path.
void tell_flags(const Region& region, const Cell& cell, uintptr_t address, size_t bytes, Kind kind, uint32_t site);
void tell_race(const Region& region, uintptr_t address, const Access& before, const Access& after, Kind kind,
               bool after_read);
[[noreturn]] void fail_outside(const Region* region, uintptr_t address, size_t bytes, Kind kind, uint32_t site);

}  // namespace cusim
