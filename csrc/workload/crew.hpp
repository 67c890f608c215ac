// Threads that begin their work together, and what the kernel says each of them cost.
//
// One thread, the owner, constructs, starts, joins and destroys; any thread may ask running(). The
// threads see what the owner wrote before start(), the owner sees what they wrote after join().
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <latch>
#include <string>
#include <thread>
#include <vector>

#include "engine/linux/thread.hpp"

namespace uffd::workload {

// The work of one thread. Times are CLOCK_MONOTONIC.
struct Shift {
  uint64_t start_ns = 0;
  uint64_t end_ns = 0;
  uint64_t cpu_ns = 0;
  uint64_t minor_faults = 0;
  uint64_t major_faults = 0;
};

class Crew {
 public:
  // Thread i is held to cpus[i % cpus.size()]; without cpus all are free. name: at most 10
  // characters. Throws std::invalid_argument for no threads.
  Crew(std::string name, size_t threads, std::vector<Cpu> cpus);
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;
  ~Crew();  // waits for the threads

  size_t size() const noexcept { return shifts_.size(); }

  // Once. Runs work(i) in thread i; lets the threads go when all of them stand at the gate.
  void start(std::function<void(size_t)> work);

  // When the gate was opened; the threads may ask, and others after start().
  uint64_t origin_ns() const noexcept { return origin_ns_; }

  bool running() const noexcept { return unfinished_.load(std::memory_order_acquire) > 0; }

  // Once, after start(). Waits for all threads, then throws what the first of them threw, if any.
  const std::vector<Shift>& join();

 private:
  void launch();
  void attend(size_t index) noexcept;
  void do_shift(size_t index) noexcept;
  void wait_for_threads();

  const std::string name_;
  const std::vector<Cpu> cpus_;
  std::function<void(size_t)> work_;
  std::vector<Shift> shifts_;
  std::vector<std::exception_ptr> errors_;
  std::vector<std::thread> threads_;
  std::latch at_gate_;
  std::latch gate_{1};
  std::atomic<size_t> unfinished_{0};
  bool sent_home_ = false;  // written before the gate opens: a thread could not be started
  uint64_t origin_ns_ = 0;
};

}  // namespace uffd::workload
