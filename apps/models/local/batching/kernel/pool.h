// A team of threads that walks through the phases of one step together. Not OpenMP: whatever OpenMP runtime the
// process has (torch brings one) stays the only one.
#pragma once
#include <immintrin.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

// Memory that the next phase reads, each thread its share from the beginning on.
struct Upcoming {
  const uint8_t* data = nullptr;
  int64_t bytes = 0;
};

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads), shares_(new Share[threads]) {
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

  // Inside body: item(i) for 0..count, each thread a run of its own, and then what others have not come to; then waits
  // for all of them. Neighbours are one thread's so that it reads memory in one stream.
  template <class Item>
  void each(int thread, int64_t count, Item&& item, Upcoming next = {}) {
    for (int k = 0; k < threads_; k++) {
      const int owner = (thread + k) % threads_;
      const int64_t from = count * owner / threads_, end = count * (owner + 1) / threads_;
      for (int64_t i; (i = from + shares_[owner].taken.fetch_add(1, std::memory_order_relaxed)) < end;) item(i);
    }
    const int64_t share = next.bytes / threads_;
    barrier(next.data + thread * share, share);
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

  void barrier(const uint8_t* next = nullptr, int64_t bytes = 0) {
    const int phase = phase_.load();
    if (arrived_.fetch_add(1) < threads_ - 1) return await(phase_, phase, next, bytes);
    arrived_.store(0);
    for (int t = 0; t < threads_; t++) shares_[t].taken.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1);
    phase_.notify_all();
  }

  // Spins for some tens of microseconds, in which memory need not be idle; then sleeps: on a crowded machine the
  // missing thread may need this very core.
  static void await(std::atomic<int>& value, int old, const uint8_t* next = nullptr, int64_t bytes = 0) {
    for (int spin = 0; spin < SPINS; spin++) {
      if (value.load(std::memory_order_acquire) != old) return;
      if (spin * 64 < bytes && spin * 64 < MOST_AHEAD) _mm_prefetch((const char*)next + spin * 64, _MM_HINT_T0);
      else _mm_pause();
    }
    while (value.load() == old) value.wait(old);
  }

  static constexpr int SPINS = 4000, MOST_AHEAD = 128 << 10;
  struct alignas(64) Share { std::atomic<int64_t> taken{0}; };
  const int threads_;
  std::unique_ptr<Share[]> shares_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* body_ = nullptr;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<int> round_{0};
  alignas(64) std::atomic<int> phase_{0};
  alignas(64) std::atomic<int> arrived_{0};
};
