// Bytes that a function produces, in its own time.
#pragma once

#include <functional>

#include "engine/source/source.hpp"

namespace uffd {

class CallableSource final : public Source {
 public:
  // Fills into with the bytes at offset, or throws. Called by several threads at once.
  using Read = std::function<void(uint64_t offset, std::span<std::byte> into)>;

  CallableSource(Read read, uint64_t length, std::optional<std::chrono::nanoseconds> deadline)
      : read_(std::move(read)), length_(length), deadline_(deadline) {}

  uint64_t length() const noexcept override { return length_; }
  bool late() const noexcept override { return true; }
  bool calls_user() const noexcept override { return true; }
  std::optional<std::chrono::nanoseconds> deadline() const noexcept override { return deadline_; }
  void read(uint64_t offset, std::span<std::byte> into) const override {
    check_range(offset, into.size());
    read_(offset, into);
  }

 private:
  Read read_;
  uint64_t length_;
  std::optional<std::chrono::nanoseconds> deadline_;
};

}  // namespace uffd
