// The last moves of a target's memory, for its fork children.
//
// A thread of the target that has moved memory tells of it a moment later. Another may fork in that
// moment, and its event may come first: then the child's memory lies elsewhere than the books say,
// until the parent's event explains it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "engine/linux/range.hpp"

namespace uffd {

struct Move {
  Range from;
  uint64_t to;
};

// Any thread may call any function.
class MoveLog {
 public:
  void add(const Move& move);
  uint64_t moves() const;  // that there ever were

  // The moves since that many, in their order, by which what lies at the address came from where
  // is_known says so; empty where there are none.
  std::vector<Move> path_to(uint64_t address, uint64_t since,
                            const std::function<bool(uint64_t)>& is_known) const;

 private:
  static constexpr size_t kKept = 256;

  mutable std::mutex mutex_;
  std::deque<Move> last_;
  uint64_t moves_ = 0;
};

}  // namespace uffd
