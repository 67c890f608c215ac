// The faults of one read, or those that are tried again: sorted by address, each once, although
// there is one message for each thread that sleeps. One thread's; pure; allocates nothing.
#pragma once

#include <algorithm>
#include <array>
#include <span>

#include "engine/serve/fault/fault_key.hpp"

namespace uffd {

class Batch {
 public:
  static constexpr size_t kMost = 64;

  Batch() = default;
  explicit Batch(std::span<const uffd_msg> messages) noexcept {
    for (const uffd_msg& message : messages) {
      if (message.event == UFFD_EVENT_PAGEFAULT) add(FaultKey(message));
    }
    sort();
  }

  // How many faults there were, with duplicates, and how many of these of a kind.
  size_t faults() const noexcept { return faults_; }
  size_t minor_faults() const noexcept { return minor_; }
  size_t write_faults() const noexcept { return write_; }

  std::span<const FaultKey> keys() const noexcept { return std::span(keys_).first(count_); }

 private:
  void add(FaultKey key) noexcept {
    keys_[count_++] = key;
    ++faults_;
    minor_ += key.is_minor();
    write_ += key.is_write();
  }

  void sort() noexcept {
    if (count_ < 2) return;
    const auto end = keys_.begin() + static_cast<ptrdiff_t>(count_);
    std::sort(keys_.begin(), end);
    count_ = static_cast<size_t>(std::unique(keys_.begin(), end) - keys_.begin());
  }

  std::array<FaultKey, kMost> keys_;
  size_t count_ = 0;
  size_t faults_ = 0, minor_ = 0, write_ = 0;
};

}  // namespace uffd
