#include "engine/probe/lost_wake.hpp"

#include <atomic>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "engine/linux/fdinfo.hpp"
#include "engine/linux/mapping.hpp"
#include "engine/linux/thread.hpp"
#include "engine/linux/userfaultfd.hpp"

namespace uffd {
namespace {

using Clock = std::chrono::steady_clock;

// A thread that was woken is off the queue at once; one that is still there after this long sleeps.
constexpr std::chrono::milliseconds kAsleep{20};
constexpr std::chrono::milliseconds kStuck{2000};

// Threads that read fresh pages of one region until they are told to stop, each in a part of its
// own.
class Readers {
 public:
  Readers(size_t threads, uint64_t pages)
      : memory_(threads * pages * sys::page_size(), MemoryKind::anonymous, false),
        pages_(pages),
        passes_(threads) {
    sys::madvise(memory_.address(), memory_.length(), MADV_NOHUGEPAGE);
    // Gives the VMA its anon_vma: without one, no fault runs under its own lock on some kernels.
    *reinterpret_cast<volatile char*>(memory_.address()) = 1;
    try {
      for (size_t i = 0; i < threads; ++i)
        threads_.emplace_back(
            start_thread("uffd-reader", std::nullopt, [this, i] { read_until_stopped(i); }));
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Readers() { stop(); }

  const Mapping& memory() const { return memory_; }

  // How many threads make no more passes, found out within the limit.
  uint64_t stuck(std::chrono::milliseconds limit) const {
    const auto deadline = Clock::now() + limit;
    std::vector<uint64_t> before;
    for (const auto& passes : passes_) before.push_back(passes);
    uint64_t count;
    do {
      count = 0;
      // Two more passes: the pass of that moment may have been about to end.
      for (size_t i = 0; i < before.size(); ++i) count += passes_[i] < before[i] + 2;
      ::sched_yield();
    } while (count > 0 && Clock::now() < deadline);
    return count;
  }

 private:
  void stop() {
    stopping_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  void read_until_stopped(size_t thread) {
    const uint64_t page = sys::page_size();
    const uint64_t start = memory_.address() + thread * pages_ * page;
    while (!stopping_) {
      sys::madvise(start, pages_ * page, MADV_DONTNEED);
      for (uint64_t i = 0; i < pages_ && !stopping_; ++i)
        (void)*reinterpret_cast<volatile const char*>(start + i * page);
      ++passes_[thread];
    }
  }

  const Mapping memory_;
  const uint64_t pages_;
  std::vector<std::atomic<uint64_t>> passes_;
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

// What cannot be read is no sign that nobody waits.
uint64_t pending(const Userfaultfd& uffd) {
  const auto info = read_fdinfo(uffd.fd());
  if (!info) throw std::runtime_error("the fdinfo of the userfaultfd cannot be read");
  return info->pending;
}

// Threads that sleep although nothing is registered any more.
uint64_t asleep(const Userfaultfd& uffd) {
  const auto deadline = Clock::now() + kAsleep;
  uint64_t sleeping;
  while ((sleeping = pending(uffd)) > 0 && Clock::now() < deadline) ::sched_yield();
  return sleeping;
}

void arm(const Userfaultfd& uffd, const Mapping& memory) {
  uint64_t ioctls = 0;
  const int error =
      uffd.register_range(memory.address(), memory.length(), UFFDIO_REGISTER_MODE_MISSING, &ioctls);
  if (error < 0) throw SystemError(-error, "UFFDIO_REGISTER");
}

void let_readers_run(uint64_t round) {
  // Not always equally long, so that the release meets their faults everywhere.
  for (uint64_t yields = round % 4; yields > 0; --yields) ::sched_yield();
}

}  // namespace

LostWakes count_lost_wakes(const LostWakePlan& plan) {
  auto readers = std::make_unique<Readers>(plan.threads, plan.pages);
  const Mapping& memory = readers->memory();
  Userfaultfd uffd = Userfaultfd::open(Access::best, 0);
  const auto deadline = Clock::now() + plan.limit;
  LostWakes counted;
  while (counted.rounds < plan.rounds && Clock::now() < deadline) {
    arm(uffd, memory);
    let_readers_run(counted.rounds++);
    if (plan.release == Release::close) {
      uffd.close();
      uffd = Userfaultfd::open(Access::best, 0);
      continue;
    }
    uffd.unregister(memory.address(), memory.length());
    if (plan.release == Release::unregister_and_wake) uffd.wake(memory.address(), memory.length());
    if (pending(uffd) == 0) continue;
    counted.lost += asleep(uffd) > 0;
    uffd.wake(memory.address(), memory.length());
  }
  if (plan.release == Release::close) counted.lost = readers->stuck(kStuck) > 0;
  // Nothing wakes a thread that a close has lost: it and its memory are left behind.
  if (plan.release == Release::close && counted.lost > 0) (void)readers.release();
  return counted;
}

}  // namespace uffd
