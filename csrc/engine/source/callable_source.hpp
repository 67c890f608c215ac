// Bytes that a function produces, in its own time.
#pragma once

#include <functional>

#include "engine/source/source.hpp"

namespace uffd {

class CallableSource final : public Source {
 public:
  // Fills into with the bytes at offset, or throws. Called by several threads at once.
  using Read = std::function<void(uint64_t offset, std::span<std::byte> into)>;

  // Shows somebody what read threw at last.
  using Failed = std::function<void(const std::exception_ptr& error)>;

  // block: how many bytes it had best be asked for at once; 0: any number.
  CallableSource(Read read, Failed failed, uint64_t length, uint64_t block,
                 std::optional<std::chrono::nanoseconds> deadline, const Retry& retry)
      : read_(std::move(read)),
        failed_(std::move(failed)),
        length_(length),
        block_(block),
        deadline_(deadline),
        retry_(retry) {}

  uint64_t length() const noexcept override { return length_; }
  uint64_t best_read() const noexcept override { return block_; }
  bool late() const noexcept override { return true; }
  bool calls_user() const noexcept override { return true; }
  std::optional<std::chrono::nanoseconds> deadline() const noexcept override { return deadline_; }
  Retry retry() const noexcept override { return retry_; }
  void failed(const std::exception_ptr& error) const override { failed_(error); }
  void read(uint64_t offset, std::span<std::byte> into) const override {
    check_range(offset, into.size());
    read_(offset, into);
  }

 private:
  Read read_;
  Failed failed_;
  uint64_t length_;
  uint64_t block_;
  std::optional<std::chrono::nanoseconds> deadline_;
  Retry retry_;
};

}  // namespace uffd
