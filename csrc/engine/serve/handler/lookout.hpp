// What a handler looks at now and then, between two batches, whether it is busy or not: whether its
// targets are gone, whether threads sleep unseen (Watchdog), and whether it pays to hold threads
// (Adoption). Some targets at a time, each once in kEvery. Used by the handler's thread alone.
#pragma once

#include <chrono>
#include <memory>
#include <span>

#include "engine/serve/handler/charge.hpp"

namespace uffd {

class Lookout {
 public:
  static constexpr std::chrono::nanoseconds kEvery = std::chrono::seconds(1);

  // When it is next to be called, by CLOCK_MONOTONIC.
  uint64_t next_look() const noexcept { return std::min(watch_at_, review_at_); }
  // To be called when a target with an Adoption has faulted: that may hold threads now.
  void expect_review(uint64_t now) noexcept;
  void look(std::span<const std::unique_ptr<Charge>> charges, uint64_t now) noexcept;

 private:
  void watch(std::span<const std::unique_ptr<Charge>> charges, uint64_t now) noexcept;
  void review_adoptions(std::span<const std::unique_ptr<Charge>> charges, uint64_t now) noexcept;

  uint64_t watch_at_ = 0;
  uint64_t review_at_ = 0;
  size_t next_ = 0;  // target
};

}  // namespace uffd
