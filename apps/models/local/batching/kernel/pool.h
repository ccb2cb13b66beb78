// A team of threads that walks through the phases of one step together. Not OpenMP: whatever OpenMP runtime the
// process has (torch brings one) stays the only one.
#pragma once
#include <immintrin.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    for (int t = 1; t < threads; t++) workers_.emplace_back([this, t] { work(t); });
  }
  ~Pool() {
    stop_ = true;
    round_.fetch_add(1);
    round_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  int threads() const { return threads_; }

  // Runs body(thread) on every thread of the team and returns when all are through.
  void run(const std::function<void(int)>& body) {
    body_ = &body;
    round_.fetch_add(1);
    round_.notify_all();
    body(0);
    barrier();
  }

  // Inside body: the team shares the items 0..count between its threads, as they come, then waits for all of them.
  template <class F>
  void each(int64_t count, F&& item) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) item(i);
    barrier();
  }

 private:
  void work(int thread) {
    for (int seen = 0;;) {
      await(round_, seen);
      seen++;
      if (stop_) return;
      (*body_)(thread);
      barrier();
    }
  }

  void barrier() {
    const int phase = phase_.load();
    if (arrived_.fetch_add(1) == threads_ - 1) {
      arrived_.store(0);
      next_.store(0);
      phase_.fetch_add(1);
      phase_.notify_all();
    } else {
      await(phase_, phase);
    }
  }

  // Spins for some tens of microseconds, then sleeps: on a crowded machine the missing thread may need this very core.
  static void await(std::atomic<int>& value, int old) {
    for (int spin = 0; spin < 1000; spin++) {
      if (value.load(std::memory_order_acquire) != old) return;
      _mm_pause();
    }
    while (value.load() == old) value.wait(old);
  }

  const int threads_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* body_ = nullptr;
  std::atomic<bool> stop_{false};
  std::atomic<int> round_{0};
  alignas(64) std::atomic<int> phase_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int64_t> next_{0};
};
