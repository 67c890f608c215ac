// The faults of one target that met EAGAIN, until they are tried again. Used by the handler's
// thread alone; never allocates.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "engine/serve/fault/batch.hpp"

namespace uffd {

class PendingFaults {
 public:
  static constexpr size_t kMost = 256;

  bool empty() const noexcept { return count_ == 0; }

  // read_at: when its message was read. False when there is no room: then the caller wakes the
  // faulting thread, which faults again.
  bool add(FaultKey key, uint64_t read_at) noexcept {
    if (count_ == kMost) return false;
    faults_[count_++] = {key, read_at};
    return true;
  }

  // Some of the faults, sorted by address, each once, and when the first of them was read.
  struct Taken {
    std::array<FaultKey, Batch::kMost> keys;
    size_t count = 0;
    uint64_t read_at = 0;
    std::span<const FaultKey> all() const noexcept { return std::span(keys).first(count); }
  };
  Taken take() noexcept {
    Taken taken;
    const size_t some = std::min(count_, Batch::kMost);
    const auto begin = faults_.begin(), end = begin + static_cast<ptrdiff_t>(some);
    taken.read_at = UINT64_MAX;
    for (auto fault = begin; fault != end; ++fault) {
      taken.keys[taken.count++] = fault->key;
      taken.read_at = std::min(taken.read_at, fault->read_at);
    }
    std::move(end, begin + static_cast<ptrdiff_t>(count_), begin);
    count_ -= some;
    const auto last = taken.keys.begin() + static_cast<ptrdiff_t>(taken.count);
    std::sort(taken.keys.begin(), last);
    taken.count = static_cast<size_t>(std::unique(taken.keys.begin(), last) - taken.keys.begin());
    return taken;
  }

 private:
  struct Fault {
    FaultKey key;
    uint64_t read_at;
  };

  size_t count_ = 0;
  std::array<Fault, kMost> faults_;
};

}  // namespace uffd
