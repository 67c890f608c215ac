// What is known of the running kernel's release generation, and how: what an experiment of this
// boot has found, else the table of versions.
//
// What was found is kept in one file of the user, pyuffd/release-generation in $XDG_CACHE_HOME or
// ~/.cache, with the boot that it is true of.
#pragma once

#include <optional>
#include <string>

#include "engine/probe/release_probe.hpp"

namespace uffd {

struct KnownRelease {
  ReleaseGeneration generation;
  bool by_experiment = false;           // else by the table of versions
  unsigned rounds = 0;                  // of the experiment that agreed
  uint64_t minor_faults = 0;            // at most in one of its rounds
  std::optional<LostWakes> lost_wakes;  // of bare UNREGISTER, if they were counted
};

// Reads the file at every call: milliseconds at most, and never an experiment.
KnownRelease known_release();

// Keeps what was found, for this boot; false where no file can be written, which is no error. Only
// a finding that names a generation is kept.
bool remember_release(const ReleaseFinding& finding, const std::optional<LostWakes>& lost_wakes);

// Where it is kept; empty where the user has no home.
std::string release_file();

}  // namespace uffd
