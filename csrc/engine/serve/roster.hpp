// All targets that a manager's threads serve, fork children too. Any thread may call any function.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "engine/serve/served_target.hpp"

namespace uffd {

class Roster {
 public:
  // Forgets those that have ended meanwhile.
  void add(std::shared_ptr<ServedTarget> served) {
    const std::lock_guard lock(mutex_);
    std::erase_if(served_, [](const auto& other) { return other->stage == Stage::ended; });
    served_.push_back(std::move(served));
  }

  std::vector<std::shared_ptr<ServedTarget>> all() const {
    const std::lock_guard lock(mutex_);
    return served_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<ServedTarget>> served_;
};

}  // namespace uffd
