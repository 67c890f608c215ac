// The last moves of a target's memory, for its fork children.
//
// A thread of the target that has moved memory tells of the move a moment later. Another thread may
// fork in that moment, and the FORK event may come first: then the child's memory lies elsewhere
// than its regions say, until the parent's REMAP event explains where.
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
  uint64_t moves() const;  // how many there ever were

  // The chain of moves that brought memory to the address from a place for which is_known holds,
  // the earliest move first. Looks at moves later than the first since moves; empty where there is
  // no such chain.
  std::vector<Move> path_to(uint64_t address, uint64_t since,
                            const std::function<bool(uint64_t)>& is_known) const;

 private:
  static constexpr size_t kKept = 256;

  mutable std::mutex mutex_;
  std::deque<Move> last_;
  uint64_t moves_ = 0;
};

}  // namespace uffd
