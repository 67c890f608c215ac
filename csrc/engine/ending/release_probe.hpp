// Finds by experiment what the running kernel does when a userfaultfd is let go of.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "engine/ending/lost_wake.hpp"
#include "engine/ending/release_generation.hpp"

namespace uffd {

struct ReleaseFinding {
  std::optional<ReleaseGeneration> generation;  // empty where the experiment could not decide
  std::string reason;                           // why it could not
  unsigned rounds = 0;                          // that agreed
  uint64_t minor_faults = 0;  // at most in one round: what tells nopage from retry
  double seconds = 0;
};

// Runs rounds in a child process until three agree, after one that is discarded; it is killed after
// 5 seconds and takes at most 256 MiB. Never throws for what the kernel or the user lacks: that is
// the reason then. One that the rounds contradict each other is a reason too.
ReleaseFinding probe_release();

// Counts the threads that bare UNREGISTER leaves asleep, in a child process and for that long.
// Empty where nothing could be counted. Zero lost is no proof: some kernels lose one in thousands.
std::optional<LostWakes> probe_lost_wakes(std::chrono::milliseconds limit);

}  // namespace uffd
