// The shortest loop that serves missing faults: wait, read one message, UFFDIO_COPY. With workers,
// the loop that UMap and others have: one thread reads, and gives each fault to a pool of threads.
//
// One thread, the owner, constructs, starts, joins and destroys. The userfaultfd and the memory are
// the caller's, in use until the join; the userfaultfd has no event features, and nobody else
// installs pages. Nothing but the last page ends the loop, so that the loop has no check for it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>

#include "engine/linux/thread.hpp"
#include "engine/linux/uapi.hpp"
#include "workload/crew.hpp"

namespace uffd::workload {

enum class Reader {
  poll,  // poll, then a non-blocking read
  read,  // a blocking read: the userfaultfd is without O_NONBLOCK
  spin,  // non-blocking reads in a loop
};

struct FloorServerPlan {
  int fd = -1;
  uint64_t start = 0;  // of the one range that is served
  uint64_t length = 0;
  uint64_t source = 0;  // of the bytes of start
  uint64_t page_size = 4096;
  uint64_t window = 1;  // pages to one COPY: those around the faulting one, aligned to start
  Reader reader = Reader::poll;
  uint64_t copies = 0;  // after how many successful COPYs to end: the windows that will be touched
  std::optional<Cpu> cpu;
  size_t workers = 0;  // that COPY what the reader reads; 0: the reader does
};

struct FloorServed {
  uint64_t elapsed_ns = 0;  // from the first message to the end of the last COPY
  uint64_t faults = 0;      // messages read: more than copies where threads met in one window
};

class FloorServer {
 public:
  // Throws std::invalid_argument, also where the descriptor's O_NONBLOCK does not suit the reader.
  // With workers one thread touches, so that each message is of a window of its own.
  explicit FloorServer(const FloorServerPlan& plan);

  // Once.
  void start();
  // Once, after start(). Throws SystemError if a read or COPY failed, where the touchers still
  // sleep.
  FloorServed join();

 private:
  void serve();
  void read_for_workers();
  void work();
  void receive(uffd_msg& message) const;
  bool copy_around(uint64_t address) const;

  const FloorServerPlan plan_;
  FloorServed served_;  // written by the thread that reads

  // Between reader and workers.
  std::mutex mutex_;
  std::condition_variable given_;
  std::deque<uint64_t> addresses_;
  bool all_given_ = false;

  Crew crew_;  // last: joined before what its thread uses is destroyed
};

}  // namespace uffd::workload
