#include "workers.h"

#include <exception>
#include <utility>

namespace ssvi {

Workers::Workers(int threads) : asked_(threads) {
  pool_.schedule = [this](std::function<void()> work) {
    bool wake;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      waiting_.push_back(std::move(work));
      ++pending_;
      wake = asleep_ > 0;
    }
    if (wake) changed_.notify_one();
  };
  try {
    for (int i = 1; i < threads; ++i) threads_.emplace_back([this] { work(); });
  } catch (const std::exception&) {  // there are no more: those that began do the work
  }
  pool_.threads = static_cast<int>(threads_.size()) + 1;
}

Workers::~Workers() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Workers::work() {
  for (;;) {
    std::function<void()> next;
    // Between two layers of one input there is less time than waking takes.
    spin_until([this] { return pending_.load(std::memory_order_relaxed) > 0; });
    {
      std::unique_lock<std::mutex> lock(mutex_);
      ++asleep_;
      changed_.wait(lock, [this] { return closing_ || !waiting_.empty(); });
      --asleep_;
      if (closing_) return;
      --pending_;
      next = std::move(waiting_.front());
      waiting_.pop_front();
    }
    next();
  }
}

}  // namespace ssvi
