#include "team.hpp"

#include "rounding.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <climits>
#include <stdexcept>
#include <string>

namespace diptych {

namespace {

constexpr int kSpins = 2000, kYields = 50;

void futex(std::atomic<int> &word, int operation, int value) {
    syscall(SYS_futex, reinterpret_cast<int *>(&word), operation | FUTEX_PRIVATE_FLAG, value, nullptr,
            nullptr, 0);
}

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

} // namespace

Team::Team(int size, const std::vector<int> &cores) : size_(size), cores_(cores) {
    if (size < 1 || size > 256)
        throw std::invalid_argument("threads = " + std::to_string(size) + ": must be 1 to 256");
    if (!cores.empty() && int(cores.size()) != size)
        throw std::invalid_argument("cores: needs one core for each of the " + std::to_string(size) +
                                    " threads");
    for (int core : cores)
        if (core < 0 || core >= CPU_SETSIZE)
            throw std::invalid_argument("cores: " + std::to_string(core) + " is no core");
    for (int i = 1; i < size; ++i) helpers_.emplace_back([this, i] { help(i); });
}

Team::~Team() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        closing_ = true;
    }
    wake_.notify_all();
    for (std::thread &helper : helpers_) helper.join();
}

void Team::pin(int thread) const {
    if (cores_.empty()) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cores_[thread], &set);
    // A core outside the process's mask is refused by the kernel; then the thread runs unpinned, which
    // costs time and no correctness.
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

void Team::help(int thread) {
    pin(thread);
    long done = 0;
    for (;;) {
        const std::function<void(int)> *job;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return closing_ || jobs_ != done; });
            if (closing_) return;
            done = jobs_;
            job = job_;
        }
        {
            RoundToNearest mode;
            (*job)(thread);
        }
        barrier();
    }
}

void Team::run(const std::function<void(int)> &job) {
    if (pinned_caller_ != std::this_thread::get_id()) {
        pin(0);
        pinned_caller_ = std::this_thread::get_id();
    }
    if (size_ > 1) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            job_ = &job;
            ++jobs_;
        }
        wake_.notify_all();
    }
    {
        RoundToNearest mode;
        job(0);
    }
    barrier();
}

void Team::barrier() {
    if (size_ == 1) return;
    int round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        __atomic_store_n(&taken_, 0, __ATOMIC_RELAXED);
        arrived_.store(0, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
        futex(round_, FUTEX_WAKE, INT_MAX);
        return;
    }
    for (int i = 0; i < kSpins; ++i) {
        if (round_.load(std::memory_order_acquire) != round) return;
        relax();
    }
    for (int i = 0; i < kYields; ++i) {
        if (round_.load(std::memory_order_acquire) != round) return;
        sched_yield();
    }
    while (round_.load(std::memory_order_acquire) == round) futex(round_, FUTEX_WAIT, round);
}

} // namespace diptych
