// A fixed team of threads that runs one job at a time: the caller and `size - 1` helpers, which sleep
// between jobs. Inside a job, barriers spin briefly, then yield, then sleep.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace diptych {

class Team {
  public:
    // cores: empty, or one core for each thread, the caller's first.
    Team(int size, const std::vector<int> &cores);
    ~Team();
    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    int size() const { return size_; }
    // Runs job(thread) on every thread of the team and returns when all are done. Every thread
    // computes with MXCSR 0x9FC0 (to nearest, subnormals are zero), and has its own back afterwards.
    void run(const std::function<void(int)> &job);
    // All threads of the job have come here; what is shared out starts at 0 again.
    void barrier();
    // First of `count` units of work that nobody has taken since the last barrier.
    int take(int count) { return __atomic_fetch_add(&taken_, count, __ATOMIC_RELAXED); }

  private:
    void help(int thread);
    void pin(int thread) const;

    int size_;
    std::vector<int> cores_;
    std::vector<std::thread> helpers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    const std::function<void(int)> *job_ = nullptr;
    long jobs_ = 0;
    bool closing_ = false;
    alignas(64) int taken_ = 0;
    alignas(64) std::atomic<int> arrived_{0};
    std::atomic<int> round_{0};
    std::thread::id pinned_caller_;
};

} // namespace diptych
