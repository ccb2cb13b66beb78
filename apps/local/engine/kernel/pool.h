// A team of threads that walks through the phases of one step together. Not OpenMP: whatever OpenMP runtime the
// process has (torch brings one) stays the only one.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads), shares_(threads) {
    for (int t = 1; t < threads; t++) workers_.emplace_back([this, t] { work(t); });
  }
  ~Pool() {
    for (begin(nullptr); auto& worker : workers_) worker.join();
  }
  // Runs body(thread) on every thread of the team and returns when all are through.
  void run(const std::function<void(int)>& body) {
    begin(&body);
    body(0);
    barrier();
  }
  // Inside body: item(i) for 0..count, each thread a run of neighbours, since memory likes to be read in one stream,
  // then what others have not come to; and waits for all of them. `next` is what the next phase will read.
  void each(int thread, int64_t count, auto&& item, const uint8_t* next = nullptr, int64_t bytes = 0) {
    for (int k = 0; k < threads_; k++) {
      const int owner = (thread + k) % threads_;
      const int64_t from = count * owner / threads_, end = count * (owner + 1) / threads_;
      for (int64_t i; (i = from + shares_[owner].taken.fetch_add(1, std::memory_order_relaxed)) < end;) item(i);
    }
    barrier(next + thread * (bytes / threads_), bytes / threads_);
  }

 private:
  void begin(const std::function<void(int)>* body) {
    body_ = body;
    round_.fetch_add(1);
    round_.notify_all();
  }
  void work(int thread) {
    for (int round = 0;; round++) {
      await(round_, round, nullptr, 0);
      if (!body_) return;
      (*body_)(thread);
      barrier();
    }
  }
  void barrier(const uint8_t* next = nullptr, int64_t bytes = 0) {
    const int phase = phase_.load();
    if (arrived_.fetch_add(1) < threads_ - 1) return await(phase_, phase, next, bytes);
    arrived_.store(0);
    for (Share& share : shares_) share.taken.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1);
    phase_.notify_all();
  }
  // Spins for some tens of microseconds, in which memory need not be idle; then sleeps: on a crowded machine the
  // missing thread may need this very core.
  static void await(std::atomic<int>& value, int old, const uint8_t* next, int64_t bytes) {
    for (int64_t spin = 0; spin < 1000; spin++) {
      if (value.load(std::memory_order_acquire) != old) return;
      if (spin * 64 < std::min<int64_t>(bytes, 128 << 10)) __builtin_prefetch((const char*)next + spin * 64);
      else relax();
    }
    while (value.load() == old) value.wait(old);
  }

  static void relax() {
#ifdef __aarch64__
    asm volatile("yield");
#else
    __builtin_ia32_pause();
#endif
  }

  struct alignas(64) Share { std::atomic<int64_t> taken{0}; };
  const int threads_;
  std::vector<Share> shares_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* body_ = nullptr;
  alignas(64) std::atomic<int> round_{0};
  alignas(64) std::atomic<int> phase_{0};
  alignas(64) std::atomic<int> arrived_{0};
};
