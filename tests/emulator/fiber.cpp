#include "fiber.h"

#include <sys/mman.h>

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cusim {

namespace {

constexpr size_t GUARD = 4096;  // below a stack: running over its end is a crash, not a surprise

uintptr_t map_stack() {
  void* p = mmap(nullptr, GUARD + Fiber::STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (p == MAP_FAILED || mprotect(p, GUARD, PROT_NONE) != 0) throw std::bad_alloc();
  return reinterpret_cast<uintptr_t>(p) + GUARD;
}

}  // namespace

Fiber::~Fiber() {
  if (stack_ != 0) munmap(reinterpret_cast<void*>(stack_ - GUARD), GUARD + STACK);
}

#if defined(__SANITIZE_ADDRESS__)

namespace {
Fiber *left, *reached;  // of the latest change
}

// AddressSanitizer has to know which stack is in use.
void Fiber::change(Fiber& from, Fiber& to) {
  left = &from;
  reached = &to;
  __sanitizer_start_switch_fiber(&from.frames_, to.bottom_, to.bytes_);
  jump(from, to);
  __sanitizer_finish_switch_fiber(from.frames_, &left->bottom_, &left->bytes_);
}

void Fiber::enter() {
  Fiber& fiber = *reached;
  __sanitizer_finish_switch_fiber(fiber.frames_, &left->bottom_, &left->bytes_);
  fiber.entry_();
}

void Fiber::prepare(void (*entry)()) {
  if (stack_ == 0) stack_ = map_stack();
  bottom_ = reinterpret_cast<const void*>(stack_);
  bytes_ = STACK;
  entry_ = entry;
  __asan_unpoison_memory_region(bottom_, bytes_);  // what a kernel that was given up has left there
  start_at(&enter);
}

#else

void Fiber::change(Fiber& from, Fiber& to) { jump(from, to); }

void Fiber::prepare(void (*entry)()) {
  if (stack_ == 0) stack_ = map_stack();
  start_at(entry);
}

#endif

#if defined(CUSIM_USES_UCONTEXT)

void Fiber::start_at(void (*entry)()) {
  getcontext(&context_);
  context_.uc_stack = {reinterpret_cast<void*>(stack_), 0, STACK};
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
}

void Fiber::jump(Fiber& from, Fiber& to) { swapcontext(&from.context_, &to.context_); }

#else

// Saves what a called function must keep on one stack and takes it from the other. swapcontext would also save the
// signal mask, by a system call that takes ten times as long.
extern "C" void cusim_change(void** save, void* to);
asm(R"(
.text
.globl cusim_change
.hidden cusim_change
.type cusim_change,@function
cusim_change:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cusim_change,.-cusim_change
)");

void Fiber::start_at(void (*entry)()) {
  // What cusim_change takes: six registers, then where it returns to, with the stack as at a function's first
  // instruction (8 past a multiple of 16).
  void** top = reinterpret_cast<void**>(stack_ + STACK - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  top_ = top;
}

void Fiber::jump(Fiber& from, Fiber& to) { cusim_change(&from.top_, to.top_); }

#endif

}  // namespace cusim
