// The right of threads other than a target's handler to use its userfaultfd: each lease is for one
// bounded call (a chunk of a fill, a fetched block, one pass of a user's written()).
//
// Any thread takes and returns leases. The handler revokes them when an ending was decided; once
// the last has come back only the handler's thread uses the userfaultfd, and later the ender.
#pragma once

#include <array>
#include <condition_variable>
#include <mutex>

namespace uffd {

class Leases {
 public:
  // False where leases are revoked; else sets turn, which give_back() must be given.
  bool take(unsigned& turn) {
    const std::lock_guard lock(mutex_);
    if (revoked_) return false;
    turn = turn_;
    ++out_[turn];
    return true;
  }
  // Whether leases are revoked and this was the last: then the handler must be told.
  bool give_back(unsigned turn) {
    const std::lock_guard lock(mutex_);
    if (--out_[turn] == 0) returned_.notify_all();
    return revoked_ && all_back();
  }

  // By the handler. Whether no lease is out.
  bool revoke() {
    const std::lock_guard lock(mutex_);
    revoked_ = true;
    return all_back();
  }
  bool revoked_and_back() const {
    const std::lock_guard lock(mutex_);
    return revoked_ && all_back();
  }

  // Returns when every lease that is out now has come back; new leases may be taken meanwhile.
  void await_present() {
    std::unique_lock lock(mutex_);
    returned_.wait(lock, [&] { return out_[1 - turn_] == 0; });  // of a caller before
    const unsigned present = turn_;
    turn_ = 1 - turn_;
    returned_.wait(lock, [&] { return out_[present] == 0; });
  }

 private:
  bool all_back() const noexcept { return out_[0] + out_[1] == 0; }

  mutable std::mutex mutex_;
  std::condition_variable returned_;
  std::array<unsigned, 2> out_{};  // by the turn in which they were taken
  unsigned turn_ = 0;
  bool revoked_ = false;
};

}  // namespace uffd
