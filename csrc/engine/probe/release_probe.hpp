// Finds by experiment what the running kernel does when a userfaultfd is let go of.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "engine/probe/lost_wake.hpp"
#include "engine/probe/release_generation.hpp"

namespace uffd {

struct ReleaseFinding {
  std::optional<ReleaseGeneration> generation;  // empty where the experiment could not decide
  std::string reason;                           // why it could not
  unsigned rounds = 0;                          // that agreed
  uint64_t minor_faults = 0;  // at most in one round: what tells nopage from retry
  double seconds = 0;
};

// Runs rounds in a child process until three agree, after one that is discarded; the child is
// killed after 5 seconds and takes at most 256 MiB. What the kernel or the user lacks is not thrown
// but is the reason, and so is a contradiction between rounds.
ReleaseFinding probe_release();

// Counts the rounds in which bare UNREGISTER leaves a thread asleep, in a child process and for as
// long as limit. Empty where nothing could be counted. Zero lost is no proof: some kernels lose one
// in thousands.
std::optional<LostWakes> probe_lost_wakes(std::chrono::milliseconds limit);

}  // namespace uffd
