// How a manager lets go of a target, and what it says about it.
//
// Owns nothing. let_go() takes a target that no handler or filler uses any more; the other
// functions may be called before and after that.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/target/target.hpp"

namespace uffd {

enum class Ending {
  automatic,    // early_close or unregister, whichever is safe
  early_close,  // close alone
  unregister,   // UNREGISTER and WAKE every region, then close
  keep_open,    // serve on
};

const char* name(Ending ending) noexcept;

struct EndingReport {
  Ending ending = Ending::keep_open;
  std::string reason;             // why this ending
  std::optional<double> seconds;  // from the first UNREGISTER or close to the return of the last
  std::optional<double> began;    // of CLOCK_MONOTONIC, in seconds: when letting go began
  uint64_t regions = 0;
  uint64_t missing_pages =
      0;  // never supplied: they read as zeros from now on, or sleep under keep_open
  uint64_t absent_pages = 0;     // not in registered memory when they were to be installed
  uint64_t found_present = 0;    // present, and installed by nobody of ours: kept as they were
  bool trusted_pagemap = false;  // which pages were missing was known by the pagemap alone
  std::optional<bool> verified;  // whether smaps shows no registered region any more
  std::optional<uint64_t> collapsed_bytes;  // into huge pages, afterwards; empty: not asked for
  std::vector<Range> poisoned;              // could not be supplied: touching them gives SIGBUS
};

struct Choice {
  Ending ending;
  std::string reason;
  std::function<void()> before_close = {};  // when nothing is registered any more under unregister
};

// Turns automatic into the ending that is safe here; any other ending stays as asked. Looks at
// descriptors in /proc.
Choice choose_ending(Ending asked, const Target& target);

// Closes the userfaultfd in that way; the report's verified is left empty.
EndingReport let_go(Target& target, const Choice& choice);

// Whether any region is registered, as smaps shows; true where it may not be read.
bool is_registered(const Target& target);

// Whether the target is really released: another holder's reference would keep it registered. Empty
// where its smaps may not be read.
std::optional<bool> verify_released(const Target& target);

}  // namespace uffd
