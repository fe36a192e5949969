// copy_async: until its wait a copy's destination holds NaN, and nobody may touch it.
#include <algorithm>
#include <cstring>

#include "shadow.h"

namespace cusim {

namespace {

constexpr size_t BYTES = 16;

uintptr_t address_of(const void* p) { return reinterpret_cast<uintptr_t>(p); }

void finish(const Copy& c) {
  shared_memory->mark(address_of(c.to), BYTES, PENDING, false);
  if (c.real) watch_copy(address_of(c.from), BYTES, Kind::read, c.site);
  watch_copy(address_of(c.to), BYTES, Kind::write, c.site);
  c.real ? memcpy(c.to, c.from, BYTES) : memset(c.to, 0, BYTES);
}

}  // namespace

void check_copies(const Thread& thread) {
  if (thread.copies.empty() || !is_new(Fault::async, thread.copies[0].site)) return;
  note(Fault::async, "a thread exits without having waited for its copy_async " + at(thread.copies[0].site));
}

void copy_commit() { ++current->committed; }

void copy_wait(int pending) {
  Thread& t = *current;
  const auto done = [&](const Copy& c) { return c.group + unsigned(pending) < t.committed; };
  const auto end = std::find_if_not(t.copies.begin(), t.copies.end(), done);  // groups are in order
  std::for_each(t.copies.begin(), end, finish);
  t.copies.erase(t.copies.begin(), end);
}

}  // namespace cusim

namespace pggan {

void copy_async(void* to, const void* from, bool real) {
  using namespace cusim;
  const uint32_t site = CUSIM_CALLER;
  const uintptr_t there = address_of(to);
  if (shared_memory == nullptr || !shared_memory->contains(there)) {
    fail(Fault::out_of_bounds, "copy_async to what is not shared memory " + at(site));
  }
  if (real) watch(address_of(from), BYTES, Kind::read, site);
  watch(there, BYTES, Kind::write, site);
  shared_memory->mark(there, BYTES, PENDING, true);
  memset(to, 0xff, BYTES);
  current->copies.push_back({to, from, real, site, current->committed});
}

}  // namespace pggan
