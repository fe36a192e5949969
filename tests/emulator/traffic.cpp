#include "traffic.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>

namespace cusim {

namespace {

constexpr unsigned SECTOR = 32, BANKS = 32, WORD = 4;

// One lane's part in the k-th execution of a place by its warp.
struct Part {
  int warp;
  uint32_t place, execution;
  int lane;
  uintptr_t address;
  uint32_t bytes;
  auto key() const { return std::tie(warp, place, execution, lane); }
  bool same_request(const Part& o) const {
    return warp == o.warp && place == o.place && execution == o.execution;
  }
};
using Parts = std::vector<Part>;

Parts parts;
std::vector<Traffic> places;
std::unordered_map<uint64_t, uint32_t> place_numbers;
// Sectors, with a bit for each of their bytes.
using Touched = std::unordered_map<uintptr_t, uint32_t>;
struct Distinct {
  Touched read, written;
};
Distinct since_configure, of_launch;
uint64_t sectors_of_launch;

uint32_t number_of(uint32_t site, bool shared, bool write) {
  const auto [found, added] = place_numbers.try_emplace(uint64_t(site) << 2 | shared << 1 | write, places.size());
  if (added) places.push_back({site, shared, write});
  return found->second;
}

void device_request(Traffic& t, Parts::const_iterator begin, Parts::const_iterator end) {
  Touched sectors;
  for (auto p = begin; p != end; ++p) {
    for (uintptr_t a = p->address; a < p->address + p->bytes; ++a) sectors[a / SECTOR] |= 1u << a % SECTOR;
  }
  unsigned bytes = 0;
  for (const auto& [sector, mask] : sectors) {
    bytes += __builtin_popcount(mask);
    for (Distinct* distinct : {&since_configure, &of_launch})
      (t.write ? distinct->written : distinct->read)[sector] |= mask;
  }
  sectors_of_launch += sectors.size();
  t.sectors += sectors.size();
  t.ideal += (bytes + SECTOR - 1) / SECTOR;
}

uint64_t bytes_of(const Touched& touched) {
  uint64_t bytes = 0;
  for (const auto& [sector, mask] : touched) bytes += __builtin_popcount(mask);
  return bytes;
}

// How often the fullest bank is asked for another word.
unsigned wavefronts(const Parts& phase) {
  std::vector<uintptr_t> words;
  for (const Part& p : phase) {
    for (uintptr_t w = p.address / WORD; w <= (p.address + p.bytes - 1) / WORD; ++w) words.push_back(w);
  }
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  unsigned of_bank[BANKS] = {}, most = 0;
  for (const uintptr_t w : words) most = std::max(most, ++of_bank[w % BANKS]);
  return most;
}

// Lanes go in phases of 128 bytes: 8 of them with 16 bytes each, 16 with 8, else all.
void shared_request(Traffic& t, Parts::const_iterator begin, Parts::const_iterator end) {
  const int lanes = begin->bytes >= 16 ? 8 : begin->bytes == 8 ? 16 : 32;
  while (begin != end) {
    Parts phase;
    const int first = begin->lane / lanes;
    for (; begin != end && begin->lane / lanes == first; ++begin) phase.push_back(*begin);
    t.wavefronts += wavefronts(phase);
    ++t.ideal;
  }
}

}  // namespace

void count_traffic(uintptr_t address, size_t bytes, Kind kind, bool shared, uint32_t site) {
  Thread& thread = *current;
  const uint32_t place = number_of(site, shared, kind != Kind::read);
  if (thread.executions.size() <= place) thread.executions.resize(place + 64);
  parts.push_back({thread.warp, place, thread.executions[place]++, thread.lane, address, uint32_t(bytes)});
}

void settle_traffic() {
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.key() < b.key(); });
  for (auto begin = parts.cbegin(); begin != parts.cend();) {
    const auto end = std::find_if(begin, parts.cend(), [&](const Part& p) { return !p.same_request(*begin); });
    Traffic& t = places[begin->place];
    ++t.requests;
    for (auto p = begin; p != end; ++p) t.bytes += p->bytes;
    t.shared ? shared_request(t, begin, end) : device_request(t, begin, end);
    begin = end;
  }
  parts.clear();
}

void begin_traffic_of_thread(Thread& thread) { thread.executions.clear(); }

void forget_traffic() {
  parts.clear();
  places.clear();
  place_numbers.clear();
  since_configure = {};
  take_launch_traffic();
}

Moved take_launch_traffic() {
  const Moved moved{sectors_of_launch, bytes_of(of_launch.read), bytes_of(of_launch.written)};
  of_launch = {};
  sectors_of_launch = 0;
  return moved;
}

std::vector<Traffic> traffic() { return places; }

Unique unique_bytes() { return {bytes_of(since_configure.read), bytes_of(since_configure.written)}; }

}  // namespace cusim
