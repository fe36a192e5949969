// The order in which fibers run, and what ends a block: all threads done, a fault, or a deadlock.
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <memory>
#include <numeric>

#include "shadow.h"
#include "traffic.h"

namespace cusim {

Settings settings;
Counts counts;
Thread* current;
Index block_at, block_shape, grid_shape;
uintptr_t parameters_begin, parameters_end;

namespace {

std::unique_ptr<Thread[]> threads;  // as many as a block can have; their stacks are kept from block to block
int thread_count, waiting, done;
Fiber home;  // of run_grid
const Call* running;
std::deque<Thread*> ready;

uint32_t state_of_chance;
uint32_t chance(uint32_t below) {
  state_of_chance ^= state_of_chance << 13;
  state_of_chance ^= state_of_chance >> 17;
  state_of_chance ^= state_of_chance << 5;
  return state_of_chance % below;
}

Thread* next() {
  if (ready.empty() || failed) return nullptr;
  if (settings.order == RANDOM) std::swap(ready[chance(ready.size())], ready.back());
  Thread* thread = settings.order == FIFO ? ready.front() : ready.back();
  settings.order == FIFO ? ready.pop_front() : ready.pop_back();
  return thread;
}

// From the fiber that runs to the next that can, or home.
void change(Fiber& from) {
  Thread* to = next();
  current = to;
  ++counts.switches;
  if (to == nullptr) return Fiber::change(from, home);
  if (&to->fiber != &from) Fiber::change(from, to->fiber);
}

void thread_entry() {
  running->run(running->parameters);
  check_copies(*current);
  lane_exits(*current);
  ++done;
  wait_as(State::done);
  abort();
}

void begin_thread(int number) {
  Thread& t = threads[number];
  const unsigned n = number;
  t.index = {n % block_shape.x, n / block_shape.x % block_shape.y, n / block_shape.x / block_shape.y};
  t.number = number;
  t.warp = number / 32;
  t.lane = number % 32;
  std::fill_n(t.known, 32, 0);
  t.known[t.lane] = 1;
  t.op = nullptr;
  t.copies.clear();
  t.committed = 0;
  begin_traffic_of_thread(t);
  t.fiber.prepare(thread_entry);
  make_ready(t);
}

// All threads that are left wait at barriers.
void release_barrier() {
  const Thread *first = nullptr, *other = nullptr;
  for (Thread* t = &threads[0]; t < &threads[thread_count]; ++t) {
    if (t->state != State::at_barrier) continue;
    if (first == nullptr) first = t;
    if (t->site.line != first->site.line) other = t;
    make_ready(*t);
  }
  if (other != nullptr && is_new(Fault::divergent, first->site.address, other->site.address)) {
    note(Fault::divergent, text("threads %d and %d of one block meet at two barriers: ", first->number, other->number) +
                               at(first->site.address) + " and " + at(other->site.address));
  }
  if (done != 0 && is_new(Fault::divergent, first->site.address)) {
    note(Fault::divergent, text("%d of %d threads come to a barrier, the others have exited ", waiting, thread_count) +
                               at(first->site.address));
  }
  waiting = 0;
  begin_epoch();
  if (settings.traffic) settle_traffic();
}

void tell_deadlock() {
  std::string who;
  int told = 0;
  for (const Thread* t = &threads[0]; t < &threads[thread_count] && told < 4; ++t) {
    if (t->state == State::done) continue;
    ++told;
    const bool barrier = t->state == State::at_barrier;
    who += text(" thread %d in %s", t->number, barrier ? "__syncthreads" : t->op->name);
    if (!barrier) who += text(" of lanes %#x", t->mask);
    who += " " + at(t->site.address) + ";";
  }
  note(Fault::deadlock, text("%d of %d threads wait for ever:", thread_count - done, thread_count) + who);
  failed = true;
}

void run_block(Index index, size_t shared) {
  block_at = index;
  ready.clear();
  waiting = done = 0;
  begin_block(shared);
  begin_warps();
  for (int t = 0; t < thread_count; ++t) begin_thread(t);
  counts.threads += thread_count;
  while (!failed && done < thread_count) {
    if (!ready.empty()) {
      change(home);
    } else if (waiting != 0 && waiting + done == thread_count) {
      release_barrier();
    } else {
      tell_deadlock();
    }
  }
  if (settings.traffic) settle_traffic();
}

Index index_of(uint64_t number) {
  const uint64_t x = grid_shape.x, y = grid_shape.y;
  return {unsigned(number % x), unsigned(number / x % y), unsigned(number / x / y)};
}

}  // namespace

Index thread_index() noexcept { return current->index; }
Index block_index() noexcept { return block_at; }
Index block_size() noexcept { return block_shape; }
Index grid_size() noexcept { return grid_shape; }

Thread* lanes_of_warp(int warp) { return &threads[warp * 32]; }
int lane_count(int warp) { return std::min(32, thread_count - warp * 32); }

void make_ready(Thread& thread) {
  thread.state = State::ready;
  ready.push_back(&thread);
}

void wait_as(State state) {
  Thread& thread = *current;
  thread.state = state;
  change(thread.fiber);
}

void run_grid(const Call& call, dim3 grid, dim3 block, size_t shared) {
  if (!threads) threads.reset(new Thread[1024]());
  grid_shape = {grid.x, grid.y, grid.z};
  block_shape = {block.x, block.y, block.z};
  thread_count = int(block.x * block.y * block.z);
  running = &call;
  parameters_begin = reinterpret_cast<uintptr_t>(call.parameters);
  parameters_end = parameters_begin + call.bytes;
  state_of_chance = settings.seed * 2654435761u | 1;
  std::vector<uint32_t> order(size_t(grid.x) * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0);
  if (settings.order == LIFO) std::reverse(order.begin(), order.end());
  if (settings.order == RANDOM) {
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[chance(uint32_t(i))]);
  }
  begin_kernel();
  for (const uint32_t number : order) {
    if (failed) break;
    run_block(index_of(number), shared);
  }
}

}  // namespace cusim

void __syncthreads(int line) {
  using namespace cusim;
  current->site = {CUSIM_CALLER, line};
  ++waiting;
  wait_as(State::at_barrier);
}
