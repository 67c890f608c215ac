// How a target is to be served.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "engine/ending/ending.hpp"
#include "engine/guard/protocol.hpp"
#include "engine/serve/manager/install_choice.hpp"

namespace uffd {

// What becomes of pages that are present when serving begins, though nobody of ours installed them.
enum class Present {
  keep,    // they keep their bytes, and are counted
  refuse,  // the target is refused
};

struct TargetOptions {
  pid_t pid = 0;  // 0, or this process's own: this process
  Ending ending = Ending::automatic;
  std::optional<uint32_t> fault_around = {};  // pages; empty: learned from the faults
  bool received = false;   // the userfaultfd is another process's, which registers the regions
  bool registered = true;  // of a received one: by now; else see Manager::set_registered()
  bool verify = true;
  bool inline_faults = false;  // the target's threads resolve their own faults: see InlineFaults
  Install install = Install::automatic;
  bool collapse = false;  // into huge pages, after the ending
  bool awake = false;     // while it is served, idle CPUs sleep lightly: /dev/cpu_dma_latency at 0
  Present present = Present::keep;
  Beyond beyond = Beyond::automatic;
  // What a guard does when this process dies; not for memory of this process.
  std::optional<AfterDeath> guard = {};
  bool again = false;  // another manager has served the target before, and nobody has its ledger
  // The target may have dropped pages of its own then, which get their old bytes.
  bool trusts_pagemap = false;
  int completion = -1;  // a connected socket, which stays the caller's: see Completion
};

}  // namespace uffd
