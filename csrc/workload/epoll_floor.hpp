// The shortest loop that serves the missing faults of many userfaultfds: epoll_wait, for each that
// is ready read one message, UFFDIO_COPY.
//
// One thread, the owner, constructs, starts, joins and destroys. The userfaultfds (with O_NONBLOCK,
// without event features) and the memory are the caller's, in use until the join, and nobody else
// installs pages. Nothing but the last page ends the loop.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/linux/fd.hpp"
#include "engine/linux/thread.hpp"
#include "workload/crew.hpp"

namespace uffd::workload {

struct EpollFloorTarget {
  int fd = -1;
  uint64_t start = 0;   // of its one range
  uint64_t source = 0;  // of the bytes of start
};

class EpollFloor {
 public:
  // copies: after how many successful COPYs to end. Throws SystemError.
  EpollFloor(std::vector<EpollFloorTarget> targets, uint64_t copies, std::optional<Cpu> cpu);

  // Once.
  void start();
  // Once, after start(). Throws SystemError if a read or COPY failed, where the touchers still
  // sleep.
  void join();

 private:
  void serve();
  bool copy(const EpollFloorTarget& target) const;

  std::vector<EpollFloorTarget> targets_;
  const uint64_t copies_;
  Fd epoll_;
  Crew crew_;  // last: joined before what its thread uses is destroyed
};

}  // namespace uffd::workload
