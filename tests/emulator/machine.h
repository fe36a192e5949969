// The emulated machine, as its parts see each other: settings, the threads of the running block, and the faults found.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cusim.h"
#include "fiber.h"

#undef memcpy  // the emulator's own copies are not watched

namespace cusim {

enum Order { FIFO, LIFO, RANDOM };  // in which threads and blocks run

struct Settings {
  uint32_t seed = 1;
  int order = FIFO;
  bool traffic = false;
  int multiprocessors = 3;
  int shared_limit = 227 * 1024;  // bytes that a block can opt in to
};
extern Settings settings;

// What has happened since `configure`.
struct Counts {
  uint64_t accesses = 0, switches = 0, threads = 0, mma = 0;
};
extern Counts counts;

// Device memory that a launch moved: sectors of 32 bytes, and different bytes; nothing without `traffic`.
struct Moved {
  uint64_t sectors = 0, read = 0, written = 0;
};
// A launch since `configure`; `kernel` is an offset in the module.
struct Launched {
  uint32_t kernel;
  Moved moved;
};
extern std::vector<Launched> launches;

// A place in a kernel. `address` is an offset in the module, which addr2line takes; `line` tells operations apart.
struct Site {
  uint32_t address;
  int line;
};

// The offset in this module of the call that returns to `returns`.
uint32_t offset_of(const void* returns);
#define CUSIM_CALLER cusim::offset_of(__builtin_extract_return_addr(__builtin_return_address(0)))

struct Thread;

// An operation of a warp: `complete` runs it for lanes in `mask` once all of them are there.
struct WarpOp {
  const char* name;
  void (*complete)(Thread* lanes, unsigned mask);
  bool same_line;  // lanes may not meet from different places
};

// A copy_async that has not been waited for.
struct Copy {
  void* to;
  const void* from;
  bool real;
  uint32_t site;
  unsigned group;
};

enum class State : uint8_t { ready, at_barrier, in_warp_op, done };

struct Thread {
  Fiber fiber;
  Index index;
  int number, warp, lane;  // in the block, in the block, in the warp
  State state;

  // Up to which clock of each lane of its warp this thread has seen everything; its own is its clock.
  uint32_t known[32];

  // Where it waits, and the operands of the warp operation in which it does.
  Site site;
  const WarpOp* op;
  unsigned mask;
  const void* in[2];
  void* out;
  uint64_t value, result;
  int by, width;
  Shuffle how;

  std::vector<Copy> copies;
  unsigned committed;                // groups of copies
  std::vector<uint32_t> executions;  // of every access, where traffic is counted
};

extern Thread* current;  // the thread that runs; null in host code
extern Index block_at, block_shape, grid_shape;
extern uintptr_t parameters_begin, parameters_end;  // of the kernel, in host memory
extern bool failed;                                 // the kernel has been given up

// schedule.cpp
void run_grid(const Call& call, dim3 grid, dim3 block, size_t shared);
Thread* lanes_of_warp(int warp);
int lane_count(int warp);
void make_ready(Thread& thread);
void wait_as(State state);  // until the current thread is made ready

// warp.cpp
void begin_warps();
void lane_exits(const Thread& thread);

// copies.cpp: faults where a thread that exits has not waited for its copies
void check_copies(const Thread& thread);

// Faults. A fault is told once for each kind and pair of places.
enum class Fault {
  out_of_bounds, misaligned, uninitialised, race, async, warp_op, shuffle, divergent, deadlock, launch, undefined
};  // fmt: skip
std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string at(uint32_t site);  // "@0x...", for addr2line
bool is_new(Fault kind, uint32_t site, uint32_t other = 0);
void note(Fault kind, const std::string& message);               // and go on
[[noreturn]] void fail(Fault kind, const std::string& message);  // and give the kernel up
std::vector<std::string> take_faults();

}  // namespace cusim
