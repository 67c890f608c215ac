// When to try again what the kernel refused for now: mmap_changing is raised (EAGAIN), memory is
// short (ENOMEM), no descriptor is left (EMFILE), or a fork of this process is under way.
//
// The only policy for that in the engine. What was refused is tried again at once kAtOnce times,
// each time after the CPU was given up, since EAGAIN lasts until the thread behind an event has
// run; then after pauses that grow from kShortest to kLongest. Nothing is given up, and no other
// thread waits for it. One thread's; pure.
#pragma once

#include <algorithm>
#include <chrono>

namespace uffd {

class Patience {
 public:
  static constexpr unsigned kAtOnce = 32;
  static constexpr std::chrono::microseconds kShortest{500};
  static constexpr std::chrono::microseconds kLongest{16'000};

  // Whether to give the CPU up and try again at once; after false, try again after pause().
  bool at_once() noexcept { return tries_ < kAtOnce && ++tries_ > 0; }
  std::chrono::microseconds pause() noexcept {
    tries_ = kAtOnce;
    pause_ = std::clamp(2 * pause_, kShortest, kLongest);
    return pause_;
  }
  // To be called when a try did something, or something else is tried.
  void renew() noexcept { *this = {}; }

 private:
  unsigned tries_ = 0;
  std::chrono::microseconds pause_{0};
};

}  // namespace uffd
