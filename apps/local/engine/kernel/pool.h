// A team of threads that walks through the phases of one step together. Not OpenMP: whatever OpenMP runtime the
// process has (torch brings one) stays the only one.
//
// A phase ends when its last thread does. Where other processes take the cores, all wait for one that does not run: two
// threads on what is one core's time compute less than one, and the waiting takes time from the others. So the team has
// as many threads as cores were really there for it, by the CPU time of all against the clock, and now and then a round
// with all of them finds out whether there are more again. Who computes an item makes no difference to it.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <functional>
#include <thread>
#include <vector>

class Pool {
 public:
  explicit Pool(int threads)
      : threads_(std::min(threads, (int)TEAM - 1)), team_(threads_), cores_(threads_), shares_(threads_) {
    for (int t = 1; t < threads_; t++) workers_.emplace_back([this, t] { work(t); });
  }
  ~Pool() {
    team_ = threads_;
    for (begin(nullptr); auto& worker : workers_) worker.join();
  }
  // Runs body(thread) on every thread of the team and returns when all are through.
  void run(const std::function<void(int)>& body) {
    const bool were_all = team_ == threads_, all = since_all_++ >= ROUNDS || were_all;
    if (all) since_all_ = 0, team_ = threads_;
    const auto began = std::chrono::steady_clock::now();
    if (team_ > 1) begin(&body);
    share(0, body);
    if (!all || threads_ == 1) return;
    choose(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count(), were_all);
  }
  // How many threads the next round has, unless it is one with all of them.
  int team() const { return team_; }
  // Inside body: item(i) for 0..count, each thread a run of neighbours, since memory likes to be read in one stream,
  // then what others have not come to; and waits for all of them. `next` is what the next phase will read.
  void each(int thread, int64_t count, auto&& item, const uint8_t* next = nullptr, int64_t bytes = 0) {
    for (int k = 0; k < team_; k++) {
      const int owner = (thread + k) % team_;
      const int64_t from = count * owner / team_, end = count * (owner + 1) / team_;
      for (int64_t i; (i = from + shares_[owner].taken.fetch_add(1, std::memory_order_relaxed)) < end;) item(i);
    }
    barrier(next + thread * (bytes / team_), bytes / team_);
  }

 private:
  // A round's number and its team are one value: a thread that is not of it may see it late, or never.
  static constexpr uint32_t TEAM = 1 << 10;

  void begin(const std::function<void(int)>* body) {
    body_ = body;
    round_.store((round_.load() / TEAM + 1) * TEAM + (uint32_t)team_);
    round_.notify_all();
  }
  void work(int thread) {
    for (uint32_t round = 0;;) {
      await(round_, round, nullptr, 0);
      round = round_.load();
      if (thread >= (int)(round % TEAM)) continue;
      if (!body_) return;
      share(thread, *body_);
    }
  }
  void share(int thread, const std::function<void(int)>& body) {
    const double before = cpu_seconds();
    body(thread);
    shares_[thread].cpu = cpu_seconds() - before;
    barrier();
  }
  void choose(double seconds, bool were_all) {
    double cpu = 0;
    for (const Share& share : shares_) cpu += share.cpu;
    const double more = std::min<double>(threads_, cpu / seconds) - cores_;
    cores_ += more * (more < 0 && were_all ? SLOWLY : AT_ONCE);
    team_ = cores_ < ENOUGH * threads_ ? std::max(1, (int)(cores_ + 0.5)) : threads_;
  }
  // Of this thread. Windows counts it by ticks that are longer than a round: there all are always of the team.
  static double cpu_seconds() {
#ifdef _WIN32
    static const auto start = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
#else
    timespec at;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return at.tv_sec + at.tv_nsec * 1e-9;
#endif
  }
  void barrier(const uint8_t* next = nullptr, int64_t bytes = 0) {
    // read before this thread arrives: the next round may have another team
    const int team = team_;
    const uint32_t phase = phase_.load();
    if (arrived_.fetch_add(1) < team - 1) return await(phase_, phase, next, bytes);
    arrived_.store(0);
    for (Share& share : shares_) share.taken.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1);
    if (team > 1) phase_.notify_all();
  }
  // Spins for some tens of microseconds, in which memory need not be idle; then sleeps: on a crowded machine the
  // missing thread may need this very core.
  static void await(std::atomic<uint32_t>& value, uint32_t old, const uint8_t* next, int64_t bytes) {
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

  struct alignas(64) Share {
    std::atomic<int64_t> taken{0};
    double cpu = 0;
  };
  // Rounds between two with all threads, and a part of all threads' cores that is as good as all.
  static constexpr int ROUNDS = 16;
  static constexpr double ENOUGH = 0.75;
  // How much a round with all says of the cores: less where the team loses threads, since a moment in which another
  // process runs is no crowd.
  static constexpr double AT_ONCE = 0.5, SLOWLY = 0.1;

  const int threads_;
  int team_, since_all_ = 0;
  double cores_;
  std::vector<Share> shares_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* body_ = nullptr;
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int> arrived_{0};
};
