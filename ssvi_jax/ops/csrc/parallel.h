// A parallel loop on a thread pool that other work shares.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

namespace ssvi {

// Schedules a closure on some thread, now or much later.
using Schedule = std::function<void(std::function<void()>)>;

struct Pool {
  int threads = 1;  // including the caller
  Schedule schedule;
};

// Waits a few microseconds for something that another thread does, without giving up the
// processor; whether it came.
template <typename Done>
inline bool spin_until(const Done& done) {
  constexpr int kTurns = 2000;
  for (int i = 0; i < kTurns; ++i) {
    if (done()) return true;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
  return done();
}

// Calls body(i) for i in [0, count) on the caller and on helpers from the pool.
//
// The caller takes items too and waits only for items that a helper has begun, never
// for a helper to start: all threads of the pool may be callers at the same time.
inline void parallel_for(const Pool& pool, int64_t count,
                         const std::function<void(int64_t)>& body) {
  if (pool.threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  struct State {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;
    std::exception_ptr error;
  };
  auto state = std::make_shared<State>();
  // `body` lives until the caller returns; a helper that starts later finds no item.
  auto work = [state, count, &body] {
    for (int64_t i; (i = state->next.fetch_add(1)) < count;) {
      try {
        body(i);
      } catch (...) {
        std::lock_guard<std::mutex> lock(state->mutex);
        state->error = std::current_exception();
      }
      if (state->done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(state->mutex);
        state->finished.notify_all();
      }
    }
  };
  const int64_t helpers = std::min<int64_t>(pool.threads, count) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.schedule(work);
  work();
  const auto all_done = [&] { return state->done.load() == count; };
  spin_until(all_done);
  std::unique_lock<std::mutex> lock(state->mutex);
  state->finished.wait(lock, all_done);
  if (state->error) std::rethrow_exception(state->error);
}

// Part i of `parts` of [low, high).
template <typename T>
inline T part(T low, T high, int64_t i, int64_t parts) {
  return static_cast<T>(low + (high - low) * i / parts);
}

}  // namespace ssvi
