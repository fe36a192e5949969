// Modelled memory traffic: what each line's loads and stores ask of the caches and of shared memory's banks.
//
// It counts accesses as g++ emits them. nvcc may merge or drop some; load128, store128, ldmatrix and copy_async are
// what they say. There is no model of cache hits and none of time.
#pragma once

#include <cstdint>
#include <vector>

#include "machine.h"
#include "shadow.h"

namespace cusim {

// All requests of one place to one space. A request is one execution by a warp.
struct Traffic {
  uint32_t site;
  bool shared, write;
  uint64_t requests = 0, bytes = 0;
  uint64_t sectors = 0;     // of 32 bytes, in device memory
  uint64_t wavefronts = 0;  // of 32 banks, in shared memory
  uint64_t ideal = 0;       // the least number of either that these bytes and this many lanes take
};

// Different bytes of device memory.
struct Unique {
  uint64_t read, written;
};

void count_traffic(uintptr_t address, size_t bytes, Kind kind, bool shared, uint32_t site);
// At a barrier and at a block's end, up to which a warp's records are kept.
void settle_traffic();
void begin_traffic_of_thread(Thread& thread);
void forget_traffic();
Moved take_launch_traffic();  // of the launch that has just ended
std::vector<Traffic> traffic();
Unique unique_bytes();

}  // namespace cusim
