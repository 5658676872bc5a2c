// Threads that wait for work.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel.h"

namespace ssvi {

class Workers {
 public:
  // The caller is one of them; where the system has no more threads they are fewer.
  explicit Workers(int threads);
  ~Workers();
  Workers(const Workers&) = delete;
  const Pool& pool() const { return pool_; }
  int asked() const { return asked_; }

 private:
  void work();
  int asked_;
  Pool pool_;
  std::vector<std::thread> threads_;
  std::deque<std::function<void()>> waiting_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<int> pending_{
      0};  // of waiting_, which a thread may look at without the lock
  int asleep_ = 0;
  bool closing_ = false;
};

}  // namespace ssvi
