// Bytes in this process's memory.
#pragma once

#include <memory>

#include "engine/source/source.hpp"

namespace uffd {

class MemorySource final : public Source {
 public:
  // owner keeps the bytes alive and readable; it is destroyed with the source.
  MemorySource(std::span<const std::byte> bytes, std::shared_ptr<void> owner)
      : bytes_(bytes), owner_(std::move(owner)) {}

  uint64_t length() const noexcept override { return bytes_.size(); }
  Supply supply(uint64_t offset, uint64_t) const noexcept override {
    return {bytes_.data() + offset};
  }
  Range memory() const noexcept override {
    return {reinterpret_cast<uint64_t>(bytes_.data()), bytes_.size()};
  }
  void read(uint64_t offset, std::span<std::byte> into) const override;

 private:
  std::span<const std::byte> bytes_;
  std::shared_ptr<void> owner_;
};

}  // namespace uffd
