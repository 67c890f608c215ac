// Threads that do memory work of their own in the same address space, and time it: what a manager's
// ending and a fork cost those who have nothing to do with it (mmap_lock is one for all).
//
// One thread, the owner, constructs, starts, stops and destroys.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <latch>
#include <vector>

#include "engine/linux/mapping.hpp"
#include "engine/linux/thread.hpp"
#include "workload/crew.hpp"
#include "workload/touches.hpp"

namespace uffd::workload {

enum class BystanderKind {
  fault,  // first touches of the pages of a private mapping, each timed; then MADV_DONTNEED of all
  mmap,   // mmap, first touches and munmap of the pages, timed as one
  populate,  // MADV_POPULATE_WRITE of the private mapping, timed, which holds mmap_lock for as
             // long; then MADV_DONTNEED
};

struct BystanderPlan {
  BystanderKind kind = BystanderKind::fault;
  size_t threads = 1;
  size_t pages = 16;      // of each thread's mapping
  std::vector<Cpu> cpus;  // thread i is held to cpus[i % size]; empty: all are free
  size_t timeline_bins = AccessLog::kDefaultBins;
};

class Bystanders {
 public:
  // Throws std::invalid_argument.
  explicit Bystanders(const BystanderPlan& plan);
  ~Bystanders() { stopping_.store(true, std::memory_order_relaxed); }

  // Once. Returns when every thread is in its loop.
  void start();
  // Once, after start(). Throws what kept a thread from going on.
  Touches stop();

 private:
  void run(size_t thread);
  void fault_round(const Mapping& mapping, Notes& notes) const;
  void mmap_round(Notes& notes) const;
  void populate_round(const Mapping& mapping, Notes& notes) const;

  const BystanderKind kind_;
  const uint64_t length_;
  std::vector<Mapping> mappings_;  // of each thread, but for BystanderKind::mmap
  std::vector<Notes> notes_;       // of each thread
  std::latch in_loop_;
  std::atomic<bool> stopping_{false};
  Crew crew_;  // last: joined before what its threads use is destroyed
};

}  // namespace uffd::workload
