// Threads of this process that touch the pages of a list of ranges, time every access and verify
// what they read.
//
// One thread, the owner, constructs, starts, joins and destroys; any thread may call stop() and
// running(). The memory is the caller's and stays mapped until the join. A touch of a page that
// nobody supplies sleeps in the kernel: join() and the destructor then wait for as long.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/linux/range.hpp"
#include "engine/linux/thread.hpp"
#include "workload/crew.hpp"
#include "workload/touches.hpp"
#include "workload/visit_order.hpp"

namespace uffd::workload {

struct TouchPlan {
  std::vector<Range> ranges;  // of whole pages
  uint64_t page_size = 4096;
  VisitPlan visits;
  bool write = false;               // a write touch faults as a write and leaves the bytes alone
  bool timed = true;                // false: no clock is read at an access, and nothing is logged
  uint64_t passes = 1;              // over the pages; 0: until stop()
  uint64_t think_ns = 0;            // busy time after each access
  std::vector<uint64_t> checksums;  // empty, or what each page of the ranges, in turn, must have
  size_t threads = 1;               // each has a page at least
  std::vector<Cpu> cpus;            // thread i is held to cpus[i % size]; empty: all are free
  size_t timeline_bins = AccessLog::kDefaultBins;
};

class Toucher {
 public:
  // Prepares everything, so that the threads neither allocate nor look anything up. Throws
  // std::invalid_argument.
  explicit Toucher(const TouchPlan& plan);
  ~Toucher() { stop(); }

  // Once. Returns when the threads were let go.
  void start();
  // Ends the threads after the access that each is at.
  void stop() noexcept { stopping_.store(true, std::memory_order_relaxed); }
  bool running() const noexcept { return crew_.running(); }
  // Once, after start(). A checksum is verified right after its access: outside the access's
  // latency, inside the elapsed times.
  Touches join();

 private:
  struct Visits {
    std::vector<uint64_t> addresses;
    std::vector<uint64_t> expected;  // empty, or the checksum of each
  };

  void plan_visits(const TouchPlan& plan);
  void run(size_t thread) noexcept;
  void visit(const Visits& visits, size_t index, Notes& notes) const noexcept;
  void touch(uint64_t address) const noexcept;

  const uint64_t page_size_;
  const bool write_;
  const bool timed_;
  const uint64_t passes_;
  const uint64_t think_ns_;
  std::vector<Visits> visits_;  // of each thread
  std::vector<Notes> notes_;    // of each thread
  std::atomic<bool> stopping_{false};
  Crew crew_;  // last: joined before what its threads use is destroyed
};

}  // namespace uffd::workload
