// Zeros without end.
#pragma once

#include <algorithm>

#include "engine/source/source.hpp"

namespace uffd {

class ZeroSource final : public Source {
 public:
  uint64_t length() const noexcept override { return INT64_MAX; }
  Supply supply(uint64_t, uint64_t) const noexcept override { return {}; }
  void read(uint64_t offset, std::span<std::byte> into) const override {
    check_range(offset, into.size());
    std::fill(into.begin(), into.end(), std::byte{0});
  }
};

}  // namespace uffd
