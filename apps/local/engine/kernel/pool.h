// A team of threads that walks through the phases of one step together. Not OpenMP: whatever OpenMP runtime the
// process has (torch brings one) stays the only one.
//
// A phase ends when its last thread does. Where other processes take the cores, all wait for one that does not run: two
// threads on what is one core's time compute less than one, and the waiting takes time from the others. So the team has
// as many threads as cores are there for it: now and then, in a round with all threads, Linux says of each how long it
// ran and how long it was ready and had no core. Waiting for the others is neither, so that phases with few items take
// no threads away; and where a system does not say it, all threads are always of the team. Who computes an item makes
// no difference to it.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <functional>
#include <thread>
#include <vector>
#ifdef __linux__
#include <fcntl.h>
#include <unistd.h>
#endif

class Pool {
 public:
  // Throws std::system_error where a thread cannot be started.
  explicit Pool(int threads)
      : threads_(std::min(threads, (int)TEAM - 1)), team_(threads_), cores_(threads_), shares_(threads_) {
    try {
      for (int t = 1; t < threads_; t++) workers_.emplace_back([this, t] { work(t); });
    } catch (...) {
      // the system has no more threads; no destructor ends those that there are
      end();
      throw;
    }
  }
  ~Pool() { end(); }
  // Runs body(thread) on every thread of the team and returns when all are through.
  void run(const std::function<void(int)>& body) {
    measured_ = threads_ > 1 && ++since_measured_ > ROUNDS;
    if (measured_) since_measured_ = 0, team_ = threads_;
    if (team_ > 1) begin(&body);
    share(0, body);
    if (measured_) choose();
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
  void end() {
    team_ = threads_;
    for (begin(nullptr); auto& worker : workers_) worker.join();
  }
  void work(int thread) {
    for (uint32_t round = 0, out = 0;;) {
      // a thread that is not of the team leaves its core to others
      if (out) round_.wait(round);
      else await(round_, round, nullptr, 0);
      round = round_.load();
      if ((out = thread >= (int)(round % TEAM))) continue;
      if (!body_) return;
      share(thread, *body_);
    }
  }
  void share(int thread, const std::function<void(int)>& body) {
    const bool measured = measured_;
    const Times before = measured ? times() : Times{};
    body(thread);
    if (measured) {
      const Times after = times();
      const double ran = after.ran - before.ran, waited = after.waited - before.waited;
      shares_[thread].core = ran > 0 && waited > 0 ? ran / (ran + waited) : 1;
    }
    barrier();
  }
  void choose() {
    double cores = 0;
    for (const Share& share : shares_) cores += share.core;
    // a single round may have met a moment in which another process ran, and that is no crowd
    cores_ += (cores - cores_) / 2;
    team_ = cores_ < ENOUGH * threads_ ? std::max(1, (int)(cores_ + 0.5)) : threads_;
  }
  // Of this thread, in seconds: on a core, and ready without one. Both 0 where the system does not say.
  struct Times {
    double ran = 0, waited = 0;
  };
  static Times times() {
    Times found;
#ifdef __linux__
    char text[96] = {};
    const int file = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (file < 0) return found;
    const ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    unsigned long long waited;
    timespec ran;
    // what the file says of running is as old as the last tick
    if (length > 0 && std::sscanf(text, "%*u %llu", &waited) == 1 && !clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ran))
      found = {ran.tv_sec + ran.tv_nsec * 1e-9, waited * 1e-9};
#endif
    return found;
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
    double core = 1;  // the part of one that its thread had
  };
  // Rounds between two that are measured, and a part of all threads' cores that is as good as all.
  static constexpr int ROUNDS = 16;
  static constexpr double ENOUGH = 0.75;

  const int threads_;
  int team_, since_measured_ = 0;
  bool measured_ = false;
  double cores_;
  std::vector<Share> shares_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* body_ = nullptr;
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int> arrived_{0};
};
