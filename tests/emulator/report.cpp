// The faults found: told once each, at places that addr2line knows.
#include <link.h>

#include <cstdarg>
#include <cstdio>
#include <set>
#include <tuple>

#include "machine.h"

namespace cusim {

bool failed;

namespace {

constexpr size_t MOST = 50;  // messages kept of one call
const char* const WORDS[] = {"OUT-OF-BOUNDS", "MISALIGNED", "UNINITIALISED", "RACE",     "ASYNC",  "WARP-OP",
                             "SHUFFLE",       "DIVERGENT",  "DEADLOCK",      "LAUNCH",   "UNDEFINED"};

std::vector<std::string> faults;
std::set<std::tuple<Fault, uint32_t, uint32_t>> told;

uintptr_t find_module() {
  Dl_info info{};
  dladdr(reinterpret_cast<const void*>(&find_module), &info);
  return reinterpret_cast<uintptr_t>(info.dli_fbase);
}
const uintptr_t module_begin = find_module();

}  // namespace

uint32_t offset_of(const void* returns) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(returns) - module_begin - 1);
}

std::string text(const char* format, ...) {
  char buffer[512];
  va_list list;
  va_start(list, format);
  vsnprintf(buffer, sizeof buffer, format, list);
  va_end(list);
  return buffer;
}

std::string at(uint32_t site) { return text("@%#x", site); }

bool is_new(Fault kind, uint32_t site, uint32_t other) { return told.insert({kind, site, other}).second; }

void note(Fault kind, const std::string& message) {
  if (faults.size() >= MOST) return;
  std::string who;
  if (current != nullptr) {
    const Index &b = block_at, &t = current->index;
    who = text(" [block (%u,%u,%u) thread (%u,%u,%u)]", b.x, b.y, b.z, t.x, t.y, t.z);
  }
  faults.push_back(std::string(WORDS[static_cast<int>(kind)]) + " " + message + who);
}

void fail(Fault kind, const std::string& message) {
  note(kind, message);
  failed = true;
  wait_as(State::done);  // for ever: the scheduler gives the kernel up
  __builtin_unreachable();
}

std::vector<std::string> take_faults() {
  std::vector<std::string> taken;
  taken.swap(faults);
  told.clear();
  cudaGetLastError();  // of a launcher that did not ask
  failed = false;
  return taken;
}

}  // namespace cusim
