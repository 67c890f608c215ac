#include "engine/target/move_log.hpp"

#include <algorithm>

namespace uffd {

void MoveLog::add(const Move& move) {
  const std::lock_guard lock(mutex_);
  last_.push_back(move);
  ++moves_;
  if (last_.size() > kKept) last_.pop_front();
}

uint64_t MoveLog::moves() const {
  const std::lock_guard lock(mutex_);
  return moves_;
}

std::vector<Move> MoveLog::path_to(uint64_t address, uint64_t since,
                                   const std::function<bool(uint64_t)>& is_known) const {
  const std::lock_guard lock(mutex_);
  std::vector<Move> path;
  uint64_t number = moves_;
  for (auto move = last_.rbegin(); move != last_.rend() && number > since; ++move, --number) {
    if (!Range{move->to, move->from.length}.contains(address)) continue;
    path.push_back(*move);
    address = move->from.start + (address - move->to);
    if (!is_known(address)) continue;
    std::reverse(path.begin(), path.end());
    return path;
  }
  return {};
}

}  // namespace uffd
