// A fiber: a stack of its own, and a place on it to go on from.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) || defined(CUSIM_UCONTEXT)
#define CUSIM_USES_UCONTEXT 1
#include <ucontext.h>
#endif

namespace cusim {

class Fiber {
 public:
  static constexpr size_t STACK = 256 * 1024;

  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // To start at `entry`, which never returns, when it is changed to.
  void prepare(void (*entry)());
  bool on_stack(uintptr_t address) const { return address - stack_ < STACK; }

  // Goes on with `to`, until another fiber changes to `from`.
  static void change(Fiber& from, Fiber& to);

 private:
  void start_at(void (*entry)());
  static void jump(Fiber& from, Fiber& to);

  uintptr_t stack_ = 0;  // its lowest address; 0: the stack that the program started with
#if defined(__SANITIZE_ADDRESS__)
  static void enter();

  void (*entry_)() = nullptr;
  const void* bottom_ = nullptr;  // the stack, the program's own too, as AddressSanitizer knows it
  size_t bytes_ = 0;
  void* frames_ = nullptr;  // those that it keeps elsewhere, to see them used after they return
#endif
#if defined(CUSIM_USES_UCONTEXT)
  ucontext_t context_;
#else
  void* top_ = nullptr;
#endif
};

}  // namespace cusim
